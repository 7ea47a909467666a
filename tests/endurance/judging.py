"""What can be said for certain about calls whose moment of decision nobody outside knows.

A call was decided after its client began it and before the origin had it. So all decisions of the calls that began and
arrived within a span were made within that span; there may have been more, never fewer. No two clocks need to agree for
that: the moments are of one clock, which all processes share, and Redis's, by which it was decided, only has to run at the
same speed. `CLOCKS_DIFFER` allows for what NTP may speed one of them up by (500 ppm, twice)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from tests.endurance.callers import Call

CLOCKS_DIFFER = 0.001

Moments = tuple[float, float]


def moments_of(calls: Iterable[Call], arrivals: Mapping[str, Sequence[int]]) -> list[Moments]:
    """(begun, arrived at the origin) in seconds, for each call that was let in, in order. Each arrived once."""
    return sorted((call.began_ns / 1e9, _once(arrivals[call.request_id]) / 1e9) for call in calls if call.status == 200)


def most_within(calls: Sequence[Moments], span_seconds: float) -> int:
    """The most calls that were surely decided within one span of that length."""
    most = 0
    for first, (begun, _) in enumerate(calls):
        ends = begun + span_seconds * (1 - CLOCKS_DIFFER)
        within = 0
        for other_begun, other_arrived in calls[first:]:
            if other_begun > ends:
                break
            within += other_arrived < ends
        most = max(most, within)
    return most


def most_over_refill(calls: Sequence[Moments], per_second: float, every: int = 1) -> float:
    """The most calls that were surely decided within any span, less what a bucket is refilled with over that span: its burst,
    if the bucket is exact. Spans begin at every call, or every so-manieth one."""
    most = 0.0
    refill = per_second * (1 + CLOCKS_DIFFER)
    for first in range(0, len(calls), every):
        begun = calls[first][0]
        arrived = sorted(moment for _, moment in calls[first:])
        most = max(most, *(count - refill * (moment - begun) for count, moment in enumerate(arrived, start=1)))
    return most


def _once(moments: Sequence[int]) -> int:
    (moment,) = moments
    return moment
