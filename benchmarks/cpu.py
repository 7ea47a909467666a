"""CPU time of processes and of cores, as the kernel's scheduler accounts it.

`/proc/PID/task/TID/schedstat` counts nanoseconds on a core; `getrusage` and `/proc/PID/stat` count ticks of 10 ms, far too
coarse for some 20 µs a request."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")

# (process, thread) → nanoseconds on a core since the thread began
ThreadTimes = Mapping[tuple[int, int], int]


def thread_times(pids: Iterable[int], *, proc: Path = PROC) -> ThreadTimes:
    """What each thread of these processes has spent. A process or thread that ends meanwhile is left out."""
    times: dict[tuple[int, int], int] = {}
    for pid in pids:
        try:
            threads = os.listdir(proc / str(pid) / "task")
        except FileNotFoundError:
            continue
        for thread in threads:
            try:
                text = (proc / str(pid) / "task" / thread / "schedstat").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            times[pid, int(thread)] = int(text.split()[0])
    return times


def seconds_between(before: ThreadTimes, after: ThreadTimes) -> float:
    """CPU seconds spent from one reading to the other. Threads born in between count whole; of a thread that ended in
    between nothing is known after `before`, so measured processes should keep their threads."""
    return sum(spent - before.get(thread, 0) for thread, spent in after.items()) / 1e9


def descendants(root: int, *, proc: Path = PROC) -> frozenset[int]:
    """The process and all processes below it, as of now."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir(proc):
        if not entry.isdigit():
            continue
        try:
            stat = (proc / entry / "stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        # The second field is the command in parentheses, and may itself hold spaces and parentheses.
        parent = int(stat.rpartition(")")[2].split()[1])
        children.setdefault(parent, []).append(int(entry))
    found, todo = set[int](), [root]
    while todo:
        pid = todo.pop()
        found.add(pid)
        todo += children.get(pid, ())
    return frozenset(found)


def command_line(pid: int, *, proc: Path = PROC) -> str:
    """The arguments of a process, joined by spaces; empty when it has ended."""
    try:
        return (proc / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


@dataclass(frozen=True, slots=True)
class CoreTimes:
    """Seconds a core has been busy (with anything, a host that took it away included) and idle, since boot or in a span."""

    busy_seconds: float
    idle_seconds: float

    def busy_share_since(self, before: CoreTimes) -> float:
        """0 to 1; 0 when no time has passed."""
        return (self - before).busy_share

    @property
    def busy_share(self) -> float:
        """Of a span of time: 0 to 1; 0 when none has passed."""
        whole = self.busy_seconds + self.idle_seconds
        return self.busy_seconds / whole if whole > 0 else 0.0

    def __sub__(self, before: CoreTimes) -> CoreTimes:
        return CoreTimes(self.busy_seconds - before.busy_seconds, self.idle_seconds - before.idle_seconds)

    def __add__(self, more: CoreTimes) -> CoreTimes:
        return CoreTimes(self.busy_seconds + more.busy_seconds, self.idle_seconds + more.idle_seconds)


def core_times(core: int, *, proc: Path = PROC) -> CoreTimes:
    """Raises LookupError for a core that is not there."""
    for line in (proc / "stat").read_text().splitlines():
        name, _, rest = line.partition(" ")
        if name == f"cpu{core}":
            ticks = [int(field) for field in rest.split()[:8]]  # user nice system idle iowait irq softirq steal
            tick_seconds = 1 / os.sysconf("SC_CLK_TCK")
            idle = ticks[3] + ticks[4]
            return CoreTimes((sum(ticks) - idle) * tick_seconds, idle * tick_seconds)
    raise LookupError(f"this machine has no core {core}")
