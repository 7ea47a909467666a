"""What a process of the gateway uses, read from /proc."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ProcessUsage:
    resident_bytes: int
    cpu_seconds: float
    open_descriptors: int


def process_usage(pid: int) -> ProcessUsage | None:
    """None when the process is gone, or where there is no /proc."""
    directory = Path("/proc") / str(pid)
    try:
        resident_pages = int((directory / "statm").read_text().split()[1])
        # The command name stands in parentheses and may hold spaces; fields are counted from behind it (proc(5)).
        fields = (directory / "stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[11]) + int(fields[12])
        with os.scandir(directory / "fd") as entries:
            descriptors = sum(1 for _ in entries)
    except (OSError, IndexError, ValueError):
        return None
    return ProcessUsage(resident_pages * os.sysconf("SC_PAGE_SIZE"), ticks / os.sysconf("SC_CLK_TCK"), descriptors)
