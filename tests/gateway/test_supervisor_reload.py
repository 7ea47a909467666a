"""Reload: what is valid takes effect everywhere at once, what is not changes nothing."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ostiary.core.model import Configuration
from ostiary.followed import FileWatch, Refused, read_whole
from tests.support.gateway import configuration
from tests.support.gateway_process import TinyGateway, eventually
from tests.support.samples import samples


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyGateway]:
    """For tests that leave the file valid, whatever its generation."""
    with TinyGateway(tmp_path_factory.mktemp("steady")) as running:
        yield running.wait_ready()


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[TinyGateway]:
    with TinyGateway(tmp_path) as running:
        yield running.wait_ready()


def routes_served(gateway: TinyGateway) -> set[str]:
    """What the workers that answer ten new connections serve."""
    return {gateway.get("/text") for _ in range(10)}


def reload_failures(gateway: TinyGateway) -> float:
    return samples(gateway.admin("/metrics")[1])["config_reload_failures_total", ()]


def test_sighup_brings_a_valid_file_in_force_in_every_worker(gateway: TinyGateway) -> None:
    """A worker left behind would answer by other rules than its siblings."""
    pids = gateway.worker_pids()
    gateway.write("first", "second")
    gateway.signal(signal.SIGHUP)
    gateway.wait_for_log("reloaded", generation=2)
    assert routes_served(gateway) == {"first,second"}
    status = gateway.status()
    assert status["generation"] == 2
    assert status["last_reload"]["result"] == "applied"
    assert [worker["generation"] for worker in status["workers"]] == [2, 2]
    assert gateway.worker_pids() == pids, "no process was replaced"
    assert samples(gateway.admin("/metrics")[1])["config_generation", ()] == 2


def test_a_worker_that_dies_after_a_reload_comes_back_with_the_new_configuration(gateway: TinyGateway) -> None:
    """Otherwise one death would undo a reload in one worker, and the answers depend on which one takes the call."""
    gateway.write("second")
    gateway.wait_for_log("reloaded", generation=2)
    victim = gateway.worker_pids()[0]
    os.kill(victim, signal.SIGKILL)
    gateway.wait_for_workers(without=victim)
    assert routes_served(gateway) == {"second"}
    assert [worker["generation"] for worker in gateway.status()["workers"]] == [2, 2]


def test_a_changed_file_is_noticed_without_a_signal(gateway: TinyGateway) -> None:
    """A mounted configuration changes without anyone who could send a signal."""
    gateway.write("changed")
    gateway.wait_for_log("reloaded", generation=2)
    assert routes_served(gateway) == {"changed"}


# Nine levels of nine: 387 million strings, if aliases were followed.
YAML_BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, 9)
)
INVALID: dict[str, tuple[Callable[[TinyGateway], str | None], str]] = {
    "invalid YAML": (lambda gateway: "version: 1\nroutes: [", "gateway.yaml:"),
    "unknown field": (lambda gateway: gateway.configuration("first") + "unknown_field: 1\n", "unknown_field"),
    "missing file": (lambda gateway: None, "gateway.yaml"),
    "half-written file": (
        lambda gateway: gateway.configuration("first")[: len(gateway.configuration("first")) * 2 // 3],
        "gateway.yaml:",
    ),
    "empty file": (lambda gateway: "", "gateway.yaml"),
    "python object": (lambda gateway: "!!python/object/apply:os.system ['true']\n", "gateway.yaml:"),
    "duplicate key": (lambda gateway: gateway.configuration("first") + "version: 1\n", "gateway.yaml:"),
    "YAML bomb": (lambda gateway: YAML_BOMB, "gateway.yaml:"),
    "50 MiB": (lambda gateway: gateway.configuration("first") + "# " + "x" * 50 * 1024 * 1024 + "\n", "gateway.yaml"),
    "another port": (lambda gateway: gateway.configuration("first", port=1), "gateway.listen"),
    "another number of workers": (lambda gateway: gateway.configuration("first", workers=3), "gateway.listen"),
    "another spool": (lambda gateway: gateway.configuration("first", directory="/tmp/elsewhere"), "stores.spool"),
}


@pytest.mark.parametrize("case", INVALID)
def test_a_refused_file_leaves_the_configuration_in_force_and_is_told(steady: TinyGateway, case: str) -> None:
    """Row 111: refused with file and line in the log and /status, counted, and the old configuration serves on."""
    content, told = INVALID[case]
    before = steady.status()
    failures = reload_failures(steady)
    served = routes_served(steady)
    text = content(steady)
    if text is None:
        steady.path.unlink()
    else:
        steady.path.write_text(text)
    steady.signal(signal.SIGHUP)
    # The file may have been noticed before the signal came: then it was refused twice.
    eventually(lambda: reload_failures(steady) > failures, "the failure is counted")

    status = steady.status()
    assert status["last_reload"]["result"] == "refused"
    assert any(told in problem for problem in status["last_reload"]["problems"]), status["last_reload"]
    steady.wait_for_log("reload_refused", problems=status["last_reload"]["problems"])
    assert status["generation"] == status["last_reload"]["generation"] == before["generation"]
    assert steady.worker_pids() == [worker["pid"] for worker in before["workers"]]
    assert routes_served(steady) == served
    assert steady.admin("/readyz")[0] == 200

    name = f"mended-{before['generation']}"
    steady.write(name)
    steady.wait_for_log("reloaded", generation=before["generation"] + 1)
    assert routes_served(steady) == {name}


def test_a_worker_that_dies_after_a_refusal_comes_back_with_what_is_in_force(gateway: TinyGateway) -> None:
    """Row 111: otherwise a refused file, or a missing one, would take a worker away at its next death."""
    gateway.path.unlink()
    gateway.wait_for_log("reload_refused", generation=1)
    victim = gateway.worker_pids()[0]
    os.kill(victim, signal.SIGKILL)
    gateway.wait_for_log("process_ended")
    gateway.wait_for_workers(without=victim)
    assert routes_served(gateway) == {"first"}


def test_a_file_that_a_worker_refuses_reaches_no_other_worker(gateway: TinyGateway) -> None:
    """Row 111: what only a worker can find out (a certificate that does not fit) must not leave half of them changed."""
    pids = gateway.worker_pids()
    gateway.write("first", "refused-by-worker")
    gateway.wait_for_log("reload_refused", generation=1, process="supervisor")
    assert routes_served(gateway) == {"first"}
    (problem,) = gateway.status()["last_reload"]["problems"]
    assert "does not take the route refused-by-worker" in problem
    assert gateway.worker_pids() == pids, "a refusal costs no process and no call"


def test_a_file_being_written_is_not_taken(tmp_path: Path) -> None:
    """Row 111: the first half of a file may be a valid one, with half of the routes."""
    path = tmp_path / "gateway.yaml"
    path.write_text("whole\n")
    watch = FileWatch(path)
    assert not watch.came_to_rest()
    text = ""
    for part in ("one\n", "two\n", "three\n"):
        text += part
        path.write_text(text)
        assert not watch.came_to_rest(), "it is still changing"
    assert watch.came_to_rest()
    watch.mark_read()
    assert not watch.came_to_rest(), "a file that was read, valid or not, is not read again"
    path.unlink()
    assert not watch.came_to_rest()
    assert watch.came_to_rest(), "that it is gone is told once"
    watch.mark_read()
    assert not watch.came_to_rest()


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    """Row 111: SIGHUP may come in the middle of a write; what was read may be half of it and valid."""
    path = tmp_path / "gateway.yaml"
    path.write_text("half\n")

    def load_beside_a_writer(path: Path) -> Configuration:
        path.write_text("half\nand the rest\n")
        return configuration([], [])

    with pytest.raises(Refused, match="changed while it was being read"):
        read_whole(path, load_beside_a_writer, FileWatch(path))
    assert read_whole(path, lambda path: configuration([], []), FileWatch(path)) == configuration([], [])


def test_a_defect_of_the_loader_refuses_the_file_and_ends_nothing(tmp_path: Path) -> None:
    """Row 111: whatever a file makes the loader do, the configuration in force stays."""

    def broken(path: Path) -> Configuration:
        raise RecursionError("deep")

    with pytest.raises(Refused, match="RecursionError"):
        read_whole(tmp_path / "gateway.yaml", broken, FileWatch(tmp_path / "gateway.yaml"))


def test_a_symbolic_link_that_is_switched_counts_as_a_change(tmp_path: Path) -> None:
    """Kubernetes mounts configuration as links that it switches."""
    for name in ("one", "two"):
        (tmp_path / name).write_text("same length\n")
        os.utime(tmp_path / name, (1, 1))
    link = tmp_path / "gateway.yaml"
    link.symlink_to("one")
    watch = FileWatch(link)
    (tmp_path / "fresh").symlink_to("two")
    (tmp_path / "fresh").replace(link)
    assert not watch.came_to_rest()
    assert watch.came_to_rest()
