"""What a worker has learnt of an upstream. It outlives a reload: a target that was found bad is no better after it, and
a breaker that every reload closed would protect nothing."""

from __future__ import annotations

from dataclasses import replace

from ostiary.core.upstream import Breaker, Target, Upstream
from ostiary.gateway.telemetry.upstream_meters import UpstreamMeters

from .breaker import CircuitBreaker
from .budget import RetryBudget
from .guard import Guard
from .target_health import TargetHealth


class UpstreamMemory:
    """Of one upstream, by its name. A breaker or a budget whose settings change begins anew."""

    def __init__(self) -> None:
        self._targets: dict[Target, TargetHealth] = {}
        self._breaker: tuple[Breaker, CircuitBreaker] | None = None
        self._budget: tuple[float, RetryBudget] | None = None

    def health_of(self, target: Target) -> TargetHealth:
        server = _server(target)
        health = self._targets.get(server)
        if health is None:
            health = self._targets[server] = TargetHealth()
        return health

    def guard(self, upstream: Upstream, meters: UpstreamMeters) -> Guard | None:
        """None where there is nothing to decide: a single target, nothing to try again, no breaker."""
        several = len(upstream.targets) > 1
        breaker = self._breaker_by(upstream.breaker) if upstream.breaker is not None else None
        retries = upstream.retries
        tries_again = retries.attempts > 1 and (several or retries.on != {"connect"})
        budget = self._budget_by(retries.budget_share) if tries_again else None
        if breaker is None and budget is None and (upstream.ejection is None or not several):
            return None
        return Guard(upstream, breaker=breaker, budget=budget, meters=meters)

    def keep(self, upstream: Upstream) -> None:
        """The configuration in force is this one: what it has not is forgotten."""
        servers = {_server(target) for target in upstream.targets}
        for target in self._targets.keys() - servers:
            del self._targets[target]
        if upstream.breaker is None:
            self._breaker = None
        if upstream.ejection is None or len(servers) == 1:
            for health in self._targets.values():
                health.forget_ejection()

    def _breaker_by(self, rule: Breaker) -> CircuitBreaker:
        if self._breaker is None or self._breaker[0] != rule:
            self._breaker = (rule, CircuitBreaker(rule))
        return self._breaker[1]

    def _budget_by(self, share: float) -> RetryBudget:
        if self._budget is None or self._budget[0] != share:
            self._budget = (share, RetryBudget(share))
        return self._budget[1]


def _server(target: Target) -> Target:
    """Neither its share of the calls nor a renewed certificate says anything about how it is."""
    return replace(target, weight=1, tls=None)
