"""What is counted about decisions on limits, and about the store that takes them."""

from __future__ import annotations

from .metrics import Counter, Metrics


class LimiterMeters:
    """A `LimiterObserver`. Limits and decisions are few, so their counters are found in a dictionary, and most decisions are
    like the one before."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._decisions: dict[tuple[str, str], Counter] = {}
        self._last_limit = self._last_decision = ""
        self._last: Counter | None = None
        self.round_trip = metrics.histogram("rate_limit_store_duration_seconds").observe

    def decided(self, limit: str, decision: str) -> None:
        counter = self._last
        if counter is None or limit is not self._last_limit or decision is not self._last_decision:
            counter = self._decisions.get((limit, decision))
            if counter is None:
                counter = self._metrics.counter("rate_limit_decisions_total", limit=limit, decision=decision)
                self._decisions[limit, decision] = counter
            self._last_limit, self._last_decision, self._last = limit, decision, counter
        counter.add(1.0)

    def store_failed(self, kind: str) -> None:
        self._metrics.counter("rate_limit_store_failures_total", kind=kind).add(1.0)

    def settled(self, result: str) -> None:
        self._metrics.counter("rate_limit_settlements_total", result=result).add(1.0)

    def slice_asked(self, result: str) -> None:
        self._metrics.counter("rate_limit_slices_total", result=result).add(1.0)

    def store_forgot(self, reason: str) -> None:
        self._metrics.counter("rate_limit_store_forgot_total", reason=reason).add(1.0)
