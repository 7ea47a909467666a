"""Which target of an upstream takes a request. Choosing is arithmetic over values; connecting is the pool's."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from hashlib import blake2b
from math import log
from typing import Final

from ostiary.core.upstream import Balance, Upstream
from ostiary.gateway.resilience.guard import Guard
from ostiary.gateway.resilience.target_health import TargetHealth
from ostiary.gateway.telemetry.upstream_meters import UpstreamMeters
from ostiary.gateway.wire.pool import TargetPool

_LEAST_CONNECTIONS: Final = Balance.LEAST_CONNECTIONS
_CONSISTENT_HASH: Final = Balance.CONSISTENT_HASH


class Member:
    """A target of a group: `number` in the order of the configuration, its pool, and how it is."""

    __slots__ = ("health", "mark", "number", "pool", "turns", "weight")

    def __init__(self, number: int, pool: TargetPool, weight: int, health: TargetHealth) -> None:
        self.number = number
        self.pool = pool
        self.weight = weight
        self.health = health
        self.turns = 0  # what round robin owes it
        # No id and no address has a NUL: no other caller and target give the same bytes together.
        self.mark = f"\0{pool.target.host}:{pool.target.port}".encode()


class UpstreamGroup:
    """An upstream and its targets, in the order of the configuration. `guard` is None where nothing has to be guarded."""

    def __init__(
        self,
        upstream: Upstream,
        pools: Sequence[TargetPool],
        *,
        health: Sequence[TargetHealth],
        guard: Guard | None,
        meters: UpstreamMeters,
    ) -> None:
        self.upstream = upstream
        self.name = upstream.name
        # As attributes of a compiled class: each costs a call what a look-up does otherwise.
        self.first_byte_seconds = upstream.timeouts.first_byte_seconds
        self.idle_seconds = upstream.timeouts.idle_seconds
        self.whole_seconds = upstream.timeouts.whole_seconds
        self.guard = guard
        self.meters = meters
        self.calls = meters.calls
        self.members = tuple(
            Member(number, pool, target.weight, how)
            for number, (pool, target, how) in enumerate(zip(pools, upstream.targets, health, strict=True))
        )
        self._balance = upstream.balance
        self._weight = sum(member.weight for member in self.members)
        self._weight_out_max = self._weight * upstream.panic_share
        self._alone = self.members[0] if len(self.members) == 1 else None

    def publish(self) -> None:
        """Sets the gauges to what is known of the targets and the breaker: under a new configuration no change does."""
        for member in self.members:
            self.meters.health(member.number, healthy=not member.health.out)
        if self.guard is not None:
            self.guard.publish()

    def choose(self, key: str, now: float, tried: Collection[Member] = ()) -> Member | None:
        """The target for a request of the caller `key`, or None when every one that could take it was tried.

        A target that is out takes none but the trial that ends an ejection. While more than `panic_share` of the weight is
        out, all are used: the checks may be what is wrong, and what is left would fall under the load of all."""
        if self._alone is not None and not tried:
            return self._alone
        usable: list[Member] = []
        weight_out = 0
        for member in self.members:
            health = member.health
            if health.out:
                weight_out += member.weight
                if not health.trial_is_due(now):
                    continue
            usable.append(member)
        if weight_out > self._weight_out_max or weight_out == self._weight:
            usable = list(self.members)
        if tried:
            usable = [member for member in usable if member not in tried]
        # A target whose connections are all in use is left out, unless all are like that: then the call waits at one.
        candidates = [member for member in usable if not member.pool.full] or usable
        if not candidates:
            return None
        if self._balance is _LEAST_CONNECTIONS:
            chosen = min(candidates, key=_load)
        elif self._balance is _CONSISTENT_HASH:
            caller = key.encode()
            chosen = max(candidates, key=lambda member: _affinity(caller, member))
        else:
            chosen = _next_in_turn(candidates)
        if chosen.health.out and chosen.health.trial_is_due(now):
            chosen.health.begin_trial()
        return chosen


def _load(member: Member) -> float:
    return member.pool.in_flight / member.weight


def _next_in_turn(candidates: list[Member]) -> Member:
    """Smooth weighted round robin: over `sum(weights)` turns each target has its weight's share, spread evenly."""
    total = 0
    chosen = candidates[0]
    for member in candidates:
        member.turns += member.weight
        total += member.weight
        if member.turns > chosen.turns:
            chosen = member
    chosen.turns -= total
    return chosen


def _affinity(caller: bytes, member: Member) -> float:
    """Weighted rendezvous hashing: a target that leaves moves only its own callers, each has its weight's share of them.

    With `u` evenly spread over 0 to 1, `-weight / ln(u)` is the largest in proportion to the weights; `weight * u` is not
    (it gives two targets of weights 1 and 2 a quarter and three quarters). A CRC won't do: those of one key with two
    targets always differ by the same bits."""
    mark = int.from_bytes(blake2b(caller + member.mark, digest_size=6).digest())
    return -member.weight / log((mark + 0.5) / (1 << 48))
