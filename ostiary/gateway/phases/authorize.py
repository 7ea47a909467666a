"""authorize: may this caller do this? Only after it is known who calls."""

from __future__ import annotations

from ostiary.core.errors import ErrorCode, GatewayError
from ostiary.gateway.exchange import Exchange


def authorize(exchange: Exchange) -> None:
    """Sets `admission`. Raises ENVIRONMENT_MISMATCH, SCOPE_MISSING, IP_NOT_ALLOWED or ORIGIN_NOT_ALLOWED."""
    route = exchange.route
    assert route is not None  # noqa: S101  match has set it
    if exchange.known_key is None:
        exchange.admission = route.everyone
        return
    admission = exchange.admission = route.admission(exchange.known_key)
    key = exchange.known_key.key
    if admission.refused is not None:
        raise GatewayError(admission.refused, f"no {key.environment.value} upstream")
    if not route.scopes_hold(admission, exchange.head.method):
        raise GatewayError(ErrorCode.SCOPE_MISSING, "scope missing")
    if admission.networks is not None and not admission.networks.hold(exchange.ip):
        raise GatewayError(ErrorCode.IP_NOT_ALLOWED, "address outside the key's networks")
    # A caller that is no browser sends no Origin, and could send any: this protects a key in a page, nothing else.
    origin = exchange.head.values.get(b"origin")
    if key.allowed_origins and origin is not None and origin.decode("latin-1") not in key.allowed_origins:
        raise GatewayError(ErrorCode.ORIGIN_NOT_ALLOWED, "origin outside the key's list")
