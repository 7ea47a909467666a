"""For every signed request and every single change to a signed part of it: the changed request is refused.

Ten thousand changes a scheme, through the parser, the match and the check of the signature as a worker runs them; without a
socket, which would tell nothing more and take a minute (test_credentials_on_the_wire.py has every flipped bit on one)."""

from __future__ import annotations

import hashlib
import hmac
import random
import time
from collections.abc import AsyncIterator, Callable

import http_sf
import pytest

from ostiary.core.errors import GatewayError
from ostiary.core.model import Authentication, Scheme
from ostiary.gateway.exchange import Exchange
from ostiary.gateway.keys import KeyRing
from ostiary.gateway.phases.admit import RequestIds, admit
from ostiary.gateway.phases.authenticate import authenticate
from ostiary.gateway.phases.match import match
from ostiary.gateway.wire.client import ClientConnection
from ostiary.gateway.wire.request_body import RequestBody
from ostiary.gateway.wire.request_head import Framing, parse_request_head
from tests.support.gateway import KEY_ID, SECRET, RunningGateway, configuration, key, route, running_gateway, upstream
from tests.support.signatures import HOST, content_digest, signature_lines

CHANGES = 10_000
BODY = '{"name":"Zoë","amount":1000}'.encode()
TARGET = "/v1/clients/Zo%C3%AB?limit=10&name=a+b&q=%2f"
NONCE = "changed0123456789abcdef"
HEAD = f"POST {TARGET} HTTP/1.1\r\nHost: {HOST}\r\n".encode()


def _mark(*parts: bytes) -> bytes:
    return hmac.new(SECRET, b"\n".join(parts), hashlib.sha256).hexdigest().encode()


def _with_hmac(now: int) -> list[bytes]:
    stamp = b"%d" % now
    mark = _mark(b"POST", TARGET.encode(), stamp, NONCE.encode(), hashlib.sha256(BODY).hexdigest().encode())
    return [b"X-API-Key: %b:%b" % (KEY_ID.encode(), mark), b"X-Timestamp: " + stamp, b"X-Nonce: " + NONCE.encode()]


def _with_hmac_body(now: int) -> list[bytes]:
    return [b"X-API-Key: %b:%b" % (KEY_ID.encode(), _mark(BODY))]


def _with_http_signature(now: int) -> list[bytes]:
    covered = [
        ('"@method"', "POST"),
        ('"@target-uri"', f"http://{HOST}{TARGET}"),
        ('"x-tenant"', "seven, 8"),
        ('"content-digest"', content_digest(BODY)),
    ]
    lines = signature_lines(TARGET, method="POST", body=BODY, components=covered, created=now, nonce=NONCE)
    return [b"X-Tenant: seven, 8", *lines]


# What is signed, as the beginnings of what may be changed; the body is always signed.
SIGNED: dict[str, tuple[Callable[[int], list[bytes]], tuple[bytes, ...]]] = {
    "hmac": (_with_hmac, (b"POST ", b"X-API-Key: ", b"X-Timestamp: ", b"X-Nonce: ")),
    "hmac-body": (_with_hmac_body, (b"X-API-Key: ",)),
    "http-signature": (
        _with_http_signature,
        (b"POST ", b"Host: ", b"X-Tenant: ", b"Content-Digest: ", b"Signature-Input: ", b"Signature: "),
    ),
}


@pytest.fixture
async def gateway() -> AsyncIterator[RunningGateway]:
    schemes = Authentication(schemes=frozenset({Scheme.HMAC, Scheme.HMAC_BODY, Scheme.HTTP_SIGNATURE}))
    keys = [key(), key("ak_test_clienu", b"u" * 40)]
    settings = configuration([upstream(1)], [route(authentication=schemes)], keys=keys)
    async with running_gateway(settings) as gateway:
        yield gateway


class Judge:
    """Runs requests through the phases up to the signature."""

    def __init__(self, gateway: RunningGateway) -> None:
        self._gateway = gateway.gateway
        self._keys = KeyRing(
            file_keys=self._gateway.snapshot.configuration.keys, postgres_url=None, envelope=None, stale_seconds=1.0
        )
        self._ids = RequestIds()

    def refusal(self, data: bytes, body: bytes) -> str | None:
        """Why a request is refused, None if it gets in. `data` is its head, without what ends it."""
        gateway = self._gateway
        try:
            head = parse_request_head(data, gateway.limits)
            client = ClientConnection(gateway)
            client.peer = "127.0.0.1"
            payload = RequestBody(Framing.LENGTH, len(body), 1 << 20, client)
            payload.feed(body)
            exchange = Exchange(client=client, snapshot=gateway.snapshot, head=head, body=payload, started=0.0)
            admit(exchange, self._ids)
            match(exchange)
            authenticate(exchange, self._keys).send(None)
        except GatewayError as error:
            return f"{error.code.code}: {error.reason}"
        except StopIteration:
            return None
        raise AssertionError("it waits for something")


def changed(data: bytes, random: random.Random) -> bytes:
    """One change: a bit, an octet, one more, one less, two that change places, another case, another way to escape."""
    at = random.randrange(len(data))
    choice = random.randrange(8)
    octet = data[at]
    if choice == 0:
        new = bytes([octet ^ 1 << random.randrange(8)])
    elif choice == 1:
        new = bytes([random.randrange(256)])
    elif choice == 2:
        new = b""
    elif choice == 3:
        new = bytes(
            [octet, random.choice(b"0aA=?&;:,\"' +%/.\t\r\n") if random.random() < 0.8 else random.randrange(256)]
        )
    elif choice == 4:
        return data[:at] + data[at + 1 : at + 2] + data[at : at + 1] + data[at + 2 :]
    elif choice == 5:
        new = bytes([octet]).swapcase()
    elif choice == 6:
        new = b"%%%02X" % octet
    else:
        for old, other in (
            (b"+", b"%20"),
            (b"%C3%AB", b"e%CC%88"),
            (b"%2f", b"%2F"),
            (b"%C3", b"%c3"),
            (b"limit=10&name=a+b", b"name=a+b&limit=10"),
        ):
            if old in data and random.random() < 0.5:
                return data.replace(old, other)
        return data + data[at:]
    return data[:at] + new + data[at + 1 :]


def meaning(part: bytes, value: bytes) -> object:
    """What a changed part says: blanks around a header's value, and blanks within a structured field, say nothing."""
    if part == b"Signature-Input: ":
        try:
            return http_sf.parse(value.strip(b" \t"), tltype="dictionary")
        except ValueError:
            return None
    return value.strip(b" \t") if part.endswith(b": ") else value


@pytest.mark.parametrize("scheme", SIGNED)
async def test_every_changed_request_is_refused(scheme: str, gateway: RunningGateway) -> None:
    """Rows 55, 56, 64: method, path, query (order, `+`, case of escapes, NFC and NFD), host, signed headers, created, nonce,
    body, signature."""
    lines, beginnings = SIGNED[scheme]
    head = HEAD + b"\r\n".join([*lines(int(time.time())), b"Content-Length: %d" % len(BODY)])
    judge = Judge(gateway)
    assert judge.refusal(head, BODY) is None
    chance = random.Random(scheme)
    refused = dict.fromkeys((*beginnings, b"body"), 0)
    while sum(refused.values()) < CHANGES:
        part = chance.choice((*beginnings, b"body"))
        if part == b"body":
            new = changed(BODY, chance)
            if new == BODY:
                continue
            reason = judge.refusal(head, new)
        else:
            begin = head.index(part) + (0 if part == b"POST " else len(part))
            end = head.index(b"\r\n", begin) - (len(b" HTTP/1.1") if part == b"POST " else 0)
            old, new = head[begin:end], changed(head[begin:end], chance)
            if meaning(part, new) == meaning(part, old):
                continue
            reason = judge.refusal(head[:begin] + new + head[end:], BODY)
        assert reason is not None, (part, new)
        refused[part] += 1
    assert min(refused.values()) > CHANGES / 20
    assert judge.refusal(head, BODY) is None
