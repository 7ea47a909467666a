"""What is counted and logged about one upstream besides its calls (those are `calls`): targets that leave and come back, the
breaker, further tries, waits. All of it is rare, so slots are looked up when something happens."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from ostiary.gateway.resilience.breaker import BreakerState

from .meters import CallMeters
from .metrics import Metrics

logger: Final = logging.getLogger("ostiary.gateway.upstreams")


class UpstreamMeters:
    """`targets` are what metrics and log call them, in the order of the configuration."""

    def __init__(self, metrics: Metrics, upstream: str, targets: Sequence[str]) -> None:
        self._metrics = metrics
        self._upstream = upstream
        self._targets = tuple(targets)
        self.calls = CallMeters(metrics, upstream)

    def health(self, target: int, *, healthy: bool) -> None:
        slot = self._metrics.gauge("upstream_healthy", upstream=self._upstream, target=self._targets[target])
        self._metrics.values[slot] = float(healthy)

    def checked(self, target: int, *, passes: bool, healthy: bool) -> None:
        """Active checks have changed their mind."""
        self.health(target, healthy=healthy)
        name = "upstream_target_healthy" if passes else "upstream_target_unhealthy"
        logger.warning(name, extra={"fields": {"upstream": self._upstream, "target": self._targets[target]}})

    def ejected(self, target: int, *, cause: str, seconds: float) -> None:
        name = self._targets[target]
        self.health(target, healthy=False)
        self._count("upstream_ejections_total", target=name)
        fields = {"upstream": self._upstream, "target": name, "last_failure": cause, "seconds": seconds}
        logger.warning("upstream_target_ejected", extra={"fields": fields})

    def reinstated(self, target: int, *, healthy: bool) -> None:
        self.health(target, healthy=healthy)
        fields = {"upstream": self._upstream, "target": self._targets[target]}
        logger.warning("upstream_target_reinstated", extra={"fields": fields})

    def breaker_open(self, state: BreakerState) -> None:
        slot = self._metrics.gauge("upstream_breaker_open", upstream=self._upstream)
        self._metrics.values[slot] = float(state is not BreakerState.CLOSED)

    def breaker_changed(self, state: BreakerState) -> None:
        self.breaker_open(state)
        self._count("upstream_breaker_changes_total", state=state.value)
        logger.warning(f"upstream_breaker_{state.value}", extra={"fields": {"upstream": self._upstream}})

    def refused_by_breaker(self) -> None:
        self._count("upstream_breaker_refusals_total")

    def retried(self) -> None:
        self._count("upstream_retries_total", result="made")

    def retry_denied(self) -> None:
        self._count("upstream_retries_total", result="denied")

    def waited(self, result: str) -> None:
        """A call that wanted a connection while all were in use: `served`, `timed_out`, or `refused` as too many wait."""
        self._count("upstream_connection_waits_total", result=result)

    def _count(self, name: str, **labels: str) -> None:
        self._metrics.counter(name, upstream=self._upstream, **labels).add(1)
