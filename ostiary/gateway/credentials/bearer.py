"""Scheme `bearer`: the secret itself, in `X-API-Key` or as `Authorization: Bearer` (RFC 6750 §2.1)."""

from __future__ import annotations

from ostiary.core.credentials import checksum_holds, is_secret_format
from ostiary.core.errors import ErrorCode
from ostiary.gateway.credentials.refusal import refuse
from ostiary.gateway.exchange import Exchange
from ostiary.gateway.keys import KeyRing
from ostiary.gateway.signal import Signal


def token_of(exchange: Exchange, authorization: bytes) -> bytes:
    """What stands after `Bearer`. Raises CREDENTIALS_INVALID for another authentication scheme."""
    scheme, _, token = authorization.partition(b" ")
    if scheme.lower() != b"bearer":
        exchange.scheme = "bearer"
        refuse(exchange, "bearer", ErrorCode.CREDENTIALS_INVALID, "Authorization is not Bearer")
    return token.strip(b" ")


async def check(exchange: Exchange, keys: KeyRing, secret: bytes) -> None:
    """Sets `scheme` and `known_key`. Raises CREDENTIALS_INVALID, KEYS_UNAVAILABLE."""
    exchange.scheme = "bearer"
    if is_secret_format(secret) and not checksum_holds(secret):
        refuse(exchange, "bearer", ErrorCode.CREDENTIALS_INVALID, "checksum of the key does not hold")
    found = keys.find_by_secret(secret, exchange.ip)
    known = await found if isinstance(found, Signal) else found
    if known is None:
        refuse(exchange, "bearer", ErrorCode.CREDENTIALS_INVALID, "unknown, revoked or expired key")
    exchange.known_key = known
