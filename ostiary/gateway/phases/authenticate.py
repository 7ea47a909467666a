"""authenticate: who calls? Every refusal of a credential looks and costs the same, so that nobody learns which keys exist.

What the request carries picks the scheme, of those that the route takes; `credentials/` has one module for each:

    X-API-Key: <key id>:<signature>         hmac, hmac-body
    X-API-Key: <secret>                     bearer
    Authorization: Bearer <secret>          bearer
    Signature-Input, Signature              http-signature

A header of a scheme that the route does not take is not read: it is the upstream's. Two credentials in one request are
refused, whatever either is worth: which of them counts must not be a matter of taste."""

from __future__ import annotations

from ostiary.core.errors import ErrorCode
from ostiary.gateway.credentials import bearer, hmac_signature, http_signature
from ostiary.gateway.credentials.refusal import refuse
from ostiary.gateway.exchange import Exchange
from ostiary.gateway.keys import KeyRing


async def authenticate(exchange: Exchange, keys: KeyRing) -> None:
    """Sets `known_key`, `scheme`, and for signed calls `nonce` and the body that was held back. Raises the 401s,
    KEYS_UNAVAILABLE, for a body past the bound of signed ones BODY_TOO_LARGE, and OVERLOADED without room to hold it."""
    route = exchange.route
    assert route is not None  # noqa: S101  match has set it
    if route.anonymous:
        exchange.scheme = "anonymous"
        return
    values = exchange.head.values
    credential = values.get(b"x-api-key")
    authorization = values.get(b"authorization") if route.reads_authorization else None
    if route.takes_http_signature and (b"signature-input" in values or b"signature" in values):
        if credential is not None or authorization is not None:
            refuse(exchange, "ambiguous", ErrorCode.CREDENTIALS_INVALID, "two credentials")
        await http_signature.check(exchange, keys)
        route.meters.attempt("http-signature", "accepted")
        return
    if credential is not None:
        if authorization is not None:
            refuse(exchange, "ambiguous", ErrorCode.CREDENTIALS_INVALID, "two credentials")
        if 0x3A in credential:
            await hmac_signature.check(exchange, keys, credential)
        elif route.takes_bearer:
            await bearer.check(exchange, keys, credential)
        else:
            refuse(exchange, "hmac", ErrorCode.CREDENTIALS_INVALID, "X-API-Key without a signature")
    elif authorization is not None:
        await bearer.check(exchange, keys, bearer.token_of(exchange, authorization))
    else:
        refuse(
            exchange, "none", ErrorCode.CREDENTIALS_MISSING, "the request carries no credential that the route takes"
        )
    route.meters.attempt(exchange.scheme, "accepted")
