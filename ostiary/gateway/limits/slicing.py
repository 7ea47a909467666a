"""How slices of the limits of one policy are taken, compiled at load: only where all of them are leased, because a call that
must ask Redis for one limit is counted there for all."""

from __future__ import annotations

from collections.abc import Sequence

from ostiary.core.limiting import Limit
from ostiary.core.slicing import sliced, slot_end_us
from ostiary.gateway.limits import script


class Slicing:
    """`specification` is that of a call of cost 1, and tells limits apart: of equal ones there is one slice, whichever route
    asks."""

    __slots__ = ("_limits", "_sliced", "slot_seconds", "specification")

    def __init__(self, parts: Sequence[Sequence[Limit]]) -> None:
        self._limits: list[Limit] = [limit for limits in parts for limit in limits]
        self.specification = script.specification([(limits, None) for limits in parts], 0, 1)
        self._sliced = script.specification([([sliced(limit) for limit in limits], None) for limits in parts], 0, 1)
        self.slot_seconds = self.ends_us(0) / 1e6  # every slot begins at the epoch

    def asking_for(self, calls: int) -> bytes:
        """What lua/decide.lua is told: a call that costs so much, all or nothing."""
        return script.with_cost(self._sliced, calls)

    def ends_us(self, taken_us: int) -> int:
        """Until when a slice that is taken at this moment may be spent, by Redis's clock."""
        return min([slot_end_us(limit, taken_us) for limit in self._limits])
