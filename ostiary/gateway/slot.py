"""One place of the supervisor (a worker, or the shipper) and the process that fills it: started, heard, replaced."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Any

from ostiary.gateway.channel import Channel, ChannelError
from ostiary.gateway.deaths import DeathRecord
from ostiary.gateway.handover import ORPHAN_SECONDS, HandedProcess
from ostiary.gateway.spawn import Child
from ostiary.gateway.telemetry import Metrics
from ostiary.nameless import nameless_memory

log = logging.getLogger("ostiary.gateway.supervisor")

# A child that serves says something every second; silent for three waits, it hangs. Three waits and not one long one,
# because a supervisor that was itself stopped (SIGSTOP, a frozen machine) wakes up with the wait of then overdue. A child
# that starts may be slow: a cold disk, a busy machine.
SILENCE_SECONDS = 2.5
SILENCES_MAX = 3
SILENCES_AT_START_MAX = 12
RELOAD_SECONDS = 10.0
EXIT_SECONDS = 5.0


class State(StrEnum):
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    BACKING_OFF = "backing_off"
    STOPPED = "stopped"


class Slot:
    """Keeps one child alive until told to end.

    `obtain` gives a process that waits to be greeted, or raises OSError. `greeting` gives the first message to it and the
    payload: always the configuration in force. `changed` is called after each change of state. The region of `metrics`
    outlives the processes."""

    def __init__(
        self,
        *,
        name: str,
        obtain: Callable[[], Awaitable[Child]],
        greeting: Callable[[str], tuple[dict[str, Any], bytes]],
        changed: Callable[[Slot], None],
    ) -> None:
        self.name = name
        self.state = State.STARTING
        self.since = time.time()
        self.restarts = 0
        self.generation = 0
        self.problem: str | None = None  # what the last process that could not start said
        self.reported: dict[str, Any] = {}
        self.came_up = asyncio.Event()  # one of its processes has been ready
        self._obtain = obtain
        self._greeting = greeting
        self._changed = changed
        self._deaths = DeathRecord()
        self.region = nameless_memory(name)
        self.metrics = Metrics.attach(self.region)
        self._ending = asyncio.Event()
        self._child: Child | None = None
        self._reloading: asyncio.Future[str | None] | None = None

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child is not None else None

    @property
    def keeps_dying(self) -> bool:
        return self._deaths.keeps_dying

    def status(self) -> dict[str, object]:
        return {
            "name": self.name,
            "pid": self.pid,
            "state": str(self.state),
            "since": self.since,
            "restarts": self.restarts,
            "keeps_dying": self.keeps_dying,
            "generation": self.generation,
            "problem": self.problem,
            "reported": self.reported,
        }

    async def run(self) -> None:
        """Returns when the slot was told to end and its process is gone."""
        while not self._ending.is_set():
            self._deaths.born()
            self._to(State.STARTING)
            status = await self._live()
            if self._ending.is_set():
                break
            delay = self._deaths.died()
            self.restarts += 1
            fields = {"name": self.name, "ended": describe_exit(status), "next_in_seconds": delay}
            log.error("process_ended", extra={"fields": fields})
            if delay:
                self._to(State.BACKING_OFF)
                try:
                    await asyncio.wait_for(self._ending.wait(), delay)
                except TimeoutError:
                    pass
        self._to(State.STOPPED)

    async def reload(self, generation: int, payload: bytes) -> str | None:
        """Hands a configuration to the process. None when it is in force there, or when there is no process that serves
        (the next one starts with the one in force); else why it is not: the process refused it and goes on with what it
        has, or it died, or it was ended because it did not answer."""
        if self.state is not State.READY or self._child is None:
            return None
        self._reloading = asyncio.get_running_loop().create_future()
        self._child.channel.send({"do": "reload", "generation": generation}, payload)
        try:
            return await asyncio.wait_for(self._reloading, RELOAD_SECONDS)
        except TimeoutError:
            self.end_process()  # it may hold either configuration
            return f"{self.name} did not answer within {RELOAD_SECONDS:g} s"
        finally:
            self._reloading = None

    def hand_over(self, *, is_worker: bool) -> HandedProcess | None:
        """Its process, as the next program will find it. One that is not ready loses its channel, and ends by that."""
        child = self._child
        if child is None or child.process.returncode is not None:
            return None
        channel = child.channel.settled_descriptor if self.state is State.READY else None
        kill_at = None if channel is not None else time.monotonic() + ORPHAN_SECONDS
        return HandedProcess(self.name, child.pid, is_worker, channel, self.region, kill_at)

    def drain(self, deadline_seconds: float) -> None:
        """Ends the slot: its process finishes what runs, and is not replaced."""
        self._ending.set()
        if self._child is not None:
            self._to(State.DRAINING)
            self._child.channel.send({"do": "drain", "deadline": deadline_seconds})

    def end_process(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Ends the process at once. It is replaced, unless the slot is draining."""
        if self._child is not None and self._child.process.returncode is None:
            try:
                self._child.process.send_signal(number)
            except ProcessLookupError:
                pass

    async def _live(self) -> int | None:
        """One process, from start to end. Returns its exit status, None if it could not be started at all."""
        try:
            child = self._child = await self._obtain()
        except OSError as error:
            self.problem = f"can't start a process: {error.strerror}"
            log.error("process_not_started", extra={"fields": {"name": self.name, "problem": self.problem}})
            return None
        message, payload = self._greeting(self.name)
        self.generation = message["generation"]
        inherited = {"metrics_descriptor": self.region, "regions": child.regions, "node_descriptor": child.node}
        child.channel.send({**message, "do": "start", "name": self.name, **inherited}, payload)
        if self._ending.is_set():
            child.channel.send({"do": "drain", "deadline": 0.0})
        try:
            await self._hear(child.channel)
        finally:
            self.reported = {}
            child.channel.close()
            if self._reloading is not None and not self._reloading.done():
                self._reloading.set_result(f"{self.name} died")
            # The stream ends with the process, or just before; one that closed it and lives on serves no one.
            try:
                await asyncio.wait_for(child.process.wait(), EXIT_SECONDS)
            except TimeoutError:
                self.end_process()
                await child.process.wait()
            self._child = None
        return child.process.returncode

    async def _hear(self, channel: Channel) -> None:
        silences = 0
        while True:
            try:
                received = await asyncio.wait_for(channel.receive(), SILENCE_SECONDS)
            except TimeoutError:
                silences += 1
                allowed = SILENCES_AT_START_MAX if self.state is State.STARTING else SILENCES_MAX
                if silences == allowed:
                    fields = {"name": self.name, "pid": self.pid, "silent_seconds": SILENCE_SECONDS * silences}
                    log.error("process_hangs", extra={"fields": fields})
                    self.end_process(signal.SIGABRT)  # its fault handler writes where it hangs
                elif silences > allowed:
                    self.end_process()
                continue
            except ChannelError:
                log.exception("process_talks_nonsense", extra={"fields": {"name": self.name}})
                self.end_process()
                return
            if received is None:
                return
            silences = 0
            self._heard(channel, received[0])

    def _heard(self, channel: Channel, message: dict[str, Any]) -> None:
        match message.get("event"):
            case "ready":
                self.problem = None
                if self.state is State.STARTING:
                    self._to(State.READY)
                    self.came_up.set()
                newest, payload = self._greeting(self.name)
                if newest["generation"] != self.generation:  # a reload passed while it was starting
                    channel.send({"do": "reload", "generation": newest["generation"]}, payload)
            case "failed":
                self.problem = str(message.get("problem"))
                log.error("process_cannot_start", extra={"fields": {"name": self.name, "problem": self.problem}})
                self._changed(self)
            case "reloaded":
                self.generation = int(message["generation"])
                if self._reloading is not None and not self._reloading.done():
                    self._reloading.set_result(None)
            case "refused":
                if self._reloading is not None and not self._reloading.done():
                    self._reloading.set_result(str(message.get("problem")))
                else:  # no one waits: it missed a reload that the others took, and can't be left on an old one
                    self.end_process()
            case "status":
                self.reported = message.get("service", {})

    def _to(self, state: State) -> None:
        self.state = state
        self.since = time.time()
        self._changed(self)


def describe_exit(status: int | None) -> str:
    if status is None:
        return "not started"
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"signal {signal.Signals(-status).name}"
    except ValueError:
        return f"signal {-status}"
