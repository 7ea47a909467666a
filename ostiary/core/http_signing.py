"""How a client signs a request by RFC 9421: the other side of `http_signatures`."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from ostiary.core.content_digest import content_digest
from ostiary.core.http_signatures import SignatureRefused, read_claim_at_length
from ostiary.core.signature_base import SignedMessage, Uncoverable, component, recipe_of
from ostiary.core.signing import Signer
from ostiary.core.structured_fields import Malformed

_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
_LABEL = "sig1"


class SignedHeaders(NamedTuple):
    """The headers that sign a request, and the text they sign (nothing of it is secret)."""

    headers: dict[str, str]
    text: str


def sign_http_request(
    *,
    key_id: str,
    secret: bytes,
    method: str,
    url: str,
    target: str,
    body: bytes = b"",
    headers: Sequence[tuple[str, str]] = (),
    covered: Sequence[str] = (),
    created: int | None = None,
    expires_seconds: int | None = None,
    nonce: str | None = None,
    digest: str = "sha-256",
) -> SignedHeaders:
    """Signs `url`, whose path and query are `target`, as they will be sent; a body is covered by its digest, `headers` as far
    as `covered` names them. `created` is Unix seconds, now if not given; `nonce` a random one.

    Raises ValueError for what no gateway would take: a component that the request does not have, a key id, method or nonce of
    another form."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2].removesuffix(_DEFAULT_PORTS[parts.scheme])  # as clients send it
    sent = dict(headers)
    result: dict[str, str] = {}
    names = ["@method", "@target-uri", *covered]
    if body:
        result["Content-Digest"] = sent["Content-Digest"] = content_digest(body, digest)
        names.append("content-digest")
    now = int(time.time()) if created is None else created
    parameters = f";created={now}"
    if expires_seconds is not None:
        parameters += f";expires={now + expires_seconds}"
    parameters += f';keyid="{key_id}";alg="hmac-sha256";nonce="{secrets.token_urlsafe(16) if nonce is None else nonce}"'
    message = SignedMessage(
        method.encode(),
        parts.scheme.encode(),
        host.encode(),
        target.encode(),
        [f"{name}: {value}".encode() for name, value in sent.items()],
        {b"host": host.encode()},
    )
    try:
        items = [component(name) for name in dict.fromkeys(names)]
        recipe = recipe_of(items)
        base = recipe.base(message, parameters.encode())
        mark = Signer(secret).sign_base64(base).decode()
        result["Signature-Input"] = f"{_LABEL}={recipe.text.decode()}{parameters}"
        result["Signature"] = f"{_LABEL}=:{mark}:"
        # What the gateway would refuse is refused here, by the same eyes.
        read_claim_at_length(result["Signature-Input"].encode(), result["Signature"].encode())
    except (Malformed, Uncoverable, SignatureRefused) as error:
        raise ValueError(str(error)) from error
    return SignedHeaders(result, base.decode())
