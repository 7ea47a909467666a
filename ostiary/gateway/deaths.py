"""When to replace a process that has died: at once, unless it keeps dying."""

from __future__ import annotations

import time
from collections.abc import Callable

# A few deaths in a row are replaced at once: an operator's kill, a rare defect. What dies more often is looping.
DEATHS_FREE = 4
DELAY_FIRST_SECONDS = 0.125
# Long enough that a loop costs nothing, short enough that the mend of its cause shows while someone still looks.
DELAY_MAX_SECONDS = 16.0
# A process that has lived so long is trusted, and the deaths before it are forgotten.
TRUSTED_AFTER_SECONDS = 10.0


class DeathRecord:
    """The deaths in a row of one slot's processes."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._born_at: float | None = None
        self._deaths = 0

    def born(self) -> None:
        self._born_at = self._clock()

    def died(self) -> float:
        """The seconds to wait before the next birth: none for a few deaths in a row, then doubling up to a bound."""
        self._deaths = self._in_a_row() + 1
        self._born_at = None
        beyond = self._deaths - DEATHS_FREE - 1
        return 0.0 if beyond < 0 else min(DELAY_FIRST_SECONDS * 2.0 ** min(beyond, 30), DELAY_MAX_SECONDS)

    @property
    def keeps_dying(self) -> bool:
        """More deaths in a row than are free, and the process of now, if there is one, is not trusted yet."""
        return self._in_a_row() > DEATHS_FREE

    def _in_a_row(self) -> int:
        trusted = self._born_at is not None and self._clock() - self._born_at >= TRUSTED_AFTER_SECONDS
        return 0 if trusted else self._deaths
