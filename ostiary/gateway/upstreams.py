"""Which target of an upstream takes a request. Choosing is arithmetic over values; connecting is the pool's."""

from __future__ import annotations

from collections.abc import Collection
from hashlib import blake2b
from math import log

from ostiary.core.model import Balance, Upstream
from ostiary.gateway.wire.pool import TargetPool


class UpstreamGroup:
    """An upstream and the pools of its targets, in the order of the configuration."""

    def __init__(self, upstream: Upstream, pools: tuple[TargetPool, ...]) -> None:
        self.upstream = upstream
        self.name = upstream.name
        self.pools = pools
        self._weights = tuple(target.weight for target in upstream.targets)
        # No id and no address has a NUL: no other caller and target give the same bytes together.
        self._marks = tuple(f"\0{target.host}:{target.port}".encode() for target in upstream.targets)
        self._credits = [0] * len(pools)
        self._alone = pools[0] if len(pools) == 1 else None

    def choose(self, key: str, tried: Collection[TargetPool] = ()) -> TargetPool | None:
        """The target for a request of the caller `key`, or None when every healthy one was tried.

        While all targets are unhealthy they are used as if all were healthy: the checks may be what is wrong, and refusing
        everything is no better than trying."""
        if self._alone is not None and not tried:
            return self._alone
        candidates = [
            index for index, pool in enumerate(self.pools) if pool.healthy and pool not in tried and not pool.full
        ]
        if not candidates and not any(pool.healthy for pool in self.pools):
            candidates = [index for index, pool in enumerate(self.pools) if pool not in tried]
        if not candidates:
            return None
        balance = self.upstream.balance
        if balance is Balance.LEAST_CONNECTIONS:
            return self.pools[min(candidates, key=lambda index: self.pools[index].in_flight / self._weights[index])]
        if balance is Balance.CONSISTENT_HASH:
            return self.pools[max(candidates, key=lambda index: self._affinity(key, index))]
        return self.pools[self._next_in_turn(candidates)]

    def _next_in_turn(self, candidates: list[int]) -> int:
        """Smooth weighted round robin: over `sum(weights)` turns each target has its weight's share, spread evenly."""
        credits, weights = self._credits, self._weights
        total = 0
        for index in candidates:
            credits[index] += weights[index]
            total += weights[index]
        chosen = max(candidates, key=credits.__getitem__)
        credits[chosen] -= total
        return chosen

    def _affinity(self, key: str, index: int) -> float:
        """Weighted rendezvous hashing: a target that leaves moves only its own callers, each has its weight's share of them.

        With `u` evenly spread over 0 to 1, `-weight / ln(u)` is the largest in proportion to the weights; `weight * u` is not
        (it gives two targets of weights 1 and 2 a quarter and three quarters). A CRC won't do: those of one key with two
        targets always differ by the same bits."""
        mark = int.from_bytes(blake2b(key.encode() + self._marks[index], digest_size=6).digest())
        return -self._weights[index] / log((mark + 0.5) / (1 << 48))
