"""Latencies as the roll-ups hold them: one number, the calls of place i times 10^(12 i); see migration 0008."""

from __future__ import annotations

from itertools import pairwise
from math import floor, sqrt

# As usage_latency_bounds_us() has them: 64 us times a power of the fourth root of two, up to 57 s.
BOUNDS_US = tuple(floor(64 * 2 ** (place / 4)) for place in range(80))
_PLACE = 10**12
# The geometric middle of a place: off by at most the eighth root of two, 9.1 %, wherever in it the call was. What is below
# the first bound counts as that bound, what is above the last as that.
_MIDDLES_MS = (
    BOUNDS_US[0] / 1000,
    *(round(sqrt(low * high) / 1000, 3) for low, high in pairwise(BOUNDS_US)),
    BOUNDS_US[-1] / 1000,
)


def calls_by_place(histogram: int) -> tuple[int, ...]:
    """81 numbers."""
    rest, places = histogram, []
    for _ in range(len(BOUNDS_US) + 1):
        rest, calls = divmod(rest, _PLACE)
        places.append(calls)
    return tuple(places)


def quantile_ms(places: tuple[int, ...], share: float) -> float | None:
    """The latency that `share` of the calls did not exceed, to within 9.1 %; None without calls."""
    total = sum(places)
    if total == 0:
        return None
    needed, seen = share * total, 0
    for place, calls in enumerate(places):
        seen += calls
        if calls and seen >= needed:
            return _MIDDLES_MS[place]
    return _MIDDLES_MS[-1]
