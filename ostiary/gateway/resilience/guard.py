"""One upstream's ejections, breaker and budget of further tries, as forward asks them and tells them how its calls went."""

from __future__ import annotations

from math import ceil

from ostiary.core.errors import ErrorCode, GatewayError
from ostiary.core.upstream import Upstream
from ostiary.gateway.telemetry.upstream_meters import UpstreamMeters

from .breaker import BreakerState, CircuitBreaker
from .budget import RetryBudget
from .target_health import TargetHealth


class Guard:
    """`began` is when an attempt did, `epoch` what `admit` gave for its call. Each attempt is told once: by `succeeded`,
    `failed` or `abandoned`."""

    __slots__ = ("_breaker", "_breaker_on", "_budget", "_ejection", "_ejection_on", "_meters", "_name")

    def __init__(
        self,
        upstream: Upstream,
        *,
        breaker: CircuitBreaker | None,
        budget: RetryBudget | None,
        meters: UpstreamMeters,
    ) -> None:
        self._name = upstream.name
        # The only target of an upstream is never out for long: nothing is gained by counting its failures.
        self._ejection = upstream.ejection if len(upstream.targets) > 1 else None
        self._ejection_on = self._ejection.on if self._ejection is not None else frozenset()
        self._breaker_on = upstream.breaker.on if upstream.breaker is not None else frozenset()
        self._breaker = breaker
        self._budget = budget
        self._meters = meters

    @property
    def breaker_state(self) -> str | None:
        """None without a breaker."""
        return None if self._breaker is None else self._breaker.state.value

    def publish(self) -> None:
        if self._breaker is not None:
            self._meters.breaker_open(self._breaker.state)

    def admit(self, now: float) -> int:
        """A call begins. Raises UPSTREAM_UNHEALTHY while the breaker is open."""
        breaker, epoch = self._breaker, 0
        if breaker is not None:
            before = breaker.state
            wait_seconds = breaker.refuses(now)
            if breaker.state is not before:
                self._meters.breaker_changed(breaker.state)
            if wait_seconds:
                self._meters.refused_by_breaker()
                raise GatewayError(
                    ErrorCode.UPSTREAM_UNHEALTHY,
                    f"upstream {self._name}: the breaker is open",
                    headers=(("Retry-After", str(ceil(wait_seconds))),),
                )
            epoch = breaker.epoch
        if self._budget is not None:
            self._budget.call(now)
        return epoch

    def succeeded(self, target: int, health: TargetHealth, began: float, epoch: int, now: float) -> None:
        """The target with this number gave an answer."""
        if (health.failures or health.ejected) and health.succeeded(began, now):
            self._meters.reinstated(target, healthy=not health.out)
        if (breaker := self._breaker) is not None:
            before = breaker.state
            breaker.succeeded(epoch, now)
            if breaker.state is not before:
                self._meters.breaker_changed(breaker.state)

    def failed(self, target: int, health: TargetHealth, cause: str, began: float, epoch: int, now: float) -> None:
        """`cause` is one of `upstream.TARGET_FAULTS`, or a status."""
        if cause in self._ejection_on:
            seconds = health.failed(self._ejection, began, now)
            if seconds:
                self._meters.ejected(target, cause=cause, seconds=seconds)
        elif not cause.isdigit():
            health.failed(None, began, now)
            health.end_trial()
        elif health.succeeded(began, now):  # an answer all the same: the target works
            self._meters.reinstated(target, healthy=not health.out)
        if (breaker := self._breaker) is not None:
            before = breaker.state
            if cause in self._breaker_on:
                breaker.failed(epoch, now)
            else:
                breaker.succeeded(epoch, now)
            if breaker.state is not before:
                self._meters.breaker_changed(breaker.state)

    def abandoned(self, health: TargetHealth, epoch: int) -> None:
        """The attempt ended without telling anything about the target."""
        if health.ejected:
            health.end_trial()
        if self._breaker is not None:
            self._breaker.abandoned(epoch)

    def may_try_again(self, *, free: bool, now: float) -> bool:
        """Whether there is room for one more try: in the budget, which a `free` one is not part of, and by the breaker."""
        if self._breaker is not None and self._breaker.state is not BreakerState.CLOSED:
            return False
        if free or self._budget is None or self._budget.take(now):
            self._meters.retried()
            return True
        self._meters.retry_denied()
        return False
