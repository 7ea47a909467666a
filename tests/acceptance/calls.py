"""The calls of the acceptance tests, as values: what is sent, by any client, and what is known of the answer."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass

from ostiary.core.signing import sign_request


@dataclass(frozen=True, slots=True)
class Call:
    """`number` makes it one of its kind. `follow`: redirects are followed, so that it is several requests, with ids that
    the gateway gives."""

    number: int
    kind: str
    method: str
    target: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    chunked: bool = False
    follow: bool = False


@dataclass(frozen=True, slots=True)
class Hop:
    """One request of a call as it was answered. `headers` in order, names as they came."""

    request_id: str
    status: int
    headers: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """The last hop's `body`, exactly as it came, content coding and all."""

    hops: tuple[Hop, ...]
    body: bytes

    @property
    def last(self) -> Hop:
        return self.hops[-1]


OCTETS = (("Content-Type", "application/octet-stream"),)
JSON = (("Content-Type", "application/json"),)
FORM = (("Content-Type", "application/x-www-form-urlencoded"),)
STATUSES = (200, 201, 202, 204, 304, 400, 401, 403, 404, 410, 418, 429, 500, 502, 503, 504)

# A weight to each kind: /delay keeps a connection for long, large bodies cost the most.
Maker = Callable[[int, random.Random], tuple[str, str, tuple[tuple[str, str], ...], bytes | None, bool]]
KINDS: dict[str, Maker] = {
    "get": lambda n, r: ("GET", f"/get?n={n}&a=1&a=2&odd=%2F+%20;x&empty=", (("X-Custom", f"v {n}"),), None, False),
    "head": lambda n, r: ("HEAD", f"/get?n={n}", (), None, False),
    "post json": lambda n, r: ("POST", "/post", JSON, json.dumps({"n": n, "text": "é\x00"}).encode(), False),
    "post form": lambda n, r: ("POST", f"/post?n={n}", FORM, f"n={n}&a=%26&b=+".encode(), False),
    "post large": lambda n, r: ("POST", "/post", OCTETS, r.randbytes(r.randrange(200_000, 400_000)), False),
    "post nothing": lambda n, r: ("POST", "/post", (), b"", False),
    "put": lambda n, r: ("PUT", f"/put?n={n}", OCTETS, r.randbytes(r.randrange(5_000)), False),
    "patch": lambda n, r: ("PATCH", "/patch", OCTETS, r.randbytes(100), False),
    "delete": lambda n, r: ("DELETE", f"/delete?n={n}", (), None, False),
    "status": lambda n, r: ("GET", f"/status/{STATUSES[n % len(STATUSES)]}", (), None, False),
    "stream": lambda n, r: ("GET", f"/stream/{1 + n % 40}", (), None, False),
    "bytes": lambda n, r: ("GET", f"/bytes/{n * 37 % 100_000}?seed={n}", (), None, False),
    "stream bytes": lambda n, r: ("GET", f"/stream-bytes/{n * 53 % 5000}?seed={n}&chunk_size={1 + n % 99}", (), None, False),
    "gzip": lambda n, r: ("GET", "/gzip", (("Accept-Encoding", "gzip"),), None, False),
    "deflate": lambda n, r: ("GET", "/deflate", (("Accept-Encoding", "deflate"),), None, False),
    "brotli": lambda n, r: ("GET", "/brotli", (("Accept-Encoding", "br"),), None, False),
    "redirect": lambda n, r: ("GET", f"/redirect/{1 + n % 3}", (), None, False),
    "delay": lambda n, r: ("GET", f"/delay/{0.05 * (n % 6):.2f}", (), None, False),
    "headers": lambda n, r: ("GET", "/headers", (("X-Long", "x" * 4000), ("Cookie", f"a={n}; b=\"c d\"")), None, False),
    "answer headers": lambda n, r: ("GET", f"/response-headers?X-A={n}&X-A=two&X-B=b%20c", (), None, False),
    "cookies": lambda n, r: ("GET", f"/cookies/set?first={n}&second=2", (), None, False),
    "range": lambda n, r: ("GET", "/range/5000", (("Range", f"bytes={n % 999}-{1000 + n % 999}"),), None, False),
    "etag": lambda n, r: ("GET", "/etag/abc", (("If-None-Match", '"abc"' if n % 2 else '"x"'),), None, False),
    "image": lambda n, r: ("GET", "/image/png", (("Accept", "image/png"),), None, False),
    "text": lambda n, r: ("GET", "/encoding/utf8", (), None, False),
    "chunked": lambda n, r: ("POST", f"/anything/{n}", OCTETS, r.randbytes(r.randrange(1, 100_000)), True),
    "raw echo": lambda n, r: ("POST", f"/raw/echo?n={n}&a=%2F;b", OCTETS, r.randbytes(r.randrange(70_000)), False),
    "raw chunked": lambda n, r: ("POST", f"/raw/echo?n={n}&frame=chunked", OCTETS, r.randbytes(r.randrange(1, 300000)), True),
    "raw close": lambda n, r: ("PUT", f"/raw/echo?n={n}&frame=close", OCTETS, r.randbytes(3_000), False),
}  # fmt: skip


def make_calls(count: int, *, seed: int) -> list[Call]:
    """`count` calls, every kind in turn."""
    chance = random.Random(seed)
    calls = []
    makers = list(KINDS.items())
    for number in range(count):
        kind, make = makers[number % len(makers)]
        method, target, headers, body, chunked = make(number, chance)
        calls.append(Call(number, kind, method, target, headers, body, chunked, follow=kind == "redirect"))
    return calls


def with_credentials(call: Call, *, prefix: str, key_id: str, secret: str) -> tuple[tuple[str, str], ...]:
    """All headers to send: every other call is signed, and all but followed ones name their request id."""
    credentials = {"X-API-Key": secret}
    if call.number % 2 and not call.follow:  # where a redirect leads is not signed
        credentials = sign_request(
            key_id=key_id, secret=secret.encode(), method=call.method, target=call.target, body=call.body or b""
        )
    identity = () if call.follow else (("X-Request-Id", f"{prefix}-{call.number}"),)
    return (*call.headers, *credentials.items(), *identity)
