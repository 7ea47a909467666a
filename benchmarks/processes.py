"""Servers started for a measurement, each on its core, all of them ended with it."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

# The proxy that is measured has this core to itself; everything else of a measurement runs on the other.
PROXY_CORE = 0
OTHER_CORE = 1

REPOSITORY = Path(__file__).parent.parent

READY_SECONDS = 30.0  # a gateway with migrations done is up within one or two; a loaded CI machine takes longer
STOP_SECONDS = 10.0  # for an orderly end, before the whole process group is killed
LOG_TAIL_BYTES = 2000

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class DidNotStart(RuntimeError):
    """A server ended, or stayed silent, before it was ready; the message has the end of what it wrote."""


@dataclass(frozen=True, slots=True)
class Started:
    name: str
    popen: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        return self.popen.pid

    def log_tail(self) -> str:
        return self.log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace").strip()


def free_port() -> int:
    """A port of 127.0.0.1 on which nothing listens now. Another program may take it before it is used; the server's own
    error then says so."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _prepare_child(core: int) -> Callable[[], None]:
    def prepare() -> None:
        os.sched_setaffinity(0, {core})
        # A bench that is killed outright can't clean up: the kernel then ends what it has started.
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)

    return prepare


class Processes:
    """The servers of one measurement. Leaving the context ends them all, last started first, however it is left."""

    def __init__(
        self, directory: Path, *, ready_seconds: float = READY_SECONDS, stop_seconds: float = STOP_SECONDS
    ) -> None:
        self._directory = directory
        self._ready_seconds = ready_seconds
        self._stop_seconds = stop_seconds
        self._started: list[Started] = []

    def start(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        core: int,
        directory: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Started:
        """Starts a command on a core, in a session of its own, with its output in a log file.

        A session of its own, so that Ctrl-C at the terminal reaches the bench alone and the end is orderly."""
        log = self._directory / f"{name}-{len(self._started)}.log"
        with log.open("wb") as output:
            # One thread runs the bench, so code between fork and exec is safe.
            popen = subprocess.Popen(
                [str(part) for part in command],
                cwd=directory or self._directory,
                env=None if environment is None else {**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_prepare_child(core),
            )
        started = Started(name, popen, log)
        self._started.append(started)
        return started

    def wait_until_listening(self, started: Started, port: int) -> None:
        """Returns once the server takes connections on 127.0.0.1. Raises DidNotStart."""
        deadline = time.monotonic() + self._ready_seconds
        while True:
            if (status := started.popen.poll()) is not None:
                raise DidNotStart(f"{started.name} ended with status {status}:\n{started.log_tail()}")
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
            except OSError:
                if time.monotonic() > deadline:
                    message = f"{started.name} did not listen on port {port} within {self._ready_seconds:g} s"
                    raise DidNotStart(f"{message}:\n{started.log_tail()}") from None
                time.sleep(0.02)
            else:
                return

    def stop(self, started: Started) -> None:
        """SIGTERM, a while to end, then SIGKILL to all that is left of its session."""
        self._started.remove(started)
        if started.popen.poll() is None:
            started.popen.terminate()
            try:
                started.popen.wait(self._stop_seconds)
            except subprocess.TimeoutExpired:
                pass
        try:
            os.killpg(started.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # the usual case: nothing of it is left
        started.popen.wait()

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._started:
            self.stop(self._started[-1])
