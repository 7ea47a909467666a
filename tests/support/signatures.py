"""Requests signed from the contract's and RFC 9421's words alone, with nothing of Ostiary's own: what a customer's program
does. Every part is replaceable."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import time
from collections.abc import Sequence

from tests.support.gateway import KEY_ID, SECRET
from tests.support.messages import request

HOST = "api.test"  # as tests.support.messages has it


def hmac_lines(
    target: str, *, method: str = "GET", body: bytes = b"", key_id: str = KEY_ID, secret: bytes = SECRET
) -> tuple[bytes, ...]:
    """The header lines of scheme `hmac`."""
    stamp, nonce = b"%d" % time.time(), secrets.token_hex(16).encode()
    digest = hashlib.sha256(body).hexdigest().encode()
    text = b"\n".join((method.encode(), target.encode(), stamp, nonce, digest))
    mark = hmac.new(secret, text, hashlib.sha256).hexdigest().encode()
    return (b"X-API-Key: %b:%b" % (key_id.encode(), mark), b"X-Timestamp: " + stamp, b"X-Nonce: " + nonce)


def hmac_body_lines(body: bytes, *, key_id: str = KEY_ID, secret: bytes = SECRET) -> tuple[bytes, ...]:
    """The header line of scheme `hmac-body`."""
    mark = hmac.new(secret, body, hashlib.sha256).hexdigest().encode()
    return (b"X-API-Key: %b:%b" % (key_id.encode(), mark),)


def signed_upload(
    scheme: str, target: str, body: bytes, *, method: str = "POST", key_id: str = KEY_ID, secret: bytes = SECRET
) -> tuple[bytes, ...]:
    """The header lines that sign an upload by that scheme."""
    if scheme == "hmac":
        return hmac_lines(target, method=method, body=body, key_id=key_id, secret=secret)
    if scheme == "hmac-body":
        return hmac_body_lines(body, key_id=key_id, secret=secret)
    return signature_lines(target, method=method, body=body, key_id=key_id, secret=secret)


def content_digest(body: bytes, algorithm: str = "sha-256") -> str:
    digest = hashlib.new(algorithm.replace("-", ""), body).digest()
    return f"{algorithm}=:{base64.b64encode(digest).decode()}:"


def signature_lines(
    target: str,
    *,
    method: str = "GET",
    body: bytes | None = None,
    components: Sequence[tuple[str, str]] | None = None,
    parameters: Sequence[str] | None = None,
    created: int | None = None,
    nonce: str | None = None,
    key_id: str = KEY_ID,
    secret: bytes = SECRET,
    label: str = "sig1",
    digest: str | None = None,
) -> tuple[bytes, ...]:
    """The header lines. `components` are (identifier as it is covered, its value); `parameters` are those of the signature,
    each without its `;`, in place of the usual ones."""
    lines = []
    if components is None:
        components = [('"@method"', method), ('"@target-uri"', f"http://{HOST}{target}")]
        if body is not None:
            components.append(('"content-digest"', digest or content_digest(body)))
    if body is not None:
        lines.append(f"Content-Digest: {digest or content_digest(body)}")
    if parameters is None:
        parameters = [
            f"created={int(time.time()) if created is None else created}",
            f'keyid="{key_id}"',
            f'nonce="{nonce or secrets.token_hex(12)}"',
            'alg="hmac-sha256"',
        ]
    inner = (
        "(" + " ".join(identifier for identifier, _ in components) + ")" + "".join(f";{each}" for each in parameters)
    )
    base = "\n".join([*(f"{identifier}: {value}" for identifier, value in components), f'"@signature-params": {inner}'])
    mark = base64.b64encode(hmac.new(secret, base.encode("latin-1"), hashlib.sha256).digest()).decode()
    lines += [f"Signature-Input: {label}={inner}", f"Signature: {label}=:{mark}:"]
    return tuple(line.encode("latin-1") for line in lines)


def http_signed(
    target: str = "/v1/clients?limit=10",
    *,
    method: str = "GET",
    body: bytes | None = None,
    extra: tuple[bytes, ...] = (),
    **parts: object,
) -> bytes:
    """A whole request, signed by RFC 9421; `parts` as `signature_lines` has them."""
    lines = (*signature_lines(target, method=method, body=body, **parts), *extra)  # type: ignore[arg-type]  # passed on
    if body is not None:
        lines = (*lines, b"Content-Length: %d" % len(body))
    return request(target, *lines, method=method.encode(), body=body or b"")
