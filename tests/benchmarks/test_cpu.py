from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import cpu

# Burns CPU for a while, then says how much by the process's own account, and waits to be ended.
BURN = """
import sys, time
began = time.process_time()
while time.process_time() - began < 0.3: pass
print(time.process_time() - began, flush=True)
sys.stdin.read()
"""


def test_cpu_of_another_process_is_counted_to_the_millisecond() -> None:
    """Every figure of the bench rests on this count."""
    with subprocess.Popen([sys.executable, "-c", BURN], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        before = cpu.thread_times([process.pid])
        burnt = float(process.stdout.readline())
        spent = cpu.seconds_between(before, cpu.thread_times([process.pid]))
        process.communicate()
    # Starting Python, partly before the first reading, is in the count too.
    assert burnt - 0.005 <= spent <= burnt + 0.3


def test_threads_born_in_between_count_whole_and_dead_ones_are_left_out() -> None:
    """A negative difference would make a side look cheaper than it is."""
    before = {(1, 1): 5_000_000_000, (1, 2): 7_000_000_000}
    assert cpu.seconds_between(before, {(1, 1): 6_000_000_000, (1, 3): 500_000_000}) == pytest.approx(1.5)


def test_a_process_that_has_ended_spends_nothing() -> None:
    """A worker that ends while it is read must not end the bench."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert cpu.thread_times([process.pid]) == {}
    assert cpu.command_line(process.pid) == ""


def test_descendants_are_found_below_children() -> None:
    """A worker left out would run for free."""
    inner = "import sys, time; print(1, flush=True); sys.stdin.read()"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    with subprocess.Popen([sys.executable, "-c", outer], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        found = cpu.descendants(process.pid)
        commands = [cpu.command_line(pid) for pid in found]
        process.communicate()
    assert process.pid in found
    assert len(found) == 2
    assert any(inner in command and "subprocess" not in command for command in commands)


def test_the_parent_is_read_behind_a_command_with_parentheses(tmp_path: Path) -> None:
    """A program named `a) b (c` must not be taken for a child of process 0."""
    for pid, parent in ((10, 1), (11, 10)):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "stat").write_text(f"{pid} (a) b (c) S {parent} 0 0")
    assert cpu.descendants(10, proc=tmp_path) == {10, 11}


def test_a_core_is_busy_by_all_that_runs_on_it() -> None:
    """Noise is told by this share."""
    core = min(os.sched_getaffinity(0))
    before = cpu.core_times(core)
    deadline = time.monotonic() + 0.3
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        while time.monotonic() < deadline:
            pass
    finally:
        os.sched_setaffinity(0, allowed)
    assert cpu.core_times(core).busy_share_since(before) > 0.8
    with pytest.raises(LookupError):
        cpu.core_times(10_000)
