"""Ends what takes too long, for all connections with one timer.

A timer of the event loop for each step of each request costs 1–2 µs; instead every connection has one `deadline`, a plain
number, and a sweep compares them all four times a second (60 ns a connection). A deadline is met up to `SWEEP_SECONDS`
late, never early."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Final, Protocol

SWEEP_SECONDS: Final = 0.25

# Ending a connection takes 100 to 200 µs (an answer, a line of the log). A thousand slow clients that came together are due
# together: ended at a stretch they would hold up everybody else for 0.1 s.
ENDED_AT_A_TIME: Final = 4
NEVER: Final = math.inf


class HasDeadline(Protocol):
    deadline: float

    def on_deadline(self) -> None: ...


class Deadlines:
    """The sweep, and the clock that goes with it: `now` is the loop's time, up to `SWEEP_SECONDS` old, for nothing. `sweeps`
    counts them."""

    def __init__(self, *, every_sweep: Callable[[], None]) -> None:
        self._every_sweep = every_sweep
        self._loop = asyncio.get_running_loop()
        self.now = self._loop.time()
        self.sweeps = 0
        self._watched: set[HasDeadline] = set()
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._sweep()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def watch(self, connection: HasDeadline) -> None:
        self._watched.add(connection)

    def forget(self, connection: HasDeadline) -> None:
        self._watched.discard(connection)

    def after(self, seconds: float) -> float:
        """A deadline `seconds` from now, never early though `now` is old."""
        return self.now + seconds + SWEEP_SECONDS

    def _sweep(self) -> None:
        self.now = now = self._loop.time()
        self.sweeps += 1
        self._every_sweep()
        due = [each for each in self._watched if each.deadline <= now]
        if due:
            self._end(due)
        self._timer = self._loop.call_later(SWEEP_SECONDS, self._sweep)

    def _end(self, due: list[HasDeadline]) -> None:
        """A few, and the others when the loop has done what else there is. What has been moved meanwhile is not due."""
        now = self.now
        for connection in due[:ENDED_AT_A_TIME]:
            if connection.deadline <= now:
                connection.on_deadline()
        rest = due[ENDED_AT_A_TIME:]
        if rest:
            self._loop.call_soon(self._end, rest)


class Alarm:
    """Calls `ring` once, `seconds` from now, unless it is ended before."""

    __slots__ = ("_deadlines", "_ring", "deadline")

    def __init__(self, deadlines: Deadlines, seconds: float, ring: Callable[[], None]) -> None:
        self._deadlines = deadlines
        self._ring = ring
        self.deadline = deadlines.after(seconds)
        deadlines.watch(self)

    def end(self) -> None:
        self._deadlines.forget(self)

    def on_deadline(self) -> None:
        self.end()
        self._ring()
