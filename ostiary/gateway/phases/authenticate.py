"""authenticate: who calls? Every refusal of a credential looks and costs the same, so that nobody learns which keys exist."""

from __future__ import annotations

import hashlib
import time
from typing import NoReturn

from ostiary.core.credentials import checksum_holds, is_secret_format
from ostiary.core.errors import ErrorCode, GatewayError
from ostiary.core.model import Scheme
from ostiary.core.signing import (
    EMPTY_BODY_SHA256,
    hmac_message,
    nonce_is_well_formed,
    parse_signed_credential,
    parse_timestamp,
    timestamp_is_current,
)
from ostiary.gateway.exchange import Exchange
from ostiary.gateway.keys import KeyRing, KnownKey
from ostiary.gateway.signal import Signal


async def authenticate(exchange: Exchange, keys: KeyRing) -> None:
    """Sets `known_key`, `scheme`, and for signed calls `nonce` and `body_bytes`. Raises the 401s, KEYS_UNAVAILABLE and, for
    a body past the bound of signed ones, BODY_TOO_LARGE."""
    route = exchange.route
    assert route is not None  # noqa: S101  match has set it
    if route.anonymous:
        exchange.scheme = "anonymous"
        return
    values = exchange.head.values
    credential = values.get(b"x-api-key")
    authorization = values.get(b"authorization")
    if credential is not None and 0x3A in credential:
        if authorization is not None and Scheme.BEARER in route.schemes:
            _refuse(exchange, "ambiguous", ErrorCode.CREDENTIALS_INVALID, "two credentials")
        await _check_signature(exchange, keys, credential)
    elif Scheme.BEARER in route.schemes:
        await _check_bearer(exchange, keys, credential, authorization)
    elif credential is None:
        _refuse(exchange, "none", ErrorCode.CREDENTIALS_MISSING, "no X-API-Key")
    else:
        _refuse(exchange, "hmac", ErrorCode.CREDENTIALS_INVALID, "X-API-Key without a signature")
    route.meters.attempt(exchange.scheme, "accepted")


async def _check_bearer(
    exchange: Exchange, keys: KeyRing, credential: bytes | None, authorization: bytes | None
) -> None:
    exchange.scheme = "bearer"
    secret = credential
    if authorization is not None:
        scheme, _, token = authorization.partition(b" ")
        if credential is not None or scheme.lower() != b"bearer":
            _refuse(exchange, "bearer", ErrorCode.CREDENTIALS_INVALID, "not one bearer credential")
        secret = token.strip(b" ")
    if secret is None:
        _refuse(exchange, "none", ErrorCode.CREDENTIALS_MISSING, "neither X-API-Key nor Authorization")
    if is_secret_format(secret) and not checksum_holds(secret):
        _refuse(exchange, "bearer", ErrorCode.CREDENTIALS_INVALID, "checksum of the key does not hold")
    found = keys.find_by_secret(secret)
    known = await found if isinstance(found, Signal) else found
    if known is None:
        _refuse(exchange, "bearer", ErrorCode.CREDENTIALS_INVALID, "unknown, revoked or expired key")
    exchange.known_key = known


async def _check_signature(exchange: Exchange, keys: KeyRing, credential: bytes) -> None:
    route = exchange.route
    assert route is not None  # noqa: S101  match has set it
    values = exchange.head.values
    timestamp, nonce = values.get(b"x-timestamp"), values.get(b"x-nonce")
    full = timestamp is not None or nonce is not None or Scheme.HMAC_BODY not in route.schemes
    scheme = exchange.scheme = "hmac" if full else "hmac-body"
    if scheme not in route.schemes:  # members of Scheme are their text
        _refuse(exchange, scheme, ErrorCode.CREDENTIALS_INVALID, "the route does not take this scheme")
    if full:
        _check_freshness(exchange, timestamp, nonce)
    parsed = parse_signed_credential(credential)
    if parsed is None:
        _refuse(exchange, scheme, ErrorCode.CREDENTIALS_INVALID, "X-API-Key is not id:signature")
    key_id, signature = parsed
    body = b""
    if exchange.body is not None:
        exchange.body.limit(min(route.route.signed_body_bytes_max, route.route.body_bytes_max))
        body = exchange.body_bytes = await exchange.body.collect()
    # After the body, which may take long to come: what counts is what the key is by then.
    found = keys.find(key_id)
    known = await found if isinstance(found, Signal) else found
    if full:
        assert timestamp is not None  # noqa: S101  _check_freshness
        assert nonce is not None  # noqa: S101  _check_freshness
        digest = hashlib.sha256(body).hexdigest().encode() if body else EMPTY_BODY_SHA256
        message = hmac_message(exchange.head.method, exchange.head.target, timestamp, nonce, digest)
        exchange.nonce = nonce.decode()
    else:
        message = body
    proven = keys.proven(known, message, signature)
    if proven is None:
        _refuse(exchange, scheme, ErrorCode.CREDENTIALS_INVALID, _why(known))
    exchange.known_key = proven


def _check_freshness(exchange: Exchange, timestamp: bytes | None, nonce: bytes | None) -> None:
    seconds = parse_timestamp(timestamp) if timestamp is not None else None
    skew_seconds = exchange.snapshot.skew_seconds
    if seconds is None or not timestamp_is_current(seconds, now=time.time(), skew_seconds=skew_seconds):
        _refuse(exchange, "hmac", ErrorCode.TIMESTAMP_OUT_OF_RANGE, "timestamp missing, malformed or out of range")
    if nonce is None or not nonce_is_well_formed(nonce):
        _refuse(exchange, "hmac", ErrorCode.CREDENTIALS_INVALID, "nonce missing or malformed")


def _why(known: KnownKey | None) -> str:
    if known is None:
        return "unknown, revoked or expired key"
    if known.signer is None:
        return "the key's secret can't be opened here"
    return "the signature does not verify"


def _refuse(exchange: Exchange, scheme: str, code: ErrorCode, reason: str) -> NoReturn:
    route = exchange.route
    assert route is not None  # noqa: S101  match has set it
    route.meters.attempt(scheme, code.code)
    raise GatewayError(code, reason, headers=(("WWW-Authenticate", route.challenge),))
