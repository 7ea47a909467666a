"""How a credential is refused: counted by scheme and code, with a challenge, and with a reason for the log alone."""

from __future__ import annotations

from typing import NoReturn

from ostiary.core.errors import ErrorCode, GatewayError
from ostiary.gateway.exchange import Exchange
from ostiary.gateway.keys import KnownKey


def refuse(exchange: Exchange, scheme: str, code: ErrorCode, reason: str, detail: str | None = None) -> NoReturn:
    """Raises `code`. `scheme` labels the metric; `reason` is for the log and names no secret, `detail` for the client where
    that of the code does not fit."""
    route = exchange.route
    assert route is not None  # noqa: S101  match has set it
    route.meters.attempt(scheme, code.code)
    raise GatewayError(code, reason, detail=detail, headers=(("WWW-Authenticate", route.challenge),))


def count(exchange: Exchange, scheme: str, code: ErrorCode) -> None:
    """An attempt that ended without the credential being judged."""
    assert exchange.route is not None  # noqa: S101  match has set it
    exchange.route.meters.attempt(scheme, code.code)


def why_unverified(known: KnownKey | None) -> str:
    """What the log says of a signature that did not hold; the client is told none of it."""
    if known is None:
        return "unknown, revoked or expired key"
    if known.signer is None:
        return "the key's secret can't be opened here"
    return "the signature does not verify"
