"""Limits decided in the memory of one worker: while Redis is away, or where none is configured.

A worker knows only its own calls, so it holds each caller to its share of the limit: one of as many as there are workers on
all nodes. It begins with nothing counted, so an outage lets through at most one limit more than without it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from weakref import WeakSet

from ostiary.core.limiting import Counter, Limit, carry_over, share
from ostiary.core.model import LimitMode
from ostiary.core.standing import Standing, amend, charge_refused, examine, take
from ostiary.gateway.limits.policy import LimitPolicy

# Whose calls are counted at once. A subject takes about 1 KB, and up to 15 KB when all slots of a window are in use; past
# the bound the one that called longest ago begins anew.
SUBJECTS_MAX = 4096


class LocalLease:
    """A call under way, among those of each bound that it counts in. It frees its places when it is released or forgotten."""

    __slots__ = ("__weakref__", "_among")

    def __init__(self, among: Sequence[WeakSet[LocalLease]]) -> None:
        self._among = among
        for under_way in among:
            under_way.add(self)

    def release(self) -> None:
        for under_way in self._among:
            under_way.discard(self)


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
        under_way: list[WeakSet[LocalLease]] = []
        crowded: int | None = None
        would_refuse: list[int] = []
        limits_n = sum(map(len, shares))
        name = iter(names)
        for part, limits in zip(policy.parts, shares, strict=True):
            if limits:
                counters += self._counters_of(next(name), limits, now_us)
            if part.concurrency is not None:
                place = limits_n + len(under_way)
                among = self._under_way_of(next(name))
                under_way.append(among)
                if len(among) < share(part.concurrency.at_most, sharers):
                    continue
                if part.concurrency.mode is LimitMode.SHADOW:
                    would_refuse.append(place)
                elif crowded is None:
                    crowded = place
        return LocalQuestion(counters, under_way, crowded, would_refuse, now_us, policy.cost)

    def settle(
        self,
        policy: LimitPolicy,
        names: Sequence[str],
        skipped: Collection[int],
        difference: int,
        taken_us: int,
        now_us: int,
    ) -> None:
        """What a call that was taken turned out to cost more, or less; `names` are those of its decision, `skipped` the
        places of limits that did not count it. A subject that is forgotten has nothing to settle."""
        name, first = iter(names), 0
        for part in policy.parts:
            if part.limits:
                counters = self._counters.get(next(name))
                if counters is not None:
                    alone = [place - first for place in skipped]
                    amend(counters, difference, taken_us, now_us, alone=alone)
                first += len(part.limits)
            if part.concurrency is not None:
                next(name)

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
    """A request that was examined and may be taken, or charged as a refused one: in one go, no other decision comes between.

    `crowded` is the place of the bound on calls under way that refuses it."""

    __slots__ = ("_cost", "_counters", "_now_us", "_under_way", "crowded", "standing")

    def __init__(
        self,
        counters: Sequence[Counter],
        under_way: Sequence[WeakSet[LocalLease]],
        crowded: int | None,
        would_refuse: Sequence[int],
        now_us: int,
        cost: int,
    ) -> None:
        self._cost = cost
        self._counters = counters
        self._under_way = under_way
        self._now_us = now_us
        self.crowded = crowded
        standing = examine(counters, now_us, cost)
        if would_refuse and not standing.refused:
            standing = replace(standing, would_refuse=(*standing.would_refuse, *would_refuse))
        self.standing = standing

    def take(self) -> tuple[Standing, LocalLease | None]:
        limits_n = len(self._counters)
        skipped = self.standing.would_refuse
        of_limits = tuple(place for place in skipped if place < limits_n)
        lease: LocalLease | None = None
        if self._under_way:
            lease = LocalLease([among for at, among in enumerate(self._under_way) if limits_n + at not in skipped])
        standing = take(self._counters, replace(self.standing, would_refuse=of_limits), self._now_us, self._cost)
        return replace(standing, would_refuse=skipped), lease

    def charge_refused(self) -> Standing:
        """After it was refused: how the same call would stand now."""
        return charge_refused(self._counters, self.standing, self._now_us, self._cost)
