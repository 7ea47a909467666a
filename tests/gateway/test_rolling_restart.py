"""Rolling restarts: the whole gateway becomes another program, and no caller notices."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.gateway_process import GatewayProcess, TinyGateway, eventually, is_alive
from tests.support.load import Load
from tests.support.plain_gateway import CONFIGURATION, origin, running
from tests.support.samples import samples

ROLLS = 5


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[TinyGateway]:
    with TinyGateway(tmp_path) as running:
        yield running.wait_ready()


def roll(gateway: GatewayProcess) -> None:
    """One rolling restart, to its end."""
    done = len(gateway.logged("rolled"))
    gateway.signal(signal.SIGUSR2)
    eventually(lambda: len(gateway.logged("rolled")) > done, "the rolling restart is done")


def test_rolling_restarts_under_load_fail_no_call_on_new_or_kept_connections(tmp_path: Path) -> None:
    """Row 110: rolling upgrade: every process is replaced, the supervisor too, and no caller sees a refused connection, a
    reset or an answer that is not whole."""
    path = tmp_path / "gateway.yaml"
    with origin() as port:
        path.write_text(CONFIGURATION.format(origin=port, number=0))
        with running(path) as gateway:
            loads = [Load(gateway.port, clients=2), Load(gateway.port, clients=2, keep=True)]
            supervisor = gateway.process.pid
            seen = set(gateway.worker_pids())
            descriptors: list[int] = []
            for _ in range(ROLLS):
                for load in loads:
                    load.wait_until_answered(20)
                roll(gateway)
                fresh = set(gateway.worker_pids())
                assert len(fresh) == 2
                assert not fresh & seen
                seen |= fresh
                descriptors.append(len(os.listdir(f"/proc/{supervisor}/fd")))
                assert gateway.admin("/readyz")[0] == 200
            for load in loads:
                load.wait_until_answered(20)
                load.stop()
            assert [load.failures for load in loads] == [[], []]
            assert [load.refused_at for load in loads] == [None, None]
            assert loads[1].closes >= ROLLS, "kept connections were told to close, and were not cut"
            # A connection of the admin listener, and the channel of a spare that is being made, may be open or not.
            assert max(descriptors) - min(descriptors) <= 3, f"descriptors are left behind: {descriptors}"
            assert gateway.process.pid == supervisor
            assert gateway.process.poll() is None, "whoever runs the gateway sees one process that stays"
            gateway.signal(signal.SIGTERM)
            assert gateway.wait() == 0
        assert not any(map(is_alive, seen)), "no process of any generation is left"


def test_counters_and_the_generation_go_on_over_a_rolling_restart(gateway: TinyGateway) -> None:
    """Row 110: a counter that goes back is counted twice by Prometheus; a generation that does hides a change."""
    for _ in range(20):
        gateway.get()
    gateway.write("second")
    gateway.wait_for_log("reloaded")
    name = gateway.status()["node"]["name"]
    roll(gateway)
    gateway.get()
    assert gateway.status()["node"]["name"] == name, "the node is the same, and so is its memory of nonces"
    found = samples(gateway.admin("/metrics")[1])
    assert found["http_requests_total", (("method", "GET"), ("route", "tiny"), ("status", "200"))] == 21
    assert found["config_reloads_total", ()] == 1
    assert found["config_generation", ()] == gateway.status()["generation"] == 3
    assert found["gateway_workers_ready", ()] == 2
    assert gateway.get("/text") == "second"


def test_a_call_that_runs_is_finished_by_the_worker_that_has_it(gateway: TinyGateway, tmp_path: Path) -> None:
    """Row 110: a long call outlives its worker's place; meanwhile a second rolling restart is ignored, and told, or each one
    would add as many processes."""
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as client:
        client.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = client.recv(1000)
        before = gateway.worker_pids()
        gateway.signal(signal.SIGUSR2)
        eventually(lambda: len(gateway.logged("predecessor_drains")) == 2, "both are relieved")
        eventually(lambda: len(gateway.status()["predecessors"]) == 1, "the one with the call is left")
        assert len(gateway.wait_for_workers()) == 2
        gateway.signal(signal.SIGUSR2)
        assert gateway.wait_for_log("roll_ignored")["reason"] == "a rolling restart is under way"
        (tmp_path / "release").touch()
        while data := client.recv(1000):
            answer += data
    assert int(answer.partition(b"\r\n\r\n")[2]) in before
    gateway.wait_for_log("rolled")
    assert len(gateway.logged("hands_over")) == 1


def test_a_program_that_would_not_start_is_found_out_in_the_rehearsal(gateway: TinyGateway) -> None:
    """Rows 110, 111: an upgrade that does not fit the file, or a file that is not valid, costs nothing: not a call, not a
    process."""
    before = gateway.worker_pids()
    valid = gateway.path.read_text()
    for broken, told in (
        (valid + "unknown_field: 1\n", "unknown_field"),
        (valid.replace("port: 0", "port: 1"), "gateway."),
    ):
        gateway.path.write_text(broken)
        gateway.signal(signal.SIGUSR2)
        eventually(lambda told=told: told in (gateway.status()["roll_refused"] or ""), "the reason in the status")  # type: ignore[misc]  # mypy does not infer such a lambda
        assert gateway.logged("roll_refused")
    assert gateway.worker_pids() == before
    assert gateway.admin("/readyz")[0] == 200
    assert int(gateway.get()) in before
    assert gateway.logged("hands_over") == []
    gateway.path.write_text(valid)
    roll(gateway)
    assert not set(gateway.worker_pids()) & set(before)
    assert gateway.status()["roll_refused"] is None


def test_when_the_new_workers_cannot_start_those_of_before_serve_on(gateway: TinyGateway, tmp_path: Path) -> None:
    """Row 110: what a rehearsal can't find out must not take the service away either; once mended, it goes on by itself."""
    before = gateway.worker_pids()
    (tmp_path / "crash_at_start").touch()
    gateway.signal(signal.SIGUSR2)
    eventually(lambda: any(line["next_in_seconds"] for line in gateway.logged("process_ended")), "it keeps dying")
    assert {worker["name"] for worker in gateway.status()["workers"] if worker["restarts"]} == {"worker-0"}, (
        "one by one"
    )
    assert [each["pid"] for each in gateway.status()["predecessors"] if each["state"] == "serving"] == before
    assert gateway.admin("/readyz")[0] == 200, "nothing is missing"
    assert {int(gateway.get()) for _ in range(20)} == set(before)
    (tmp_path / "crash_at_start").unlink()
    gateway.wait_for_log("rolled")
    assert len(gateway.wait_for_workers()) == 2
    assert not any(map(is_alive, before))


def test_sigterm_amid_a_rolling_restart_ends_all_in_order(gateway: TinyGateway, tmp_path: Path) -> None:
    """Rows 108, 110: an end that comes at the worst moment finishes what runs, in workers of either program."""
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as client:
        client.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = client.recv(1000)
        pids = gateway.worker_pids()
        (tmp_path / "crash_at_start").touch()
        gateway.signal(signal.SIGUSR2)
        gateway.wait_for_log("process_ended")
        gateway.signal(signal.SIGTERM)
        eventually(lambda: len(gateway.logged("predecessor_drains")) == 2, "both are told to drain")
        (tmp_path / "release").touch()
        while data := client.recv(1000):
            answer += data
        assert int(answer.partition(b"\r\n\r\n")[2]) in pids
        assert gateway.wait() == 0
    assert not any(map(is_alive, pids))


def test_signals_that_come_between_the_two_programs_are_heard(gateway: TinyGateway) -> None:
    """Row 110: SIGHUP and SIGUSR2 would end a program that does not listen for them yet, and SIGTERM leave its workers in
    disorder."""
    gateway.signal(signal.SIGUSR2)
    gateway.wait_for_log("hands_over")
    gateway.signal(signal.SIGHUP)
    gateway.signal(signal.SIGUSR2)
    gateway.wait_for_log("rolled")
    gateway.wait_for_log("reloaded")
    assert gateway.process.poll() is None


def test_killing_the_supervisor_amid_a_rolling_restart_leaves_no_process_and_frees_the_port(
    gateway: TinyGateway, tmp_path: Path
) -> None:
    """Row 109: kill -9 the supervisor: a new one can bind at once, whatever was going on."""
    pids = gateway.worker_pids()
    (tmp_path / "crash_at_start").touch()
    gateway.signal(signal.SIGUSR2)
    gateway.wait_for_log("process_ended")
    port = gateway.port
    gateway.process.kill()
    gateway.process.wait()
    eventually(lambda: not any(map(is_alive, pids)), "no worker survives")
    (tmp_path / "crash_at_start").unlink()
    with TinyGateway(tmp_path, port=port) as second:
        assert int(second.wait_ready().get()) not in pids
