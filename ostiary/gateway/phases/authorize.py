"""authorize: may this caller do this? Only after it is known who calls."""

from __future__ import annotations

from ostiary.core.errors import ErrorCode, GatewayError
from ostiary.gateway.exchange import Exchange
from ostiary.gateway.snapshot import Admission


def authorize(exchange: Exchange) -> None:
    """Sets `admission`, and what later phases need of it. Raises ENVIRONMENT_MISMATCH, SCOPE_MISSING, IP_NOT_ALLOWED or
    ORIGIN_NOT_ALLOWED."""
    route = exchange.route
    assert route is not None  # noqa: S101  match has set it
    if exchange.known_key is None:
        _take(exchange, route.everyone)
        return
    known = exchange.known_key
    admission = route.admission(known)
    _take(exchange, admission)
    if admission.refused is not None:
        raise GatewayError(admission.refused, f"no {known.key.environment.value} upstream")
    if route.wants_scopes and not route.scopes_hold(admission, exchange.head.method):
        raise GatewayError(ErrorCode.SCOPE_MISSING, "scope missing")
    if admission.networks is not None and not admission.networks.hold(exchange.ip):
        raise GatewayError(ErrorCode.IP_NOT_ALLOWED, "address outside the key's networks")
    # A caller that is no browser sends no Origin, and could send any: this protects a key in a page, nothing else.
    origin = exchange.head.values.get(b"origin")
    if origin is not None:
        allowed = known.key.allowed_origins
        if allowed and origin.decode("latin-1") not in allowed:
            raise GatewayError(ErrorCode.ORIGIN_NOT_ALLOWED, "origin outside the key's list")


def _take(exchange: Exchange, admission: Admission) -> None:
    """Takes all that the call will need of its caller here, one after the other: of one who seldom calls none of it is in a
    cache, and so memory is asked for all of it at once (docs/decisions/0042-cold-routes.md)."""
    exchange.admission = admission
    exchange.identity = admission.identity
    exchange.caller = admission.caller
    exchange.limit_names = admission.limit_names
