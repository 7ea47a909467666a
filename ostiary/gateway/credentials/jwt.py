"""Scheme `jwt`: a token of a configured issuer, as `Authorization: Bearer` (RFC 6750 §2.1, RFC 7519)."""

from __future__ import annotations

from ostiary.core.errors import ErrorCode, GatewayError
from ostiary.core.tokens import TokenRefused
from ostiary.gateway.credentials.refusal import count, refuse
from ostiary.gateway.exchange import Exchange


def is_token(credential: bytes) -> bool:
    """A token has two dots; a secret of ours has none."""
    return credential.count(b".") == 2


async def check(exchange: Exchange, token: bytes) -> None:
    """Sets `scheme`, `known_key` and `subject_line`. Raises CREDENTIALS_INVALID, and KEYS_UNAVAILABLE where the issuer's keys
    can't be had. An address that has failed too often is Barred before its token is verified."""
    exchange.scheme = "jwt"
    route = exchange.route
    assert route is not None  # noqa: S101  match has set it
    caller = route.tokens.recall(token, route.issuers)
    if caller is None:
        route.tokens.let_try(exchange.ip)
        try:
            caller = await route.tokens.verify(token, route.issuers)
        except TokenRefused as refusal:
            refuse(exchange, "jwt", ErrorCode.CREDENTIALS_INVALID, f"token: {refusal}")
        except GatewayError as error:
            count(exchange, "jwt", error.code)
            raise
    exchange.known_key = caller
    exchange.subject_line = caller.subject_line
