"""How one request stands with all of its limits, and what it then takes of them: decided by values, without I/O.

The other half of what lua/decide.lua does; `limiting` has the arithmetic of each limit."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ostiary.core.limiting import INTEGER_MAX, BucketCounter, Counter, QuotaCounter, seconds_up, share_reached
from ostiary.core.model import LimitMode, RefusedCalls


@dataclass(frozen=True, slots=True)
class Standing:
    """How a request stands with its limits.

    `index` is the limit that refuses (of several the one with the longest wait, so that waiting for it is enough), or else
    the one nearest to running out; None without limits. `remaining` is what is left of it, in calls that cost 1, after this
    one. `reset_seconds`, rounded up, is when this call, or after an admitted one another of cost 1, would be admitted.
    `would_refuse`: the limits in shadow that would have refused it."""

    refused: bool
    index: int | None
    remaining: int
    reset_seconds: int
    overage: bool
    would_refuse: tuple[int, ...] = ()


# A quota of which so much (in %) was used by a call: the place of the limit, and the share.
Reached = list[tuple[int, int]]


def examine(counters: Sequence[Counter], now_us: int, cost: int = 1) -> Standing:
    """Settles all counters and says whether a call of this cost is within all of them. Counts nothing. A call that costs
    nothing is refused only while something is owed."""
    longest_us, refusing, left_of_refusing = -1, None, 0
    fewest, nearest = 0, None
    overage = False
    would_refuse: list[int] = []
    for index, counter in enumerate(counters):
        counter.settle(now_us)
        left = counter.left()
        if counter.limit.mode is LimitMode.SHADOW:
            if left < cost and counter.refuses:
                would_refuse.append(index)
            continue
        if left < cost:
            if counter.refuses:
                if (wait_us := counter.wait_us(now_us, cost)) > longest_us:
                    longest_us, refusing, left_of_refusing = wait_us, index, left
                continue
            overage = True
            left = cost
        if nearest is None or left < fewest:
            fewest, nearest = left, index
    if refusing is not None:
        return Standing(True, refusing, max(0, left_of_refusing), max(1, seconds_up(longest_us)), False)
    return Standing(False, nearest, max(0, fewest - cost), 0, overage, tuple(would_refuse))


def take(
    counters: Sequence[Counter], standing: Standing, now_us: int, cost: int = 1, reached: Reached | None = None
) -> Standing:
    """Counts one call that `examine` admitted at this very moment; the standing with its reset. A limit in shadow that would
    have refused it counts it only if it counts refused calls. What is to be told of quotas is added to `reached`."""
    if cost:
        _count(counters, now_us, cost, "take", standing.would_refuse, reached)
        charged = {index for index in standing.would_refuse if counters[index].limit.refused is RefusedCalls.CHARGED}
        _count(counters, now_us, cost, "charge_refused", set(range(len(counters))) - charged, reached)
    if standing.index is None:
        return standing
    nearest = counters[standing.index]
    return replace(standing, reset_seconds=seconds_up(nearest.wait_us(now_us, nearest.left() + 1)))


def charge_refused(
    counters: Sequence[Counter], standing: Standing, now_us: int, cost: int = 1, reached: Reached | None = None
) -> Standing:
    """Charges a call that was refused, by a limit or by what is no limit of these, to the limits that count such calls. How
    the same call would stand then: what a client is told to wait must suffice."""
    free = {index for index, counter in enumerate(counters) if counter.limit.refused is RefusedCalls.FREE}
    if not cost or len(free) == len(counters):
        return standing
    _count(counters, now_us, cost, "charge_refused", free, reached)
    return examine(counters, now_us, cost) if standing.refused else standing


def amend(
    counters: Sequence[Counter],
    difference: int,
    taken_us: int,
    now_us: int,
    *,
    alone: Collection[int] = (),
    reached: Reached | None = None,
    ends_us: int = INTEGER_MAX,
) -> None:
    """A call that was taken at `taken_us` has cost so much more, or less, than it was taken for. What is more counts from
    now on, room or no room; what is less is taken back where it still counts, in a bucket before `ends_us` only. Limits in
    `alone` never counted the call."""
    for counter in counters:
        counter.settle(now_us)
    if difference > 0:
        _count(counters, now_us, difference, "charge", alone, reached)
    elif difference < 0:
        for index, counter in enumerate(counters):
            if index not in alone and (now_us < ends_us or not isinstance(counter, BucketCounter)):
                counter.give_back(now_us, -difference, taken_us)


def _count(
    counters: Sequence[Counter],
    now_us: int,
    cost: int,
    how: Literal["take", "charge", "charge_refused"],
    without: Collection[int],
    reached: Reached | None,
) -> None:
    for index, counter in enumerate(counters):
        if index in without:
            continue
        before = counter.count if isinstance(counter, QuotaCounter) else 0
        match how:
            case "take":
                counter.take(now_us, cost)
            case "charge":
                counter.charge(now_us, cost)
            case _:
                counter.charge_refused(now_us, cost)
        if reached is None or not isinstance(counter, QuotaCounter) or counter.limit.mode is LimitMode.SHADOW:
            continue
        if share := share_reached(counter.limit.limit, before, counter.count):
            reached.append((index, share))
