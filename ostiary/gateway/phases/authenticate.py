"""authenticate: who calls? Every refusal of a credential looks and costs the same, so that nobody learns which keys exist.

What the request carries picks the scheme, of those that the route takes; `credentials/` has one module for each:

    X-API-Key: <key id>:<signature>         hmac, hmac-body
    X-API-Key: <secret>                     bearer
    Authorization: Bearer <secret>          bearer
    Authorization: Bearer <token>           jwt: a token has two dots, a secret of ours none
    Signature-Input, Signature              http-signature
    none of these                           mtls: the client certificate of the connection

`Authorization` and the fields of RFC 9421 are not read where the route takes no scheme that has them: they are the
upstream's. `X-API-Key` is ours on every route. Two credentials in one request are refused, whatever either is worth: which
of them counts must not be a matter of taste. A client certificate is the connection's and no credential of one request: it
counts where the request carries none."""

from __future__ import annotations

from ostiary.core.errors import ErrorCode
from ostiary.gateway.credentials import bearer, hmac_signature, http_signature, jwt, mtls
from ostiary.gateway.credentials.refusal import refuse
from ostiary.gateway.exchange import Exchange
from ostiary.gateway.keys import KeyRing


async def authenticate(exchange: Exchange, keys: KeyRing) -> None:
    """Sets `known_key`, `scheme`, `subject_line` for tokens and certificates, and for signed calls `nonce` and the body
    that was held back. Raises the 401s, KEYS_UNAVAILABLE, for a body past the bound of signed ones BODY_TOO_LARGE, and
    OVERLOADED without room to hold it."""
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
        credential = bearer.token_of(exchange, authorization)
        if route.takes_jwt and jwt.is_token(credential):
            await jwt.check(exchange, credential)
        elif route.takes_bearer:
            await bearer.check(exchange, keys, credential)
        else:
            refuse(exchange, "jwt", ErrorCode.CREDENTIALS_INVALID, "not a token")
    elif route.takes_mtls and (certificate := exchange.client.certificate) is not None:
        await mtls.check(exchange, keys, certificate)
    else:
        refuse(
            exchange, "none", ErrorCode.CREDENTIALS_MISSING, "the request carries no credential that the route takes"
        )
    route.meters.attempt(exchange.scheme, "accepted")
