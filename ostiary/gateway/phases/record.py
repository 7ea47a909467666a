"""record: metrics, log and usage, once for every exchange, before the client can have the last byte of its answer. Whatever
kills this process afterwards, a call that a client saw finished is in the spool."""

from __future__ import annotations

import logging
from typing import Final

from ostiary.core.errors import ErrorCode, Fault
from ostiary.gateway.exchange import Exchange
from ostiary.gateway.limits import QuotaEvents, QuotaReached
from ostiary.gateway.telemetry.meters import RouteMeters
from ostiary.gateway.telemetry.metrics import Counter, Metrics
from ostiary.gateway.usage import (
    CUT_SHORT_STATUS,
    ENTRIES_MAX,
    NOTHING_TOLD,
    ClientFields,
    Spool,
    encode,
    encode_begun,
    told_part,
)

logger: Final = logging.getLogger("ostiary.gateway.request")

CLIENT_GONE_STATUS: Final = CUT_SHORT_STATUS


_NO_EVENTS: Final[list[QuotaReached]] = []


def _written(event: QuotaReached) -> dict[str, str | int]:
    """As migration 0005 reads it."""
    return {
        "subject": event.subject,
        "quota": event.quota,
        "period_ends_us": event.period_ends_us,
        "percent": event.percent,
        "calls_max": event.limit,
    }


class Recorder:
    """`wall_clock_offset` turns the loop's clock into Unix time; it is renewed with every sweep of the deadlines.
    `client_fields` says what is recorded of clients."""

    def __init__(
        self, *, metrics: Metrics, spool: Spool | None, unrouted: RouteMeters, quota_events: QuotaEvents
    ) -> None:
        self._metrics = metrics
        self._errors: dict[ErrorCode, Counter] = {}
        self._spool = spool
        self._unrouted = unrouted
        self._quota_events = quota_events
        self._accepted = metrics.counter("usage_events_accepted_total")
        self._dropped = metrics.counter("usage_events_dropped_total")
        self._blocked = metrics.counter("usage_calls_blocked_total")
        self._overhead = metrics.histogram("gateway_overhead_seconds")
        self.wall_clock_offset = 0.0
        self.client_fields = ClientFields()

    def open(self, exchange: Exchange, now: float) -> None:
        """Before the upstream hears of the call: what is left of it, should this worker be killed before `record`."""
        spool, route, admission, decision = self._spool, exchange.route, exchange.admission, exchange.decision
        if spool is None or route is None or admission is None or not route.metered:
            return
        head, request_id = exchange.head, exchange.request_id
        begun = encode_begun(
            exchange.caller,
            route.usage,
            request_id,
            head.method,
            exchange.ip,
            head.values.get(b"user-agent"),
            self.client_fields,
        )
        overage = decision is not None and decision.overage
        exchange.slot = spool.open(begun, len(request_id), now + self.wall_clock_offset, overage)

    def record(self, exchange: Exchange, now: float) -> None:
        """Meters the call if it is known whose it is, or its route is open to everyone. Never raises for a request's sake."""
        status = exchange.answer_status or CLIENT_GONE_STATUS
        latency = now - exchange.started
        head, route, admission = exchange.head, exchange.route, exchange.admission
        if route is None:
            self._unrouted.request(head.method, status, latency)
        else:
            route.count(head.method, status, latency)
        if route is not None and route.edge is not None and route.edge.farewell is not None and route.metered:
            route.meters.deprecated(
                admission.key.app_id if admission is not None and admission.key is not None else None
            )
        if exchange.error is not None:
            self.count_error(exchange.error.code)
            self._log(exchange, status)
        upstream_us = -1
        if exchange.upstream_started:
            self._overhead.observe(exchange.upstream_started - exchange.started)
            answered = exchange.upstream_answered
            spent = (answered or now) - exchange.upstream_started
            upstream_us = int(spent * 1e6)
            if admission is not None and admission.group is not None:
                admission.group.calls.call(status if answered else 0, spent)
        if admission is None or route is None or not route.metered:
            return
        admission.usage.add(1)
        if self._spool is None:
            return
        decision, body = exchange.decision, exchange.body
        told, taken = NOTHING_TOLD, _NO_EVENTS
        if self._quota_events.pending or (decision is not None and decision.would_refuse):
            taken = self._quota_events.take(ENTRIES_MAX)
            told = told_part(decision.would_refuse if decision is not None else (), [_written(one) for one in taken])
        record = encode(
            exchange.caller,
            route.usage,
            exchange.request_id,
            now + self.wall_clock_offset,
            head.method,
            status,
            int(latency * 1e6),
            upstream_us,
            body.received_bytes if body is not None else exchange.bytes_in,
            exchange.bytes_out,
            exchange.ip,
            head.values.get(b"user-agent"),
            decision is not None and decision.overage,
            exchange.complete,
            told,
            self.client_fields,
        )
        if exchange.claimed:
            self._spool.release()
        if self._spool.append(record) if exchange.slot < 0 else self._spool.append_ended(record, exchange.slot):
            self._accepted.add(1)
        else:
            self._dropped.add(1)
            if taken:
                self._quota_events.put_back(taken)

    def record_shed(self, exchange: Exchange, now: float) -> None:
        """A call refused in overload: counted, and no line of its own, of which there would be thousands a second."""
        self._record_refused(exchange, now)

    def record_blocked(self, exchange: Exchange, now: float) -> None:
        """A call refused because it could not be metered: counted, and likewise no line. No usage event, which would have no
        room."""
        self._blocked.add(1)
        self._record_refused(exchange, now)

    def _record_refused(self, exchange: Exchange, now: float) -> None:
        route, latency = exchange.route, now - exchange.started
        if route is None:
            self._unrouted.request(exchange.head.method, exchange.answer_status, latency)
        else:
            route.count(exchange.head.method, exchange.answer_status, latency)
        self.count_error(ErrorCode.OVERLOADED)

    def count_error(self, code: ErrorCode) -> None:
        errors = self._errors.get(code)
        if errors is None:
            errors = self._errors[code] = self._metrics.counter("gateway_errors_total", code=code.code)
        errors.add(1.0)

    def _log(self, exchange: Exchange, status: int) -> None:
        """Why a request was refused or failed. The reason is ours and names no secret; the path template, never the path."""
        error = exchange.error
        assert error is not None  # noqa: S101  by the caller
        level = logging.INFO if error.code.value.fault is Fault.CLIENT else logging.WARNING
        if not logger.isEnabledFor(level):
            return
        route = exchange.route
        fields = {
            "code": error.code.code,
            "reason": error.reason,
            "status": status,
            "request_id": exchange.request_id.decode(),
            "ip": exchange.ip,
            "route": route.name if route is not None else None,
            "key_id": exchange.known_key.key.id if exchange.known_key is not None else None,
            "claimed_key_id": exchange.claimed_key_id,
        }
        logger.log(level, error.code.code, extra={"fields": fields})
