"""Schemes `hmac` and `hmac-body`: `X-API-Key: <key id>:<signature>`, over the whole request or over its body alone."""

from __future__ import annotations

import time
from binascii import hexlify
from hashlib import sha256

from ostiary.core.errors import ErrorCode
from ostiary.core.signing import (
    EMPTY_BODY_SHA256,
    SIGNED_ENDING_BYTES,
    ends_like_signed_text,
    hmac_message,
    nonce_is_well_formed,
    parse_signed_credential,
    parse_timestamp,
)
from ostiary.gateway.credentials.holding import Ending, hold_body, take_at_once
from ostiary.gateway.credentials.refusal import refuse, why_unverified
from ostiary.gateway.exchange import Exchange
from ostiary.gateway.keys import KeyRing
from ostiary.gateway.signal import Signal


async def check(exchange: Exchange, keys: KeyRing, credential: bytes) -> None:
    """Sets `scheme`, `known_key`, `nonce` and the body. Raises CREDENTIALS_INVALID, TIMESTAMP_OUT_OF_RANGE, KEYS_UNAVAILABLE,
    BODY_TOO_LARGE for a body past the bound of signed ones, and OVERLOADED when there is no room to hold it."""
    route = exchange.route
    assert route is not None  # noqa: S101  match has set it
    values = exchange.head.values
    timestamp, nonce = values.get(b"x-timestamp"), values.get(b"x-nonce")
    full = timestamp is not None or nonce is not None or not route.takes_hmac_body
    scheme = exchange.scheme = "hmac" if full else "hmac-body"
    if full and not route.takes_hmac:
        refuse(exchange, scheme, ErrorCode.CREDENTIALS_INVALID, "the route does not take this scheme")
    if full:
        _check_freshness(exchange, timestamp, nonce)
    parsed = parse_signed_credential(credential)
    if parsed is None:
        refuse(exchange, scheme, ErrorCode.CREDENTIALS_INVALID, "X-API-Key is not id:signature")
    key_id, signature = parsed
    found = keys.find(key_id, exchange.ip)
    known = await found if isinstance(found, Signal) else found
    if known is not None:
        exchange.claimed_key_id = key_id
    trial = keys.trial(known)
    waited = False
    if full:
        assert timestamp is not None  # noqa: S101  _check_freshness
        assert nonce is not None  # noqa: S101  _check_freshness
        body_sha256 = EMPTY_BODY_SHA256
        if exchange.body is not None:
            whole = take_at_once(exchange, exchange.body)
            if whole is not None:
                body_sha256 = hexlify(sha256(whole).digest())
            else:
                waited = True
                digest = sha256()
                await hold_body(exchange, exchange.body, [digest])
                body_sha256 = hexlify(digest.digest())
        message = hmac_message(exchange.head.method, exchange.head.target, timestamp, nonce, body_sha256)
        exchange.nonce = nonce.decode()
        proven = trial.proven(lambda signer: signer.verify(message, signature))
    else:
        body = exchange.body
        signed = b"" if body is None else take_at_once(exchange, body)
        if body is None or signed is not None:
            ending = (signed or b"")[-SIGNED_ENDING_BYTES:]
            proven = trial.proven(lambda signer: signer.verify(signed or b"", signature))
        else:
            waited = True
            begun = [signer.begin() for signer in trial.signers]
            last = Ending(SIGNED_ENDING_BYTES)
            await hold_body(exchange, body, [*begun, last])
            ending = last.octets
            proven = trial.proven(lambda signer: signer.verify_begun(begun.pop(0), signature))
        if ends_like_signed_text(ending):
            refuse(exchange, scheme, ErrorCode.CREDENTIALS_INVALID, "the body ends as the text of another scheme does")
    if proven is not None and waited and not await keys.is_in_force(proven):
        proven = known = None  # it has ended while its body came
    if proven is None:
        refuse(exchange, scheme, ErrorCode.CREDENTIALS_INVALID, why_unverified(known))
    exchange.known_key = proven


def _check_freshness(exchange: Exchange, timestamp: bytes | None, nonce: bytes | None) -> None:
    seconds = parse_timestamp(timestamp) if timestamp is not None else None
    if seconds is None or not exchange.snapshot.skew.takes(seconds, time.time()):
        refuse(exchange, "hmac", ErrorCode.TIMESTAMP_OUT_OF_RANGE, "timestamp missing, malformed or out of range")
    if nonce is None or not nonce_is_well_formed(nonce):
        refuse(exchange, "hmac", ErrorCode.CREDENTIALS_INVALID, "nonce missing or malformed")
