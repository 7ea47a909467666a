from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import cpu
from benchmarks.processes import OTHER_CORE, DidNotStart, Processes, free_port

# Listens on the port given, with a child of its own, and takes no notice of SIGTERM.
STUBBORN = """
import signal, socket, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True: server.accept()
"""


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_gone(pids: frozenset[int]) -> None:
    deadline = time.monotonic() + 10
    while any(is_running(pid) for pid in pids):
        assert time.monotonic() < deadline, f"still running: {pids}"
        time.sleep(0.02)


def test_nothing_is_left_even_of_a_server_that_ignores_its_end(tmp_path: Path) -> None:
    """A proxy left behind would take CPU from every later measurement."""
    port, tree = free_port(), frozenset[int]()

    def interrupted() -> None:
        nonlocal tree
        with Processes(tmp_path, stop_seconds=0.2) as processes:
            started = processes.start("stubborn", [sys.executable, "-c", STUBBORN, str(port)], core=OTHER_CORE)
            processes.wait_until_listening(started, port)
            assert os.sched_getaffinity(started.pid) == {OTHER_CORE}
            tree = cpu.descendants(started.pid)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(tree) == 2
    wait_until_gone(tree)


def test_a_server_ends_with_a_bench_that_is_killed(tmp_path: Path) -> None:
    """`kill -9` runs no clean-up; the kernel's is what is left."""
    script = (
        "import sys; from pathlib import Path; from benchmarks.processes import Processes, OTHER_CORE\n"
        f"processes = Processes(Path({str(tmp_path)!r}))\n"
        "started = processes.start('sleep', ['sleep', '60'], core=OTHER_CORE)\n"
        "print(started.pid, flush=True); sys.stdin.read()\n"
    )
    bench = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with bench:
        assert bench.stdout is not None
        pid = int(bench.stdout.readline())
        assert is_running(pid)
        bench.send_signal(signal.SIGKILL)
    wait_until_gone(frozenset({pid}))


def test_a_server_that_ends_at_once_is_told_with_its_last_words(tmp_path: Path) -> None:
    """A peer with a wrong configuration says so itself; its words must reach the reader."""
    with Processes(tmp_path) as processes:
        started = processes.start("broken", [sys.executable, "-c", "exit('no such option')"], core=OTHER_CORE)
        with pytest.raises(DidNotStart, match="broken ended with status 1:\nno such option"):
            processes.wait_until_listening(started, free_port())


def test_a_server_that_never_listens_is_given_up(tmp_path: Path) -> None:
    """A bench that waits for ever is worse than one that fails."""
    with Processes(tmp_path, ready_seconds=0.1) as processes:
        started = processes.start("silent", ["sleep", "60"], core=OTHER_CORE)
        with pytest.raises(DidNotStart, match="did not listen"):
            processes.wait_until_listening(started, free_port())
