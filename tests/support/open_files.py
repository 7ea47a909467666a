"""What a process has open."""

from __future__ import annotations

import contextlib
import os


def open_files(pid: int) -> dict[int, str]:
    """What each descriptor of a process is, but for those that it closes while this looks."""
    found: dict[int, str] = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            found[int(name)] = os.readlink(f"/proc/{pid}/fd/{name}")
    return found
