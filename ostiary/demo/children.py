"""The commands that the demo runs as an operator would, each in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from pathlib import Path

import aiohttp

from ostiary.demo.guard import Guard
from ostiary.demo.server_process import last_lines

# The gateway drains for at most 5 s (see the demo's configuration), then ships its usage.
STOP_SECONDS = 15.0
# A cold start with compiled files missing takes 2 s on a slow machine.
READY_SECONDS = 30.0
POLL_SECONDS = 0.02


class ChildFailed(RuntimeError):
    """A command ended on its own or did not get ready. The text has the last lines that it printed."""


class Child:
    """`ostiary <arguments>` as a child process, its output in `log`."""

    def __init__(self, name: str, arguments: list[str], *, log: Path, guard: Guard) -> None:
        self.name = name
        self._arguments = arguments
        self._log = log
        self._guard = guard
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        # -P: a yaml.py in the directory where the demo was started is not imported instead of PyYAML.
        with self._log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "ostiary", *self._arguments),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C in the terminal is for the demo, which ends its children in order
            )
        self._guard.watch_process(self._process.pid, signal.SIGTERM)

    async def wait_until_ready(self, url: str) -> None:
        """Until GET `url` answers 200. Raises ChildFailed."""
        deadline = time.monotonic() + READY_SECONDS
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session:
            while True:
                self._check_alive()
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    async with session.get(url) as answer:
                        if answer.status == 200:
                            return
                if time.monotonic() > deadline:
                    raise ChildFailed(f"{self.name} was not ready in {READY_SECONDS:.0f} s.{self._how_it_ended()}")
                await asyncio.sleep(POLL_SECONDS)

    async def watch(self) -> None:
        """Returns never; raises ChildFailed when the process ends."""
        assert self._process is not None  # noqa: S101  `start` comes first
        await self._process.wait()
        self._check_alive()

    async def stop(self) -> None:
        """Asks it to end, and ends it by force after STOP_SECONDS. No effect on one that was not started or has ended."""
        if (process := self._process) is None:
            return
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                await asyncio.wait_for(process.wait(), STOP_SECONDS)
            except TimeoutError:
                process.kill()
                await process.wait()
        self._guard.forget_process(process.pid)
        self._process = None

    def _check_alive(self) -> None:
        assert self._process is not None  # noqa: S101  `start` comes first
        if (status := self._process.returncode) is not None:
            raise ChildFailed(f"{self.name} ended with status {status}.{self._how_it_ended()}")

    def _how_it_ended(self) -> str:
        lines = last_lines(self._log)
        return f" It printed last:\n{lines}" if lines else " It printed nothing."
