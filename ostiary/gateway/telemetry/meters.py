"""The metrics of the request path, looked up once per route: counting a call is a few additions."""

from __future__ import annotations

from typing import Final

from .metrics import Counter, Histogram, Metrics

# Clients choose methods: those beyond the usual are one label, and one entry here (contract: cardinality is bounded).
_METHODS: Final = frozenset((b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"))
_OTHER: Final = b"other"
_STATUS_CLASSES: Final = ("1xx", "2xx", "3xx", "4xx", "5xx")


class Meter:
    """A counter and the durations of what it counts, found by one look-up."""

    __slots__ = ("counter", "durations")

    def __init__(self, counter: Counter, durations: Histogram) -> None:
        self.counter = counter
        self.durations = durations


class RouteMeters:
    """What is counted about one route, over reloads. CompiledRoute keeps at hand what counts most of its calls."""

    def __init__(self, metrics: Metrics, route: str) -> None:
        self._metrics = metrics
        self._route = route
        self._requests: dict[tuple[bytes, int], Meter] = {}
        self._attempts: dict[tuple[str, str], Counter] = {}
        self._last_attempt = ("", "")
        self._last_attempts: Counter | None = None

    def usage(self, app: str | None, plan: str | None, environment: str | None) -> Counter:
        """`api_key_usage_total` for a caller."""
        return self._metrics.counter(
            "api_key_usage_total", app=app or "", plan=plan or "", environment=environment or ""
        )

    def request(self, method: bytes, status: int, seconds: float) -> None:
        meter = self.meter(method, status)
        meter.counter.add(1.0)
        meter.durations.observe(seconds)

    def meter(self, method: bytes, status: int) -> Meter:
        """What counts calls by this method that were answered with this status."""
        return self._requests.get((method, status)) or self._new_meter(method, status)

    def _new_meter(self, method: bytes, status: int) -> Meter:
        if method not in _METHODS:
            method = _OTHER
            if (known := self._requests.get((method, status))) is not None:
                return known
        name, metrics, route = method.decode(), self._metrics, self._route
        status_class = _STATUS_CLASSES[status // 100 - 1]
        # Before the counter, which then lies beside the sum of the durations, mostly in one line of a cache.
        durations = metrics.histogram(
            "http_request_duration_seconds", route=route, method=name, status_class=status_class
        )
        counter = metrics.counter("http_requests_total", route=route, method=name, status=str(status))
        meter = self._requests[method, status] = Meter(counter, durations)
        return meter

    def deprecated(self, app: str | None) -> None:
        """A call of a route that is on its way out. Looked up anew each time: apps are many, and such routes are few."""
        self._metrics.counter("deprecated_requests_total", route=self._route, app=app or "").add(1.0)

    def attempt(self, scheme: str, result: str) -> None:
        """An authentication attempt; `result` is `accepted` or the code of the refusal."""
        attempts = self._last_attempts
        last_scheme, last_result = self._last_attempt
        if attempts is None or scheme is not last_scheme or result is not last_result:
            key = (scheme, result)
            attempts = self._attempts.get(key)
            if attempts is None:
                attempts = self._metrics.counter("api_key_auth_attempts_total", scheme=scheme, result=result)
                self._attempts[key] = attempts
            self._last_attempt, self._last_attempts = key, attempts
        attempts.add(1.0)


class CallMeters:
    """What is counted about the calls to one upstream, whichever route they come by."""

    def __init__(self, metrics: Metrics, upstream: str) -> None:
        self._metrics = metrics
        self._upstream = upstream
        self._by_status: dict[int, Meter] = {}
        self._last_status = -1
        self._last: Meter | None = None

    def call(self, status: int, seconds: float) -> None:
        """`status` 0 for an upstream that gave no answer."""
        meter = self._last
        if meter is None or status != self._last_status:
            meter = self._by_status.get(status) or self._meter(status)
            self._last_status = status
            self._last = meter
        meter.counter.add(1.0)
        meter.durations.observe(seconds)

    def _meter(self, status: int) -> Meter:
        shown = str(status) if status else "none"
        counter = self._metrics.counter("upstream_requests_total", upstream=self._upstream, status=shown)
        durations = self._metrics.histogram("upstream_request_duration_seconds", upstream=self._upstream)
        meter = self._by_status[status] = Meter(counter, durations)
        return meter
