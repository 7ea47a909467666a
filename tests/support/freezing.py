"""Processes that hang."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.support.gateway_process import eventually


def freeze(pid: int) -> None:
    """Stops a process. On a busy machine its threads run on for a moment, and may answer: returns when none does any more."""
    os.kill(pid, signal.SIGSTOP)
    tasks = Path(f"/proc/{pid}/task")
    eventually(lambda: all(_state(task) == "T" for task in tasks.iterdir()), f"process {pid} has stopped")


def _state(task: Path) -> str:
    try:
        return (task / "stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
        return "T"
