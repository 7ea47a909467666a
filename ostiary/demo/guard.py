"""A small process that outlives its owner by a moment, to end what the owner started and could not end itself.

The embedded servers and the demo clean up after themselves when they are asked to stop. Nobody asks before `kill -9`, an
out-of-memory kill or a crash; then the pipe between the owner and its guard closes, and the guard does the cleaning.
(Linux's PR_SET_PDEATHSIG would do for direct children, but not on macOS, and it is lost when a child changes its user.)

The same file is the guard's program: it runs as `python -I -S guard.py`, with the standard library alone, in about 20 ms.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

# A server that has not ended this long after it was asked is killed. Postgres writes a checkpoint first; on a slow disk
# that takes seconds.
GRACE_SECONDS = 10.0


class Guard:
    """Ends the watched process groups and removes the watched directories when this process dies, however it dies.

    Usable as a context; `close` is the orderly end, after which nothing more is done to anything still watched."""

    def __init__(self) -> None:
        # `start_new_session`: a Ctrl-C in the terminal reaches the whole foreground group, and must not end the guard.
        self._process: subprocess.Popen[bytes] | None = subprocess.Popen(  # noqa: S603  our own file and interpreter
            [sys.executable, "-I", "-S", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )

    def watch_process(self, pid: int, ask_with: signal.Signals) -> None:
        """`pid` must lead its own process group. The last one watched is ended first."""
        self._tell({"do": "watch", "pid": pid, "started": started_at(pid), "signal": int(ask_with)})

    def forget_process(self, pid: int) -> None:
        self._tell({"do": "forget", "pid": pid})

    def watch_directory(self, directory: Path) -> None:
        """Removed, with all that is in it, after the processes have ended."""
        self._tell({"do": "remove", "directory": str(directory.resolve())})

    def close(self) -> None:
        if (process := self._process) is None:
            return
        self._tell({"do": "retire"})
        self._process = None
        assert process.stdin is not None  # noqa: S101  it was opened as a pipe
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        process.wait()

    def _tell(self, order: dict[str, object]) -> None:
        if self._process is None:
            raise RuntimeError("the guard has been closed")
        assert self._process.stdin is not None  # noqa: S101  it was opened as a pipe
        try:
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            # Someone killed the guard. The orderly end does not need it, so this is no reason to fail.
            pass

    def __enter__(self) -> Guard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def started_at(pid: int) -> str:
    """What tells a process from a later one with the same number; "" where /proc does not say (macOS)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    # The name in parentheses may hold spaces; field 22 (starttime) is the 20th after it. proc_pid_stat(5)
    return stat.rpartition(")")[2].split()[19]


# --- the guard's own process ----------------------------------------------------------------------------------------


def _is_alive(pid: int, started: str) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return started_at(pid) == started


def _end(pid: int, started: str, ask_with: int) -> None:
    if not _is_alive(pid, started):
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, ask_with)
    deadline = time.monotonic() + GRACE_SECONDS
    while _is_alive(pid, started):
        if time.monotonic() > deadline:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
            return
        time.sleep(0.01)  # not our child, so there is no wait(2) for it


def main() -> None:
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        signal.signal(signal.Signals[name], signal.SIG_IGN)
    processes: dict[int, tuple[str, int]] = {}
    directories: list[str] = []
    for line in sys.stdin.buffer:
        order = json.loads(line)
        match order["do"]:
            case "watch":
                processes[order["pid"]] = (order["started"], order["signal"])
            case "forget":
                processes.pop(order["pid"], None)
            case "remove":
                directories.append(order["directory"])
            case "retire":
                return
    for pid, (started, ask_with) in reversed(processes.items()):
        _end(pid, started, ask_with)
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
