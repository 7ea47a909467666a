"""The children of the program that this one has taken over from (see `handover`): they serve until they are relieved.

They are children of this process still, so it can wait for them. They take one command: to drain."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum

from ostiary.gateway.handover import HandedProcess
from ostiary.gateway.telemetry import Metrics
from ostiary.gateway.telemetry.metrics import foreign_region

log = logging.getLogger("ostiary.gateway.supervisor")

# Past its deadline a worker closes what is left; this is for that.
DRAIN_MARGIN_SECONDS = 3.0
# The end of a child is looked for so often. There are few, and not for long.
LOOK_SECONDS = 0.05


class Stage(StrEnum):
    SERVING = "serving"
    DRAINING = "draining"


@dataclass(slots=True)
class Predecessor:
    """One of them. `kill_at` is of the monotonic clock, once it is to end."""

    process: HandedProcess
    channel: socket.socket | None
    region: memoryview | None
    stage: Stage
    kill_at: float | None

    @classmethod
    def of(cls, process: HandedProcess) -> Predecessor:
        region = channel = None
        if process.region is not None:
            os.set_inheritable(process.region, False)
            region = foreign_region(process.region)
        if process.channel is not None:
            channel = socket.socket(fileno=process.channel)
            channel.set_inheritable(False)
            channel.setblocking(False)
        return cls(process, channel, region, Stage.DRAINING if channel is None else Stage.SERVING, process.kill_at)

    @property
    def accepts(self) -> bool:
        """It takes new connections."""
        return self.process.is_worker and self.stage is Stage.SERVING

    def hand_over(self) -> HandedProcess:
        channel = self.channel.fileno() if self.channel is not None and self.stage is Stage.SERVING else None
        return replace(self.process, channel=channel, kill_at=self.kill_at)

    def drain(self, deadline_seconds: float) -> None:
        """Has it finish what runs. Where the line can't be sent, the end of the channel says the same."""
        kill_at = time.monotonic() + deadline_seconds + DRAIN_MARGIN_SECONDS
        self.kill_at = kill_at if self.kill_at is None else min(self.kill_at, kill_at)
        self.stage = Stage.DRAINING
        if self.channel is not None:
            try:
                self.channel.send(json.dumps({"do": "drain", "deadline": deadline_seconds}).encode("ascii") + b"\n")
            except OSError:
                self.channel.close()
                self.channel = None

    def kill(self) -> None:
        """Not waited for yet, so the id is still its own."""
        with suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGKILL)

    def close(self) -> None:
        if self.channel is not None:
            self.channel.close()
        if self.process.region is not None:
            os.close(self.process.region)


class Predecessors:
    """All of them. What they counted goes to `retired` when they have ended."""

    def __init__(self, processes: Iterable[HandedProcess], retired: Metrics) -> None:
        self.all = [Predecessor.of(process) for process in processes]
        self.workers_gone = asyncio.Event()
        self.all_gone = asyncio.Event()
        self.killed = False  # one had to be
        self._retired = retired
        self._note_ends()

    @property
    def accepting(self) -> list[Predecessor]:
        return [each for each in self.all if each.accepts]

    @property
    def regions(self) -> list[memoryview]:
        return [each.region for each in self.all if each.region is not None]

    def relieve(self, count: int | None, deadline_seconds: float) -> None:
        """Drains so many of those that take new connections; all of them for None."""
        for each in self.accepting[:count]:
            log.info("predecessor_drains", extra={"fields": {"name": each.process.name, "pid": each.process.pid}})
            each.drain(deadline_seconds)

    def drain(self, deadline_seconds: float) -> None:
        """Drains all that have not been told to yet."""
        for each in self.all:
            if each.stage is Stage.SERVING:
                each.drain(deadline_seconds)

    def kill(self) -> None:
        for each in self.all:
            each.kill()
        self.killed = True

    async def watch(self) -> None:
        """Waits for each of them; returns when none is left. One that overruns its deadline is killed."""
        while self.all:
            for each in [each for each in self.all if _has_ended(each.process.pid)]:
                self._bury(each)
            self._note_ends()
            now = time.monotonic()
            for each in self.all:
                if each.kill_at is not None and now > each.kill_at:
                    log.error("killed", extra={"fields": {"name": each.process.name, "pid": each.process.pid}})
                    each.kill()
                    each.kill_at = None
                    self.killed = True
            await asyncio.sleep(LOOK_SECONDS)

    def _bury(self, ended: Predecessor) -> None:
        if ended.stage is Stage.SERVING:
            fields = {"name": ended.process.name, "pid": ended.process.pid}
            log.error("predecessor_ended", extra={"fields": fields})
        # One step of the loop, so that no scrape counts it twice or not at all.
        self.all.remove(ended)
        if ended.region is not None:
            self._retired.add(ended.region)
        ended.close()

    def _note_ends(self) -> None:
        if not any(each.process.is_worker for each in self.all):
            self.workers_gone.set()
        if not self.all:
            self.all_gone.set()

    def status(self) -> list[dict[str, object]]:
        return [{"name": each.process.name, "pid": each.process.pid, "state": str(each.stage)} for each in self.all]


def _has_ended(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:  # the program before had waited for it
        return True
