"""The processes of the gateway: real ones, with a tiny service in the workers."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ostiary.gateway.deaths import DEATHS_FREE
from tests.support.gateway_process import SECRET, TinyGateway, eventually, is_alive
from tests.support.open_files import open_files
from tests.support.samples import samples
from tests.support.waiting import MACHINE_SECONDS


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyGateway]:
    """For tests that only look."""
    with TinyGateway(tmp_path_factory.mktemp("steady")) as running:
        yield running.wait_ready()


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[TinyGateway]:
    with TinyGateway(tmp_path) as running:
        yield running.wait_ready()


def served_by(gateway: TinyGateway) -> int:
    return int(gateway.get())


# --- deaths -----------------------------------------------------------------------------------------------------------


@pytest.mark.alone
def test_a_killed_worker_is_replaced_within_a_second_and_the_others_serve_on(gateway: TinyGateway) -> None:
    """Row 109: kill -9 one worker: only its calls in flight fail; a new one serves within a second."""
    victim, other = gateway.worker_pids()
    killed_at = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    # Not when its process is a zombie: its sockets stay open until the last of its threads has ended, and then it is reaped.
    gateway.wait_for_log("process_ended")
    assert served_by(gateway) != victim, "new connections go to the other at once"
    replaced = gateway.wait_for_workers(without=victim)
    assert time.monotonic() - killed_at < 1.0
    assert other in replaced
    assert gateway.admin("/readyz")[0] == 200
    (ended,) = gateway.logged("process_ended")
    assert ended["ended"] == "signal SIGKILL"
    worker = next(worker for worker in gateway.status()["workers"] if worker["name"] == ended["name"])
    assert worker["restarts"] == 1


def test_a_dead_worker_is_replaced_by_the_process_in_reserve(gateway: TinyGateway) -> None:
    """Row 109: importing takes longer than a second on a busy machine; what replaces a worker must have done it before."""
    spare = eventually(lambda: gateway.status()["spare"]["pid"], "a process in reserve")
    victim = gateway.worker_pids()[0]
    os.kill(victim, signal.SIGKILL)
    assert spare in gateway.wait_for_workers(without=victim)
    fresh = eventually(lambda: gateway.status()["spare"]["pid"], "another one in reserve")
    assert fresh not in {spare, *gateway.worker_pids()}


def test_counters_go_on_when_a_worker_is_replaced(gateway: TinyGateway) -> None:
    """Row 109: a replaced worker must not make a counter go back, or Prometheus counts its calls twice."""
    for _ in range(20):
        gateway.get()
    for pid in gateway.worker_pids():
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: len(gateway.logged("process_ended")) == 2, "both deaths")
    gateway.wait_for_workers()
    gateway.get()
    found = samples(gateway.admin("/metrics")[1])
    assert found["http_requests_total", (("method", "GET"), ("route", "tiny"), ("status", "200"))] == 21
    restarts = [value for (name, _), value in found.items() if name == "gateway_process_restarts_total"]
    assert sum(restarts) == 2


def test_a_worker_that_keeps_dying_is_restarted_ever_more_slowly_and_readiness_is_red(
    gateway: TinyGateway, tmp_path: Path
) -> None:
    """Row 109: a crash loop must not eat the machine, and load balancers must turn to another gateway."""
    (tmp_path / "crash_at_start").touch()
    os.kill(gateway.worker_pids()[0], signal.SIGKILL)
    slowed = eventually(
        lambda: [line for line in gateway.logged("process_ended") if line["next_in_seconds"] >= 0.25],
        "a slower restart",
    )
    delays = [line["next_in_seconds"] for line in gateway.logged("process_ended", name=slowed[0]["name"])]
    assert delays[:DEATHS_FREE] == [0] * DEATHS_FREE
    assert delays == sorted(delays)
    status, body = gateway.admin("/readyz")
    assert status == 503
    assert f"{slowed[0]['name']} keeps dying" in body
    assert gateway.admin("/healthz") == (200, "ok\n"), "restarting the whole gateway would mend nothing"
    assert served_by(gateway), "the other worker serves"

    (tmp_path / "crash_at_start").unlink()
    gateway.wait_for_workers()


def test_workers_leave_when_the_supervisor_is_killed_and_finish_what_runs(tmp_path: Path) -> None:
    """Row 109: kill -9 the supervisor: workers without one would hold the port and serve an old configuration forever."""
    with TinyGateway(tmp_path) as gateway:
        pids = gateway.wait_ready().worker_pids()
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as client:
            client.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
            head = client.recv(1000)
            assert head.startswith(b"HTTP/1.1 200")
            gateway.process.kill()
            gateway.wait_for_log("supervisor_gone")
            (tmp_path / "release").touch()
            rest = head.partition(b"\r\n\r\n")[2]
            while data := client.recv(1000):
                rest += data
        assert int(rest) in pids, "the call that ran was answered whole"
        eventually(lambda: not any(map(is_alive, pids)), "no worker survives")


def test_after_the_supervisor_is_killed_a_new_gateway_serves_while_the_last_calls_of_the_old_one_run(
    tmp_path: Path,
) -> None:
    """Row 109: kill -9 the supervisor: whoever restarts it must not be told that the port is in use for as long as a call of
    before runs, which may be the whole of gateway.drain."""
    with TinyGateway(tmp_path) as gateway:
        pids = gateway.wait_ready().worker_pids()
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as client:
            client.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = client.recv(1000)
            gateway.process.kill()
            eventually(lambda: refused(gateway.port), "the old workers have closed their sockets")
            with TinyGateway(tmp_path, port=gateway.port) as second:
                assert served_by(second.wait_ready()) not in pids
                (tmp_path / "release").touch()
                while data := client.recv(1000):
                    answer += data
        assert int(answer.partition(b"\r\n\r\n")[2]) in pids


def refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=10).close()
    except ConnectionRefusedError:
        return True
    except OSError:  # a SYN that a draining socket drops
        return False
    return False


def test_a_worker_that_hangs_is_ended_and_replaced_and_says_where_it_hung(gateway: TinyGateway) -> None:
    """A worker whose loop stands still holds a share of all new connections until someone notices."""
    before = set(gateway.worker_pids())
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as client:
        client.sendall(b"GET /hang HTTP/1.1\r\nHost: x\r\n\r\n")
        gateway.wait_for_log("process_hangs")
    gateway.wait_for_log("process_ended", ended="signal SIGABRT")
    eventually(lambda: len(set(gateway.worker_pids()) - before) == 1, "a new worker")
    assert "time.sleep(3600)" in "".join(gateway.text) or "tiny_service.py" in "".join(gateway.text)


# --- ends -------------------------------------------------------------------------------------------------------------


def test_the_second_sigterm_ends_at_once(gateway: TinyGateway, tmp_path: Path) -> None:
    """Row 108: SIGTERM twice: an operator who can't wait is not made to."""
    pids = gateway.worker_pids()
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as client:
        client.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        client.recv(1000)
        gateway.signal(signal.SIGTERM)
        gateway.wait_for_log("draining")
        asked_at = time.monotonic()
        gateway.signal(signal.SIGTERM)
        assert gateway.wait() == 1
        assert time.monotonic() - asked_at < 3 + MACHINE_SECONDS
    assert not any(map(is_alive, pids))


def test_a_call_longer_than_the_deadline_is_cut_and_the_exit_is_in_order(tmp_path: Path) -> None:
    """Row 108: a long request beyond the grace: the gateway ends when it said it would."""
    with TinyGateway(tmp_path, drain="1s") as gateway:
        gateway.wait_ready()
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as client:
            client.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
            client.recv(1000)
            gateway.signal(signal.SIGTERM)
            asked_at = time.monotonic()
            assert gateway.wait() == 0
            assert 0.9 < time.monotonic() - asked_at < 4 + MACHINE_SECONDS


def test_sigterm_to_one_worker_replaces_that_one_in_order(gateway: TinyGateway) -> None:
    """An operator may recycle a worker; its calls are finished and the gateway stays whole."""
    first, second = gateway.worker_pids()
    os.kill(first, signal.SIGTERM)
    gateway.wait_for_log("process_ended", ended="exit status 0")
    assert second in gateway.wait_for_workers(without=first)


def test_workers_heed_no_keyboard_and_no_hangup(gateway: TinyGateway) -> None:
    """Ctrl-C and a closed terminal go to the whole process group; the order of the end is the supervisor's to keep."""
    pids = gateway.worker_pids()
    for pid in pids:
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGHUP)
    assert served_by(gateway) in pids
    gateway.signal(signal.SIGINT)
    assert gateway.wait() == 0
    assert gateway.logged("process_ended") == []


# --- starts -----------------------------------------------------------------------------------------------------------


def test_a_port_in_use_is_told_before_any_worker_starts(steady: TinyGateway, tmp_path: Path) -> None:
    """A second gateway on the same port would share its calls with the first one, by chance."""
    with TinyGateway(tmp_path, port=steady.port) as second:
        assert second.wait() == 1
        assert f"can't listen on 127.0.0.1:{steady.port}: another process uses it" in "".join(second.text)
        assert second.logged("started") == []


def test_a_service_that_says_why_it_cannot_start_ends_the_gateway_with_that_reason(tmp_path: Path) -> None:
    """At the first start an operator is looking: a loop of restarts would hide the reason."""
    (tmp_path / "cannot_start").touch()
    with TinyGateway(tmp_path) as gateway:
        assert gateway.wait() == 1
        assert "can't start: the file cannot_start is there; remove it" in gateway.text[-1]


def test_the_same_reason_later_shows_in_the_status_and_the_gateway_serves_on(
    gateway: TinyGateway, tmp_path: Path
) -> None:
    """What could be served yesterday is still served by the workers that live."""
    (tmp_path / "cannot_start").touch()
    os.kill(gateway.worker_pids()[0], signal.SIGKILL)
    eventually(lambda: any(worker["problem"] for worker in gateway.status()["workers"]), "the problem in the status")
    assert served_by(gateway)
    assert gateway.process.poll() is None


# --- what it tells ----------------------------------------------------------------------------------------------------


def test_the_status_names_every_process_and_its_state(steady: TinyGateway) -> None:
    """The first page an operator opens."""
    status = eventually(
        lambda: (found := steady.status())["workers"][1]["reported"] and found["workers"][0]["reported"] and found,
        "the reports of both workers",
    )
    assert status["state"] == "serving"
    assert status["ready"] is True
    assert status["generation"] == 1
    assert status["last_reload"] is None
    assert [worker["name"] for worker in status["workers"]] == ["worker-0", "worker-1"]
    for worker in status["workers"]:
        assert is_alive(worker["pid"])
        assert worker["state"] == "ready"
        assert worker["restarts"] == 0
        assert worker["since"] <= time.time()
        assert worker["reported"] == {"requests": 0}


def test_metrics_tell_of_every_process(steady: TinyGateway) -> None:
    """Memory that grows must be seen, and in which process."""
    found = samples(steady.admin("/metrics")[1])
    for process in ("supervisor", "worker-0", "worker-1"):
        assert found["process_resident_memory_bytes", (("process", process),)] > 5_000_000
        assert found["process_open_fds", (("process", process),)] > 3
    assert found["gateway_workers_ready", ()] == 2
    assert found["config_generation", ()] == 1


def test_no_secret_is_in_an_argument_list_the_log_the_status_or_the_metrics(steady: TinyGateway) -> None:
    """The canary secret of the configuration shows nowhere that others can read."""
    for pid in (steady.process.pid, *steady.worker_pids()):
        assert SECRET.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
    steady.signal(signal.SIGHUP)
    steady.wait_for_log("reloaded")
    shown = "".join(steady.text) + steady.admin("/status")[1] + steady.admin("/metrics")[1]
    assert SECRET not in shown


def test_a_worker_shares_no_descriptor_with_another_process(steady: TinyGateway) -> None:
    """A descriptor of a sibling's channel would keep that one alive after the supervisor's death, and one of its socket
    would take calls that nobody answers."""
    seen: list[set[str]] = []
    for pid in (steady.process.pid, *steady.worker_pids()):
        links = {link for fd, link in open_files(pid).items() if fd > 2}
        seen.append({link for link in links if "socket:" in link})
        if pid != steady.process.pid:
            shared = {link.partition("memfd:ostiary-")[2].split()[0] for link in links if "memfd:ostiary-" in link}
            assert "node" in shared, "what the workers share"
            assert len(shared) == 2, "its own counters, and no other's"
    assert all(seen)
    assert len(set.union(*seen)) == sum(map(len, seen))
