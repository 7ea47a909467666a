"""Limits decided in the memory of one worker: while Redis is away, or where none is configured.

A worker knows only its own calls, so it holds each caller to its share of the limit: one of as many as there are workers on
all nodes. It begins with nothing counted, so an outage lets through at most one limit more than without it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from weakref import WeakSet

from ostiary.core.limiting import Counter, Limit, Standing, amend, carry_over, examine, share, take
from ostiary.gateway.limits.policy import LimitPolicy

# Whose calls are counted at once. A subject takes about 1 KB, and up to 15 KB when all slots of a window are in use; past
# the bound the one that called longest ago begins anew.
SUBJECTS_MAX = 4096


class LocalLease:
    """A call under way. It frees its place when it is released or forgotten."""

    __slots__ = ("__weakref__", "_among")

    def __init__(self, among: WeakSet[LocalLease]) -> None:
        self._among = among
        among.add(self)

    def release(self) -> None:
        self._among.discard(self)


class LocalLimits:
    """`sharers` tells how many workers share the limits, those of all nodes."""

    def __init__(self, *, sharers: Callable[[], int], subjects_max: int = SUBJECTS_MAX) -> None:
        self._sharers = sharers
        self._subjects_max = subjects_max
        self._counters: OrderedDict[str, list[Counter]] = OrderedDict()
        self._under_way: OrderedDict[str, WeakSet[LocalLease]] = OrderedDict()

    def question(self, policy: LimitPolicy, names: Sequence[str], now_us: int) -> LocalQuestion:
        """How one request stands, nothing counted yet; `names` as `policy.names` gave them."""
        sharers = self._sharers()
        shares = policy.shares(sharers)
        counters: list[Counter] = []
        under_way: WeakSet[LocalLease] | None = None
        crowded = False
        name = iter(names)
        for part, limits in zip(policy.parts, shares, strict=True):
            if limits:
                counters += self._counters_of(next(name), limits, now_us)
            if part.concurrency is not None:
                under_way = self._under_way_of(next(name))
                crowded = len(under_way) >= share(part.concurrency, sharers)
        return LocalQuestion(counters, under_way, crowded, now_us, policy.cost)

    def settle(self, names: Sequence[str], difference: int, taken_us: int, now_us: int) -> None:
        """What a call that was taken turned out to cost more, or less; `names` are those of its decision. A subject
        that is forgotten has nothing to settle."""
        for name in names:
            if (counters := self._counters.get(name)) is not None:
                amend(counters, difference, taken_us, now_us)

    def _counters_of(self, name: str, limits: Sequence[Limit], now_us: int) -> list[Counter]:
        counters = self._counters.get(name)
        if counters is None:
            counters = [limit.counter(now_us) for limit in limits]
        elif len(counters) != len(limits) or any(
            counter.limit != limit for counter, limit in zip(counters, limits, strict=True)
        ):
            counters = carry_over(counters, limits, now_us)
        self._counters[name] = counters
        self._counters.move_to_end(name)
        if len(self._counters) > self._subjects_max:
            self._counters.popitem(last=False)
        return counters

    def _under_way_of(self, name: str) -> WeakSet[LocalLease]:
        under_way = self._under_way.setdefault(name, WeakSet())
        self._under_way.move_to_end(name)
        if len(self._under_way) > self._subjects_max:
            self._under_way.popitem(last=False)
        return under_way


class LocalQuestion:
    """A request that was examined and may be taken: in one go, with no other decision in between."""

    __slots__ = ("_cost", "_counters", "_now_us", "_under_way", "crowded", "standing")

    def __init__(
        self,
        counters: Sequence[Counter],
        under_way: WeakSet[LocalLease] | None,
        crowded: bool,
        now_us: int,
        cost: int,
    ) -> None:
        self._cost = cost
        self._counters = counters
        self._under_way = under_way
        self._now_us = now_us
        self.crowded = crowded
        self.standing = examine(counters, now_us, cost)

    def take(self) -> tuple[Standing, LocalLease | None]:
        lease = None if self._under_way is None else LocalLease(self._under_way)
        return take(self._counters, self.standing, self._now_us, self._cost), lease
