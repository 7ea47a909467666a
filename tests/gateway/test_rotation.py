"""A rotated key on the wire: by every scheme, on connections that are open, in what is metered."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ostiary.core.model import Authentication, Upgrade
from ostiary.core.upstream import Timeouts
from tests.support.gateway import (
    EVERY_SCHEME,
    KEY_ID,
    RunningGateway,
    configuration,
    key,
    route,
    running_gateway,
    upstream,
)
from tests.support.messages import request
from tests.support.metering import metered_calls
from tests.support.origin import Origin
from tests.support.signatures import signed_upload
from tests.support.tunnels import connect, tunnel_origin, upgrade_request
from tests.support.waiting import MACHINE_SECONDS

OLD, NEW, STRANGE = b"the-old-secret-" * 3, b"the-new-secret-" * 3, b"a-strange-secret" * 3
GRACE_SECONDS = 1.5
KEYS = Authentication(schemes=EVERY_SCHEME)


def mark(secret: bytes, message: bytes) -> bytes:
    return hmac.new(secret, message, hashlib.sha256).hexdigest().encode()


def bearer(secret: bytes) -> bytes:
    return request("/x", b"X-API-Key: " + secret, close=False)


def hmac_signed(secret: bytes) -> bytes:
    stamp, nonce = b"%d" % time.time(), secrets.token_hex(16).encode()
    message = b"\n".join((b"GET", b"/x", stamp, nonce, hashlib.sha256(b"").hexdigest().encode()))
    credential = b"X-API-Key: %b:%b" % (KEY_ID.encode(), mark(secret, message))
    return request("/x", credential, b"X-Timestamp: " + stamp, b"X-Nonce: " + nonce, close=False)


def http_signed(secret: bytes) -> bytes:
    lines = signed_upload("http-signature", "/x", b"hello", secret=secret)
    return request("/x", *lines, b"Content-Length: 5", method=b"POST", body=b"hello", close=False)


def hmac_body(secret: bytes) -> bytes:
    credential = b"X-API-Key: %b:%b" % (KEY_ID.encode(), mark(secret, b"hello"))
    return request("/x", credential, b"Content-Length: 5", method=b"POST", body=b"hello", close=False)


class Caller:
    """One connection, kept."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def at(cls, gateway: RunningGateway) -> Caller:
        return cls(*await asyncio.open_connection("127.0.0.1", gateway.port))

    def begin(self, data: bytes) -> None:
        self._writer.write(data)

    async def ask(self, data: bytes) -> tuple[int, bytes]:
        """Status and body."""
        self.begin(data)
        head = await self._reader.readuntil(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if line)
        return int(head[9:12]), await self._reader.readexactly(int(fields[b"content-length"]))

    def close(self) -> None:
        self._writer.close()


@pytest.mark.parametrize("signed", [bearer, hmac_signed, hmac_body, http_signed])
async def test_the_old_secret_works_to_the_end_of_its_grace_and_the_new_one_on(
    signed: Callable[[bytes], bytes], origin: Origin, tmp_path: Path
) -> None:
    """Row 66: the old secret inside the grace is 200, outside it 401, on a connection that is open; and the 401 is that of
    a secret that never was."""
    ends_at = time.time() + GRACE_SECONDS
    settings = configuration(
        [upstream(origin.port)], [route(authentication=KEYS)], keys=[key(secret=NEW, previous=(OLD, ends_at))]
    )
    async with running_gateway(settings, spool_directory=tmp_path) as gateway:
        caller = await Caller.at(gateway)
        assert [(await caller.ask(signed(secret)))[0] for secret in (OLD, NEW, STRANGE)] == [200, 200, 401]
        calls = await metered_calls(tmp_path, 2)
        assert [(call.key_id, call.key_generation) for call in calls] == [(KEY_ID, 1), (KEY_ID, 2)]
        while True:
            began = time.time()
            status, body = await caller.ask(signed(OLD))
            if status == 401:
                break
            assert began < ends_at
        assert time.time() >= ends_at
        assert (await caller.ask(signed(NEW)))[0] == 200
        _, strange = await caller.ask(signed(STRANGE))
        assert _without_id(body) == _without_id(strange)
        caller.close()


def _without_id(body: bytes) -> bytes:
    return body.split(b'"request_id"')[0]


@pytest.mark.parametrize("scheme", ["hmac", "hmac-body", "http-signature"])
@pytest.mark.parametrize("ended", ["rotated", "expired"])
async def test_a_signed_body_that_comes_after_the_end_of_its_secret_is_refused(
    scheme: str, ended: str, origin: Origin
) -> None:
    """Rows 66, 70: who has a stolen secret could begin uploads before it ends, and have them served long after."""
    ends_at = time.time() + 0.5
    keys = {"rotated": key(secret=NEW, previous=(OLD, ends_at)), "expired": key(secret=OLD, expires_at=ends_at)}
    settings = configuration([upstream(origin.port)], [route(authentication=KEYS)], keys=[keys[ended]])
    async with running_gateway(settings) as gateway:
        lines = signed_upload(scheme, "/x", b"hello", secret=OLD)
        whole = request("/x", *lines, b"Content-Length: 5", method=b"POST", body=b"hello", close=False)
        caller = await Caller.at(gateway)
        caller.begin(whole[:-1])
        while time.time() <= ends_at:  # noqa: ASYNC110  time is what is waited for
            await asyncio.sleep(0.01)
        assert (await caller.ask(whole[-1:]))[0] == 401
        assert origin.seen == []
        caller.close()


async def test_a_tunnel_ends_with_the_secret_that_opened_it(tmp_path: Path) -> None:
    """Rows 66, 70: who has a stolen secret would go on for hours on the connection that was open."""
    ends_at = time.time() + GRACE_SECONDS
    async with tunnel_origin() as origin:
        timeouts = Timeouts(connect_seconds=1, first_byte_seconds=2, idle_seconds=1, upgrade_idle_seconds=30)
        settings = configuration(
            [upstream(origin.port, timeouts=timeouts)],
            [route("ws", "/ws", authentication=KEYS, upgrades=frozenset({Upgrade.WEBSOCKET}))],
            keys=[key(secret=NEW, previous=(OLD, ends_at))],
        )
        async with running_gateway(settings, spool_directory=tmp_path) as gateway:
            ends, stays = [await connect(gateway.port, upgrade_request(b"X-API-Key: " + each)) for each in (OLD, NEW)]
            assert (await ends.read_head()).startswith(b"HTTP/1.1 101 ")
            assert (await stays.read_head()).startswith(b"HTTP/1.1 101 ")
            ends_upstream = await origin.end()
            stays_upstream = await origin.end()
            assert await ends.read_rest() == b""
            assert -0.1 < time.time() - ends_at < 1.5 + MACHINE_SECONDS
            (call,) = await metered_calls(tmp_path, 1)
            assert (call.status, call.key_generation, call.complete) == (101, 1, False)
            stays.writer.write(b"still here")
            assert await stays_upstream.read(10) == b"still here"
            assert await ends_upstream.read_rest() == b""
