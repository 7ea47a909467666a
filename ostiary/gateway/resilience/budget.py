"""How many further tries all calls of an upstream may have together. Without it, an upstream that is down gets twice the
calls that brought it down, and can't get up."""

from __future__ import annotations

from typing import Final

from .window import RollingCounts

WINDOW_SECONDS: Final = 10.0
# One a second: a worker with little to do must be able to retry as well, and a share of ten calls would be a single one.
FLOOR: Final = 10


class RetryBudget:
    """Of one upstream and worker: at most `share` of the calls of the last ten seconds, or `FLOOR`, whichever is more. A
    share of 0 is none at all."""

    __slots__ = ("_counts", "_floor", "_share")

    def __init__(self, share: float) -> None:
        self._share = share
        self._floor = FLOOR if share else 0
        self._counts = RollingCounts(WINDOW_SECONDS)

    def call(self, now: float) -> None:
        """A call begins."""
        self._counts.add(now)

    def take(self, now: float) -> bool:
        """Whether there is room for one further try; it is taken if there is."""
        counts = self._counts
        counts.roll(now)
        if counts.marked >= self._floor and counts.marked + 1 > self._share * counts.total:
            return False
        counts.mark(now)
        return True
