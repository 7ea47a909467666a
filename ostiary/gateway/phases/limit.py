"""limit: is there budget? One decision for all limits, the quota and the nonce; nothing is spent when any of them refuses."""

from __future__ import annotations

from typing import Final

from ostiary.core.errors import ErrorCode, GatewayError
from ostiary.core.signing import nonce_lifetime_seconds
from ostiary.gateway.exchange import Exchange
from ostiary.gateway.limits import Limiter, Outcome

_CODES: Final = {
    Outcome.RATE_LIMITED: ErrorCode.RATE_LIMITED,
    Outcome.QUOTA_EXCEEDED: ErrorCode.QUOTA_EXCEEDED,
    Outcome.TOO_MANY_CONCURRENT: ErrorCode.TOO_MANY_CONCURRENT,
    Outcome.NONCE_REPLAYED: ErrorCode.NONCE_REPLAYED,
    Outcome.UNAVAILABLE: ErrorCode.LIMITS_UNAVAILABLE,
}
_SAFE_METHODS: Final = frozenset((b"GET", b"HEAD", b"OPTIONS"))


async def limit(exchange: Exchange, limiter: Limiter) -> None:
    """Sets `decision` where there is something to decide. Raises the 429s, NONCE_REPLAYED or LIMITS_UNAVAILABLE."""
    admission, route = exchange.admission, exchange.route
    assert admission is not None  # noqa: S101  authorize has set it
    assert route is not None  # noqa: S101  match has set it
    if admission.policy.empty and exchange.nonce is None:
        return
    key = admission.key
    decision = exchange.decision = await limiter.decide(
        admission.policy,
        on_failure=route.route.on_store_failure,
        key_id=key.id if key is not None else None,
        app_id=key.app_id if key is not None else None,
        organization_id=key.organization_id if key is not None else None,
        ip=exchange.ip,
        nonce=exchange.nonce,
        nonce_ttl_seconds=nonce_lifetime_seconds(exchange.snapshot.skew_seconds),
        signed_write=exchange.nonce is not None and exchange.head.method not in _SAFE_METHODS,
    )
    if decision.outcome is Outcome.ALLOWED:
        return
    headers: tuple[tuple[str, str], ...] = ()
    if decision.retry_after_seconds:
        headers = (("Retry-After", str(decision.retry_after_seconds)),)
    if decision.outcome is Outcome.NONCE_REPLAYED:
        headers = (("WWW-Authenticate", route.challenge),)
        route.meters.attempt(exchange.scheme, ErrorCode.NONCE_REPLAYED.code)
    raise GatewayError(_CODES[decision.outcome], f"limit {decision.limit}", headers=headers)
