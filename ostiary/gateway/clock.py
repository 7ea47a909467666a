"""Watches the clock of this machine: against Redis's, and for steps.

The wall clock decides what is of the wall: whether a signed call is recent, whether a key or a quota has ended, when a call
was made. Everything that waits goes by the monotonic clock, which no step moves. So a wrong clock breaks no call by itself;
but a clock that is off by more than `gateway.signature_skew` refuses every signed call, and that is worth an alarm before."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from typing import Protocol

from ostiary.gateway.telemetry.metrics import Metrics

log = logging.getLogger("ostiary.gateway.clock")

# A clock that drifts does so by milliseconds an hour; one that was set wrong is told within this.
ASK_SECONDS = 10.0
LOOK_SECONDS = 1.0
# A leap second is a step of one; slewing is 0.5 ms a second.
STEP_SECONDS = 0.5
# An answer that took longer says too little of when it was given.
ROUND_TRIP_SECONDS_MAX = 1.0


class TimeStore(Protocol):
    """Redis, as far as it tells the time."""

    def ask_time(self, told: Callable[[object], None]) -> bool:
        """False when it is away. `told` gets the reply of TIME, or whatever came instead."""


class ClockWatch:
    """Of one worker. `skew_seconds` is how far the timestamp of a signed call may be off: beyond half of it there is an
    alarm."""

    def __init__(
        self,
        store: TimeStore,
        *,
        metrics: Metrics,
        skew_seconds: float,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.skew_seconds = skew_seconds
        self._store = store
        self._values = metrics.values
        self._offset_slot = metrics.gauge("gateway_clock_offset_seconds")
        self._steps = metrics.counter("gateway_clock_steps_total")
        self._wall = wall
        self._monotonic = monotonic
        self._difference = wall() - monotonic()
        self._asked_at = 0.0
        self._ask_due = 0.0
        self._off = False
        self._timer: asyncio.TimerHandle | None = None
        self.offset_seconds: float | None = None
        self.steps = 0

    def start(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, self.start)
        self.look()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def status(self) -> dict[str, object]:
        offset = self.offset_seconds
        return {"offset_seconds": None if offset is None else round(offset, 3), "steps": self.steps}

    def look(self) -> None:
        """Whether the clock was set since the last look; and what Redis's says, when that is due, or it was."""
        difference = self._wall() - self._monotonic()
        step = difference - self._difference
        self._difference = difference
        if abs(step) >= STEP_SECONDS:
            self.steps += 1
            self._steps.add(1)
            log.warning("clock_stepped", extra={"fields": {"seconds": round(step, 3)}})
            self._ask_due = 0.0
        now = self._monotonic()
        if now < self._ask_due:
            return
        self._asked_at = now
        if self._store.ask_time(self._told):
            self._ask_due = now + ASK_SECONDS * random.uniform(0.8, 1.0)  # noqa: S311  no secret

    def _told(self, reply: object) -> None:
        took = self._monotonic() - self._asked_at
        if not isinstance(reply, list) or len(reply) != 2 or took > ROUND_TRIP_SECONDS_MAX:
            return
        try:
            theirs = int(reply[0]) + int(reply[1]) / 1e6
        except (TypeError, ValueError):
            return
        offset = self.offset_seconds = self._wall() - took / 2 - theirs
        self._values[self._offset_slot] = abs(offset)
        off = abs(offset) > self.skew_seconds / 2
        if off is not self._off:
            self._off = off
            fields = {"offset_seconds": round(offset, 3), "signature_skew_seconds": self.skew_seconds}
            log.log(
                logging.ERROR if off else logging.WARNING,
                "clock_off" if off else "clock_right_again",
                extra={"fields": fields},
            )
