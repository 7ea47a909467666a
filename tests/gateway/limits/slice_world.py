"""Workers with slices, a Redis, a network and clocks, all simulated: hours of bad luck in a second.

Redis counts by the reference arithmetic (core/limiting.py). A message takes as long as the test says; each worker has a clock
of its own, which is ahead of Redis's and runs at another rate. Every call that is let in is logged at the true moment."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import cast

from ostiary.core.limiting import Counter, Limit, WindowCounter, carry_over
from ostiary.core.slicing import sliced
from ostiary.core.standing import amend, examine, take
from ostiary.gateway.limits import LimitPolicy, script
from ostiary.gateway.limits.connection import RedisConnection
from ostiary.gateway.limits.decision import UnobservedLimiter
from ostiary.gateway.limits.slices import SWEEP_SECONDS, Returned, SliceRequest, Slices
from tests.gateway.limits.decision_log import Entry, Event
from tests.gateway.limits.verifier import SECOND_US

BEGIN_US = 1_790_000_000 * SECOND_US + 123_456
NAMES = ["ost:{k:one}:plan"]

Answer = tuple[int, int, int, int]


@dataclass
class FakeConnection:
    is_open: bool = True


class World:
    """`now_us` is the true time, and Redis's clock. `delay_us` tells how long the next message takes."""

    def __init__(self, limits: LimitPolicy, *, workers: int, random: Random, delays_us: tuple[int, int]) -> None:
        self.now_us = BEGIN_US
        self.limits = limits
        self.log: list[Entry] = []
        self.random = random
        self._delays_us = delays_us
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._counters: list[Counter] = []
        self._limits = [limit for part in limits.parts for limit in part.limits]
        self.workers = [SimulatedWorker(self, sharers=workers) for _ in range(workers)]

    def later(self, delay_us: int, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now_us + delay_us, next(self._numbers), event))

    def run_until(self, moment_us: int) -> None:
        while self._events and self._events[0][0] <= moment_us:
            self.now_us, _, event = heapq.heappop(self._events)
            event()
        self.now_us = moment_us

    def delay_us(self) -> int:
        return self.random.randint(*self._delays_us)

    # --- Redis ----------------------------------------------------------------------------------------------------------

    def decide(self, calls: int, *, a_slice: bool) -> Answer:
        counters = self._held_to([sliced(limit) for limit in self._limits] if a_slice else self._limits)
        standing = examine(counters, self.now_us, calls)
        index = standing.index if standing.index is not None else script.NO_LIMIT
        if standing.refused:
            return script.RATE_LIMITED, index, standing.remaining, standing.reset_seconds
        taken = take(counters, standing, self.now_us, calls)
        self._counters = counters
        return script.OVERAGE * taken.overage, index, taken.remaining, taken.reset_seconds

    def take_back(self, returned: Returned) -> None:
        self._counters = self._held_to(self._limits)
        amend(self._counters, returned.difference, returned.taken_us, self.now_us, ends_us=returned.ends_us)

    def left(self) -> int:
        """Of the limit that is nearest to running out."""
        counters = self._held_to(self._limits)
        for counter in counters:
            counter.settle(self.now_us)
        return min(counter.left() for counter in counters)

    def slots(self) -> dict[int, int]:
        """What the first window has counted, by when each slot is forgotten."""
        counter = next(counter for counter in self._counters if isinstance(counter, WindowCounter))
        return {slot[0]: slot[1] for slot in counter.slots}

    def held(self) -> int:
        """Taken and not spent, by all workers together."""
        return sum(each.left for worker in self.workers for each in worker.slices._held.values())

    def _held_to(self, limits: Sequence[Limit]) -> list[Counter]:
        """A copy of what is counted: what is refused is not written back."""
        counters = carry_over(self._counters, limits, self.now_us)
        for counter in counters:
            if isinstance(counter, WindowCounter):
                counter.slots = deque([slot.copy() for slot in counter.slots])
        return counters


class SimulatedWorker:
    """Asks as the limiter does: of its slices, else of Redis."""

    def __init__(self, world: World, *, sharers: int) -> None:
        self._world = world
        self._ahead = world.random.uniform(1e3, 1e6)
        self._rate = world.random.uniform(0.9995, 1.0005)
        self.connection = FakeConnection()
        self.slices = Slices(
            sharers=lambda: sharers,
            place_of=lambda names: 0,
            flush_soon=self._flush,
            wake=self._wake,
            observe=UnobservedLimiter(),
        )

    def now(self) -> float:
        return self._ahead + (self._world.now_us - BEGIN_US) / 1e6 * self._rate

    def call(self) -> None:
        world, policy = self._world, self._world.limits
        assert policy.slicing is not None
        if self.slices.spend(policy, policy.slicing, NAMES, self.now()) is not None:
            world.log.append(Entry(world.now_us, Event.ALLOWED, 0, policy.cost))
        else:
            world.later(world.delay_us(), self._decide)

    def _decide(self) -> None:
        world = self._world
        code, index, remaining, reset = world.decide(world.limits.cost, a_slice=False)
        event = Event.ALLOWED if code in (script.ALLOWED, script.OVERAGE) else Event.RATE_LIMITED
        world.log.append(Entry(world.now_us, event, 0, world.limits.cost))
        assert world.limits.slicing is not None
        slicing = world.limits.slicing
        world.later(world.delay_us(), lambda: self.slices.told(slicing, NAMES, index, remaining, reset))

    def _flush(self) -> None:
        world = self._world
        sent_at = self.now()
        for request in self.slices.take_wanted():
            world.later(world.delay_us(), lambda request=request: self._take(request, sent_at))  # type: ignore[misc]
        for returned in self.slices.take_returned():
            world.later(world.delay_us(), lambda returned=returned: world.take_back(returned))  # type: ignore[misc]

    def _take(self, request: SliceRequest, sent_at: float) -> None:
        world = self._world
        answer, taken_us = world.decide(request.calls, a_slice=True), world.now_us

        def answered() -> None:
            self.slices.answered(
                request,
                answer,
                taken_us=taken_us,
                sent_at=sent_at,
                now=self.now(),
                connection=cast(RedisConnection, self.connection),
            )

        world.later(world.delay_us(), answered)

    def _wake(self) -> None:
        """A busy worker looks late."""
        late_us = self._world.random.choice((0, 0, 0, 40_000, 400_000))
        self._world.later(int(SWEEP_SECONDS * 1e6) + late_us, lambda: self.slices.sweep(self.now()))
