"""The requests that are sent, byte for byte: the six headers of every measurement, and the credential of each scheme.

Signing is written out here from the contract, apart from the gateway's own code, so that the two check each other."""

from __future__ import annotations

import hashlib
import hmac
import random
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

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


def _signature(message: str, secret: str) -> str:
    return hmac.digest(secret.encode(), message.encode(), "sha256").hex()


def _request(target: str, credential: str) -> bytes:
    return f"GET {target} HTTP/1.1\r\nHost: {HOST}\r\n{credential}{_COMMON_HEADERS}\r\n".encode()


def unchanging_request(target: str) -> bytes:
    """Six headers; the signature is over method, target and body as the reference peers check it (neither time nor nonce),
    so the same bytes are good for ever."""
    signature = _signature(f"GET\n{target}\n", SECRET)
    return _request(target, f"X-API-Key: {KEY_ID}:{signature}\r\n")


def bearer_request(target: str, credential: str = SECRET) -> bytes:
    """Six headers; the credential is a secret, or a token."""
    return _request(target, f"Authorization: Bearer {credential}\r\n")


def signed_request(target: str, *, timestamp: int, nonce: str, secret: str = SECRET) -> bytes:
    """Eight headers: scheme `hmac` of the contract. Good once, and as long as the timestamp is within the skew."""
    signature = _signature(f"GET\n{target}\n{timestamp}\n{nonce}\n{_EMPTY_BODY_SHA256}", secret)
    return _request(target, f"X-API-Key: {KEY_ID}:{signature}\r\nX-Timestamp: {timestamp}\r\nX-Nonce: {nonce}\r\n")


def signed_requests(target: str, count: int, *, now: int) -> Iterator[bytes]:
    """Requests with nonces never used before, all of one length."""
    series = secrets.token_hex(6)
    for number in range(count):
        yield signed_request(target, timestamp=now - number % _CLOCKS, nonce=f"{series}{number:010}")


@dataclass(frozen=True, slots=True)
class RequestFile:
    """Requests for the load generator, end to end in one file, `request_bytes` each; `count` of them.

    Signing ahead of time is what lets one load generator keep up: it then only reads, where signing in its script would
    cost more than the gateway spends on verifying."""

    path: Path
    request_bytes: int
    count: int


def write_unchanging(path: Path, target: str) -> RequestFile:
    """A file of one request, to be sent over and over."""
    request = unchanging_request(target)
    path.write_bytes(request)
    return RequestFile(path, len(request), 1)


def write_spread(path: Path, targets: Sequence[str], count: int) -> RequestFile:
    """`count` requests that ask for each of the targets equally often, in an order without a pattern. All targets have one
    length. Raises ValueError when there is nothing to ask for."""
    if not targets or count < 1 or len({len(target) for target in targets}) > 1:
        raise ValueError("a request file needs at least one request, and targets of one length")
    requests = [unchanging_request(target) for target in targets]
    order = random.Random(1)
    with path.open("wb") as file:
        for _ in range(-(-count // len(requests))):
            order.shuffle(requests)
            file.writelines(requests)
    return RequestFile(path, len(requests[0]), count)


def write_signed(path: Path, target: str, count: int) -> RequestFile:
    """Signs `count` requests as of now, some 4 µs each. Raises ValueError when there is nothing to sign."""
    if count < 1:
        raise ValueError("a request file needs at least one request")
    now = int(time.time())
    with path.open("wb") as file:
        for request in signed_requests(target, count, now=now):
            file.write(request)
    return RequestFile(path, len(request), count)
