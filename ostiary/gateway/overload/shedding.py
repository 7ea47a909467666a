"""Shedding: which calls an overloaded worker refuses, and how it keeps refusals from eating what is left of it.

A heartbeat runs in every turn of the event loop, and every `BEAT_SECONDS` in an idle one. How late it comes is how long
sockets waited. Once it has been late for `STANDING_SECONDS` without a break there is a standing queue and not a burst,
and each call's wait is looked at: the time since the last beat is how long its turn has been running. So a turn serves what
it can in that time, and refuses the rest of what has piled up.

A refusal costs half of a served call (33 of 56 µs, interpreted), most of it for reading and writing, which no cleverness
saves. Clients that come back at once could have a worker do little but refuse. So a connection is not read for a while after
a refusal: while turns are late, one connection is taken back for ten calls that were let in, and all after the shortest
Retry-After. What such a client sends meanwhile waits in the system's buffers, at no cost, and is refused again if turns are
still late then."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from ostiary.gateway.telemetry.metrics import Metrics

from .pressure import ALWAYS, MEMORY_PART_MAX, NOBODY, RANKS, Pressure, patience

if TYPE_CHECKING:
    from ostiary.gateway.wire.client import ClientConnection

HIGHEST: Final = len(RANKS) - 1
BEAT_SECONDS: Final = 0.02  # 50 wake-ups a second of an idle worker: 0.1 % of a processor
LATE_SECONDS: Final = 0.05  # the least patience there is: a worker that is never later than this makes nobody wait
STANDING_SECONDS: Final = 0.3
# So many calls are let in in each turn, however late it is: they take a few milliseconds. A worker that gets too little of a
# processor, as while others start beside it, is late with next to nothing to do; to refuse that would help nobody.
FEW_CALLS: Final = 20
STALL_SECONDS: Final = 0.2
# How long a sign of overload counts. Shorter, and ranks would open and shut with every turn.
CALM_SECONDS: Final = 1.0
# A share of what is served, and no rate: a worker that gets a fifth of a processor can afford a fifth of the refusals.
# (At 2 000 a second, one that did spent a third of its time on them.)
SERVED_PER_TAKEN_BACK: Final = 10
# Turns are short, so there is time for those who wait; not all at once, or they would be the next burst.
TAKEN_BACK_PER_SECOND: Final = 5_000
HELD_SECONDS_MAX: Final = 2.0  # the shortest Retry-After that phases/shed.py tells


class Shedder:
    """`watchful` is all that the request path asks while nothing is wrong."""

    def __init__(self, *, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        self.watchful = False
        self.patience = (ALWAYS, ALWAYS, ALWAYS)
        self.shed = 0  # calls refused since the start
        self._clock = clock
        self._values = metrics.values
        self._gauge = metrics.gauge("gateway_overloaded")
        by_rank = {rank: metrics.counter("requests_shed_total", priority=name) for name, rank in RANKS.items()}
        self._counters = [by_rank[rank] for rank in range(len(by_rank))]
        self._beat = clock()
        self._late_since = -1.0  # none
        self._waiting_until = 0.0
        self._stalled_until = 0.0
        self._memory = 0.0
        self._refused_until = [0.0] * len(RANKS)
        self._let_in = 0  # since the last beat
        self._held: deque[tuple[float, ClientConnection]] = deque()
        self._overdue: set[ClientConnection] = set()

    def refuses(self, rank: int, client: ClientConnection) -> bool:
        """Whether a call of this rank that `client` makes, met now, is refused. Asked only while `watchful`."""
        now = self._clock()
        bound = self.patience[rank]
        overdue = rank < HIGHEST and client in self._overdue
        few = self._let_in < FEW_CALLS and self._memory < MEMORY_PART_MAX[rank]
        if (few or now - self._beat <= bound) and not overdue:
            self._let_in += 1
            return False
        self.shed += 1
        self._counters[rank].add(1)
        if bound > 0 and not overdue:  # it waited too long: then nothing below its rank may take its time
            self._refused_until[rank] = now + CALM_SECONDS
        return True

    def hold(self, client: ClientConnection) -> None:
        """The connection of a refused call waits to be taken back."""
        client.hold()
        self._held.append((self._clock(), client))

    def beat(self) -> None:
        """Once in every turn of the loop. Takes stock, and takes connections back."""
        now = self._clock()
        passed = now - self._beat
        late = passed - BEAT_SECONDS
        if late <= LATE_SECONDS:
            self._late_since = -1.0
        elif self._late_since < 0:
            self._late_since = self._beat
        elif now - self._late_since >= STANDING_SECONDS:
            self._waiting_until = now + CALM_SECONDS
        if late >= STALL_SECONDS:
            self._stalled_until = now + CALM_SECONDS
        self._beat = now
        self._take_stock(now)
        self._overdue.clear()
        if self._held:
            self._take_back(now, passed, late)
        self._let_in = 0

    def memory_is(self, part: float) -> None:
        """The part of its bound that the worker's memory takes, as of now."""
        self._memory = part

    @property
    def held(self) -> int:
        """Connections that are not read."""
        return len(self._held)

    def _take_stock(self, now: float) -> None:
        refused = NOBODY
        for rank, until in enumerate(self._refused_until):
            if until > now:
                refused = rank
        self.patience = patience(
            Pressure(
                waiting=self._waiting_until > now,
                stalled=self._stalled_until > now,
                refused=refused,
                memory=self._memory,
            )
        )
        self.watchful = self.patience != (ALWAYS, ALWAYS, ALWAYS)
        self._values[self._gauge] = float(self.watchful)

    def _take_back(self, now: float, passed: float, late: float) -> None:
        time_to_spare = late <= LATE_SECONDS
        budget = 1 + (int(passed * TAKEN_BACK_PER_SECOND) if time_to_spare else self._let_in // SERVED_PER_TAKEN_BACK)
        held = self._held
        while held and (budget > 0 or now - held[0][0] >= HELD_SECONDS_MAX):
            budget -= 1
            client = held.popleft()[1]
            if not time_to_spare:
                # What is met in this turn was sent while the connection was held, by a client that did not heed Retry-After:
                # nobody knows how long ago. To serve it could be to serve a caller who has given up.
                self._overdue.add(client)
            client.take_back()
