"""The requests that are sent, byte for byte: the six headers of every measurement, and the credential of each scheme.

Signing is written out here from the contract, apart from the gateway's own code, so that the two check each other."""

from __future__ import annotations

import base64
import hashlib
import hmac
import random
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

HOST = "api.example.com"
KEY_ID = "ak_test_abc"
SECRET = "sk_test_0123456789abcdef0123456789abcdef"

# What a call of Python's `requests` with a session looks like: a realistic number and size of headers.
_COMMON_HEADERS = (
    "Accept: application/json\r\n"
    "User-Agent: python-requests/2.32.3\r\n"
    "Accept-Encoding: gzip, deflate\r\n"
    "X-Request-Id: 0123456789abcdef0123456789abcdef\r\n"
    "Cookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\n"
)
_EMPTY_BODY_SHA256 = hashlib.sha256().hexdigest()

# Signed calls come from many clients whose clocks differ a little, so the timestamps of neighbours differ too.
_CLOCKS = 8


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _signature(message: str, secret: str) -> str:
    return hmac.digest(secret.encode(), message.encode(), "sha256").hex()


def plain_request(target: str, lines: str = "", *, body: bytes | None = None) -> bytes:
    """The headers of every measurement, and `lines` before them, each with its end; a POST where there is a body."""
    method, length = ("GET", "") if body is None else ("POST", f"Content-Length: {len(body)}\r\n")
    head = f"{method} {target} HTTP/1.1\r\nHost: {HOST}\r\n{lines}{length}{_COMMON_HEADERS}\r\n"
    return head.encode() + (body or b"")


def unchanging_request(target: str, *, secret: str = SECRET) -> bytes:
    """Six headers; the signature is over method, target and body as the reference peers check it (neither time nor nonce),
    so the same bytes are good for ever."""
    signature = _signature(f"GET\n{target}\n", secret)
    return plain_request(target, f"X-API-Key: {KEY_ID}:{signature}\r\n")


def bearer_request(target: str, credential: str = SECRET, *, body: bytes | None = None) -> bytes:
    """Six headers; the credential is a secret, or a token."""
    return plain_request(target, f"Authorization: Bearer {credential}\r\n", body=body)


def signed_request(
    target: str, *, timestamp: int, nonce: str, secret: str = SECRET, body: bytes | None = None
) -> bytes:
    """Eight headers: scheme `hmac` of the contract. Good once, and as long as the timestamp is within the skew."""
    method, digest = ("GET", _EMPTY_BODY_SHA256) if body is None else ("POST", hashlib.sha256(body).hexdigest())
    signature = _signature(f"{method}\n{target}\n{timestamp}\n{nonce}\n{digest}", secret)
    lines = f"X-API-Key: {KEY_ID}:{signature}\r\nX-Timestamp: {timestamp}\r\nX-Nonce: {nonce}\r\n"
    return plain_request(target, lines, body=body)


def body_signed_request(target: str, *, secret: str = SECRET, body: bytes | None = None) -> bytes:
    """Six headers: scheme `hmac-body` of the contract. The same bytes are good for ever."""
    signature = hmac.digest(secret.encode(), body or b"", "sha256").hex()
    return plain_request(target, f"X-API-Key: {KEY_ID}:{signature}\r\n", body=body)


def message_signed_request(
    target: str, *, timestamp: int, nonce: str, secret: str = SECRET, body: bytes | None = None
) -> bytes:
    """Seven headers, eight with a body: scheme `http-signature` (RFC 9421), over the method, the target and the digest of a
    body (RFC 9530). Good once, and as long as the timestamp is within the skew."""
    covered = {"@method": "GET" if body is None else "POST", "@target-uri": f"http://{HOST}{target}"}
    lines = ""
    if body is not None:
        covered["content-digest"] = f"sha-256=:{_base64(hashlib.sha256(body).digest())}:"
        lines = f"Content-Digest: {covered['content-digest']}\r\n"
    names = " ".join(f'"{name}"' for name in covered)
    parameters = f'({names});created={timestamp};keyid="{KEY_ID}";alg="hmac-sha256";nonce="{nonce}"'
    parts = [*(f'"{name}": {value}' for name, value in covered.items()), f'"@signature-params": {parameters}']
    signature = _base64(hmac.digest(secret.encode(), "\n".join(parts).encode(), "sha256"))
    lines += f"Signature-Input: sig1={parameters}\r\nSignature: sig1=:{signature}:\r\n"
    return plain_request(target, lines, body=body)


class Signing(Protocol):
    """How one request is signed that is good once: `signed_request` or `message_signed_request`."""

    def __call__(self, target: str, *, timestamp: int, nonce: str, body: bytes | None = None) -> bytes: ...


def signed_requests(
    target: str, count: int, *, now: int, sign: Signing = signed_request, body: bytes | None = None
) -> Iterator[bytes]:
    """Requests with nonces never used before, all of one length."""
    series = secrets.token_hex(6)
    for number in range(count):
        yield sign(target, timestamp=now - number % _CLOCKS, nonce=f"{series}{number:010}", body=body)


@dataclass(frozen=True, slots=True)
class RequestFile:
    """Requests for the load generator, end to end in one file, `request_bytes` each; `count` of them.

    Signing ahead of time is what lets one load generator keep up: it then only reads, where signing in its script would
    cost more than the gateway spends on verifying."""

    path: Path
    request_bytes: int
    count: int


def write_repeated(path: Path, request: bytes) -> RequestFile:
    """A file of one request, to be sent over and over."""
    path.write_bytes(request)
    return RequestFile(path, len(request), 1)


def write_unchanging(path: Path, target: str) -> RequestFile:
    """The same for the request of the reference peers."""
    return write_repeated(path, unchanging_request(target))


def write_spread(path: Path, targets: Sequence[str], count: int) -> RequestFile:
    """`count` requests that ask for each of the targets equally often, in an order without a pattern. All targets have one
    length. Raises ValueError when there is nothing to ask for."""
    return write_in_turn(path, [unchanging_request(target) for target in targets], count)


def write_in_turn(path: Path, requests: Sequence[bytes], count: int) -> RequestFile:
    """`count` requests, each of these equally often, in an order without a pattern. All have one length. Raises ValueError
    when there are none."""
    if not requests or count < 1 or len({len(request) for request in requests}) > 1:
        raise ValueError("a request file needs at least one request, and targets of one length")
    requests, order = list(requests), random.Random(1)
    with path.open("wb") as file:
        for _ in range(-(-count // len(requests))):
            order.shuffle(requests)
            file.writelines(requests)
    return RequestFile(path, len(requests[0]), count)


def write_signed(
    path: Path, target: str, count: int, *, sign: Signing = signed_request, body: bytes | None = None
) -> RequestFile:
    """Signs `count` requests as of now, some 4 µs each. Raises ValueError when there is nothing to sign."""
    if count < 1:
        raise ValueError("a request file needs at least one request")
    now = int(time.time())
    with path.open("wb") as file:
        for request in signed_requests(target, count, now=now, sign=sign, body=body):
            file.write(request)
    return RequestFile(path, len(request), count)
