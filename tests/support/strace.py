"""Makes system calls of a running process fail, by `strace`'s injection."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.support.gateway_process import DEADLINE_SECONDS, eventually, is_alive


@dataclass(frozen=True, slots=True)
class Injection:
    """`when` is strace's: `3` the third call, `3+` that and all after it, counted from when it begins."""

    call: str
    error: str
    when: str

    def __str__(self) -> str:
        return f"{self.call}:{self.error}:{self.when}"


class Injected:
    """How often the process was told a lie: known at the end."""

    count = 0


@contextmanager
def injecting(pid: int, injection: Injection, *, follow: bool = False) -> Iterator[Injected]:
    """From its beginning, not before, to its end, or that of the process; with `follow` in its children too, those of now
    and those to come (`when` counts in each of them). Raises AssertionError if strace can't (it may not)."""
    injected = Injected()
    with tempfile.TemporaryDirectory(prefix="strace-") as directory:
        log = Path(directory) / "log"
        told = Path(directory) / "told"
        pids = [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True) if follow)]
        command = [
            *(
                "strace",
                *(f"--attach={each}" for each in pids),
                "-o",
                str(log),
                "-e",
                f"trace={injection.call}",
                "-e",
                "signal=none",
            ),
            *("-e", f"inject={injection.call}:error={injection.error}:when={injection.when}"),
            *(("-f",) if follow else ()),
        ]
        with told.open("wb") as errors:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=errors)
        try:
            eventually(
                lambda: told.read_bytes().count(b"attached") >= len(pids) or process.poll() is not None,
                "strace is attached",
            )
            if process.poll() is not None and is_alive(pid):
                raise AssertionError(f"strace ended: {told.read_text()}")
            yield injected
        finally:
            process.terminate()  # it lets go of the process, and ends
            process.wait(DEADLINE_SECONDS)
            injected.count = log.read_text(errors="replace").count("(INJECTED)") if log.exists() else 0
