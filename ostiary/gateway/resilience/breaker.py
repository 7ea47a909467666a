"""The circuit breaker of an upstream: when too many of its calls fail, none is sent for a while; then a few are, to see.

    state      a call                         what ends it
    CLOSED     passes, and is counted         too large a share of errors: OPEN
    OPEN       is refused                     `open_seconds`: HALF_OPEN
    HALF_OPEN  passes while fewer than        an error: OPEN; `trials` that went well: CLOSED
               `trials` are out or were good

Each change begins an epoch. A call that began in an earlier one tells nothing about this one: its outcome is not counted."""

from __future__ import annotations

from enum import Enum
from typing import Final

from ostiary.core.upstream import Breaker

from .window import RollingCounts


class BreakerState(Enum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


_CLOSED: Final = BreakerState.CLOSED
_OPEN: Final = BreakerState.OPEN
_HALF_OPEN: Final = BreakerState.HALF_OPEN
TRIALS_FULL_SECONDS: Final = 1.0  # what a caller is told to wait while the trials are out: their end is not known


class CircuitBreaker:
    """Of one upstream and worker. `epoch` is what a call that passes keeps, and tells its outcome with."""

    __slots__ = ("_counts", "_opens_until", "_rule", "_trials_good", "_trials_out", "epoch", "state")

    def __init__(self, rule: Breaker) -> None:
        self._rule = rule
        self._counts = RollingCounts(rule.window_seconds)
        self._opens_until = 0.0
        self._trials_good = 0
        self._trials_out = 0
        self.state = _CLOSED
        self.epoch = 0

    def refuses(self, now: float) -> float:
        """0 when a call may pass, which it then does; else the seconds after which asking again is worth it."""
        if self.state is _CLOSED:
            return 0.0
        if self.state is _OPEN:
            if now < self._opens_until:
                return self._opens_until - now
            self._to(_HALF_OPEN)
        if self._trials_out + self._trials_good >= self._rule.trials:
            return TRIALS_FULL_SECONDS
        self._trials_out += 1
        return 0.0

    def succeeded(self, epoch: int, now: float) -> None:
        if epoch != self.epoch:
            return
        if self.state is _CLOSED:
            self._counts.add(now)
        elif self.state is _HALF_OPEN:
            self._trials_out -= 1
            self._trials_good += 1
            if self._trials_good >= self._rule.trials:
                self._to(_CLOSED)

    def failed(self, epoch: int, now: float) -> None:
        if epoch != self.epoch:
            return
        if self.state is _HALF_OPEN:
            self._open(now)
        elif self.state is _CLOSED:
            counts, rule = self._counts, self._rule
            counts.add(now)
            counts.mark(now)
            if counts.total >= rule.calls and counts.marked >= rule.errors_share * counts.total:
                self._open(now)

    def abandoned(self, epoch: int) -> None:
        """The call ended without telling anything: its client went away, or it never got a connection."""
        if epoch == self.epoch and self.state is _HALF_OPEN:
            self._trials_out -= 1

    def _open(self, now: float) -> None:
        self._opens_until = now + self._rule.open_seconds
        self._to(_OPEN)

    def _to(self, state: BreakerState) -> None:
        self.state = state
        self.epoch += 1
        self._trials_good = self._trials_out = 0
        self._counts.clear()
