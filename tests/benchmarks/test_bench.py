"""The whole command, with the real gateway, real stores, and peers that are Debian packages."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks import cpu
from benchmarks.processes import REPOSITORY

pytestmark = pytest.mark.full


@pytest.fixture
def place() -> Iterator[Path]:
    """Where one bench keeps all it makes. Short, because the path of a Unix socket may have 107 characters."""
    place = Path(tempfile.mkdtemp(prefix="b-"))
    place.chmod(0o711)  # the Postgres of the wheels does not run as root, and must be able to enter
    yield place
    shutil.rmtree(place)


def bench(place: Path, *arguments: str) -> subprocess.Popen[str]:
    """With SIGINT as a terminal gives it: what a shell runs in the background ignores it, and so do its children."""
    return subprocess.Popen(
        ["env", "--default-signal=INT", sys.executable, "-m", "benchmarks", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "TMPDIR": str(place)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def started_by_bench(place: Path) -> list[str]:
    """Command lines of what a bench has started: each names its directory, or is in it."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                where = os.readlink(f"/proc/{entry}/cwd")
            except OSError:
                continue  # it has ended
            command = cpu.command_line(int(entry))
            if f"{place}/" in f"{command} {where}/":
                found.append(command)
    return found


def wait_for(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def test_a_quick_run_measures_the_whole_job_and_leaves_nothing(tmp_path: Path, place: Path) -> None:
    """Gateway, peers, stores and harness must fit together, or no figure of ours can be had."""
    figures = tmp_path / "results" / "figures.json"
    peers = "nginx-lua,nginx-lua-nonce"
    process = bench(place, "whole-job", "usage", "--quick", "--peers", peers, "--json", str(figures))
    printed, progress = process.communicate(timeout=180)
    assert process.returncode == 0, progress
    assert "every call is metered" in printed
    written = json.loads(figures.read_text())
    assert [line["row"] for line in written["table"]] == ["1", "1b", "8"]
    assert [line.split()[0] for line in printed.splitlines() if line.strip()][-4:] == ["row", "1", "1b", "8"]
    job = written["scenarios"]["whole-job"]
    assert set(job["samples"]) == {"ostiary", "nginx-lua", "nginx-lua-nonce"}
    assert all(len(runs) == 2 for runs in job["samples"].values())
    for role in ("gateway", "redis", "shipper", "postgres", "supervisor"):
        assert all(run["cpu_us"][role] > 0 for run in job["samples"]["ostiary"])
    assert job["check"]["rows"] >= job["check"]["answered"] > 100
    wait_for(lambda: not started_by_bench(place), "something of the bench is still running")


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 1), (signal.SIGKILL, -9)])
def test_a_bench_that_is_ended_leaves_nothing_running(sent: signal.Signals, status: int, place: Path) -> None:
    """A gateway, a Postgres or a load generator left behind would disturb every later measurement."""
    process = bench(place, "whole-job", "--quick", "--peers", "nginx-lua")
    assert process.stderr is not None
    while "warmed up nginx-lua" not in (line := process.stderr.readline()):
        assert line, "the bench ended before it was warmed up"
    assert len(started_by_bench(place)) >= 6
    process.send_signal(sent)
    process.communicate(timeout=60)
    assert process.returncode == status
    assert sent is signal.SIGKILL or not list(place.glob("ostiary-bench-*"))
    wait_for(lambda: not started_by_bench(place), "something of the bench is still running")
