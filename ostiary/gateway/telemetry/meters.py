"""The metrics of the request path, resolved to slots once per route: counting a call is a few additions."""

from __future__ import annotations

from typing import Final

from .metrics import Histogram, Metrics

_STATUS_CLASSES: Final = ("1xx", "2xx", "3xx", "4xx", "5xx")


class RouteMeters:
    """What is counted about one route."""

    def __init__(self, metrics: Metrics, route: str) -> None:
        self._metrics = metrics
        self._route = route
        self._requests: dict[tuple[bytes, int], int] = {}
        self._durations: dict[tuple[bytes, int], Histogram] = {}
        self._upstreams: dict[tuple[str, int], int] = {}
        self._upstream_durations: dict[str, Histogram] = {}
        self._attempts: dict[tuple[str, str], int] = {}
        self.overhead = metrics.histogram("gateway_overhead_seconds")

    def usage(self, app: str | None, plan: str | None, environment: str | None) -> int:
        """The slot of `api_key_usage_total` for a caller."""
        return self._metrics.counter(
            "api_key_usage_total", app=app or "", plan=plan or "", environment=environment or ""
        )

    def request(self, method: bytes, status: int, seconds: float) -> None:
        metrics = self._metrics
        key = (method, status)
        slot = self._requests.get(key)
        if slot is None:
            name = _method_label(method)
            slot = metrics.counter("http_requests_total", route=self._route, method=name, status=str(status))
            self._requests[key] = slot
            self._durations[key] = metrics.histogram(
                "http_request_duration_seconds",
                route=self._route,
                method=name,
                status_class=_STATUS_CLASSES[status // 100 - 1],
            )
        metrics.values[slot] += 1
        self._durations[key].observe(seconds)

    def upstream(self, name: str, status: int, seconds: float) -> None:
        """`status` 0 for an upstream that gave no answer."""
        metrics = self._metrics
        slot = self._upstreams.get((name, status))
        if slot is None:
            slot = metrics.counter("upstream_requests_total", upstream=name, status=str(status) if status else "none")
            self._upstreams[(name, status)] = slot
            self._upstream_durations[name] = metrics.histogram("upstream_request_duration_seconds", upstream=name)
        metrics.values[slot] += 1
        self._upstream_durations[name].observe(seconds)

    def attempt(self, scheme: str, result: str) -> None:
        """An authentication attempt; `result` is `accepted` or the code of the refusal."""
        slot = self._attempts.get((scheme, result))
        if slot is None:
            slot = self._metrics.counter("api_key_auth_attempts_total", scheme=scheme, result=result)
            self._attempts[(scheme, result)] = slot
        self._metrics.values[slot] += 1


# Clients choose methods: those beyond the usual are one label (contract: cardinality is bounded).
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def _method_label(method: bytes) -> str:
    name = method.decode()
    return name if name in _METHODS else "other"
