"""WebSocket through the gateway: a call like any other up to its 101, and from there bytes from end to end."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from ostiary.core.model import Authentication, Configuration, Environment, Plan, Scheme, Upgrade
from ostiary.core.upstream import Timeouts
from tests.gateway.wire.test_upgrade import MALFORMED
from tests.support.certificates import issue, model
from tests.support.gateway import (
    KEY_ID,
    SECRET,
    RunningGateway,
    configuration,
    key,
    route,
    running_gateway,
    talk,
    upstream,
)
from tests.support.metering import metered, metered_calls
from tests.support.tunnels import ACCEPT, GRANTED, KEY, End, TunnelOrigin, connect, tunnel_origin, upgrade_request
from tests.support.waiting import MACHINE_SECONDS

MIB = 1024 * 1024
WEBSOCKET = frozenset({Upgrade.WEBSOCKET})
INVALID_FRAMES = b"\xff\xff" + bytes(range(256)) + b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" + b"\x00" * 64


@pytest.fixture
async def origin() -> AsyncIterator[TunnelOrigin]:
    async with tunnel_origin() as origin:
        yield origin


def settings(origin: TunnelOrigin, *, idle_seconds: float = 30.0) -> Configuration:
    """`/ws` takes upgrades and keys, of which one may be used once at a time; `/open` takes upgrades; `/plain` does not."""
    timeouts = Timeouts(connect_seconds=1, first_byte_seconds=2, idle_seconds=0.3, upgrade_idle_seconds=idle_seconds)
    bearer = Authentication(schemes=frozenset({Scheme.BEARER}))
    upstreams = {Environment.LIVE: "origin", Environment.TEST: "origin"}
    return configuration(
        [upstream(origin.port, timeouts=timeouts)],
        [
            route("ws", "/ws", authentication=bearer, upgrades=WEBSOCKET, upstreams=upstreams),
            route("open", "/open", upgrades=WEBSOCKET),
            route("plain", "/plain"),
        ],
        keys=[key(plan="one")],
        plans={"one": Plan("one", concurrency=1)},
    )


@pytest.fixture
async def gateway(origin: TunnelOrigin, tmp_path: Path) -> AsyncIterator[RunningGateway]:
    async with running_gateway(settings(origin), spool_directory=tmp_path) as gateway:
        yield gateway


async def open_tunnel(gateway: RunningGateway, origin: TunnelOrigin) -> tuple[End, End]:
    """The client's end and the upstream's."""
    client = await connect(gateway.port, upgrade_request(target=b"/open"))
    assert (await client.read_head()).startswith(b"HTTP/1.1 101 ")
    return client, await origin.end()


async def test_a_granted_upgrade_becomes_a_tunnel(gateway: RunningGateway, origin: TunnelOrigin) -> None:
    """Row 107: the whole of a WebSocket's beginning, and what each end sent before it could know that it may."""
    origin.answer = GRANTED + b"first from the upstream"
    request = upgrade_request(b"X-API-Key: " + SECRET, b"Sec-WebSocket-Protocol: chat", b"X-Ostiary-Key: forged")
    client = await connect(gateway.port, request + b"first from the client")
    head = (await client.read_head()).split(b"\r\n")
    assert head[0] == b"HTTP/1.1 101 Switching Protocols"
    assert {b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Accept: " + ACCEPT} < set(head)
    assert not any(line.lower().startswith((b"content-length", b"transfer-encoding")) for line in head)
    upstream = await origin.end()
    sent = origin.heads[0].lower().split(b"\r\n")
    assert sent.count(b"connection: upgrade") == sent.count(b"upgrade: websocket") == 1
    assert sum(line.startswith((b"connection:", b"upgrade:")) for line in sent) == 2
    assert b"sec-websocket-key: " + KEY.lower() in sent
    assert b"sec-websocket-protocol: chat" in sent
    assert b"x-ostiary-key: " + KEY_ID.encode() in sent
    assert SECRET not in origin.heads[0]
    assert b"forged" not in origin.heads[0]
    assert await client.read(23) == b"first from the upstream"
    assert await upstream.read(21) == b"first from the client"
    for number in range(3):
        client.writer.write(b"ping%d" % number)
        assert await upstream.read(5) == b"ping%d" % number
        upstream.writer.write(b"pong%d" % number)
        assert await client.read(5) == b"pong%d" % number


@pytest.mark.parametrize("name", MALFORMED)
async def test_a_malformed_upgrade_is_refused(name: str, gateway: RunningGateway, origin: TunnelOrigin) -> None:
    """Row 32: refused whoever asks, and nothing upstream (GHSA-mfx4-hv73-q22v)."""
    answer = await talk(gateway.port, MALFORMED[name].replace(b"/ws", b"/open"))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"\r\nConnection: close\r\n" in answer
    assert b"HEAD" in MALFORMED[name] or b'"code": "malformed_request"' in answer
    assert origin.heads == []


async def test_a_route_that_does_not_take_upgrades_ignores_them(gateway: RunningGateway, origin: TunnelOrigin) -> None:
    """Rows 25, 32: an upstream that is not meant to be spoken to freely never hears of it."""
    origin.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    client = await connect(gateway.port, upgrade_request(target=b"/plain"))
    assert (await client.read_head()).startswith(b"HTTP/1.1 200 ")
    assert b"upgrade" not in origin.heads[0].lower()


async def test_an_upgrade_to_http_2_is_never_passed_on(gateway: RunningGateway, origin: TunnelOrigin) -> None:
    """Row 25: h2c behind a gateway's back is a way around it, on a route that takes WebSocket too."""
    origin.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
    for protocol in (b"h2c", b"h2c, h2"):
        client = await connect(
            gateway.port,
            b"GET /open HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: "
            + protocol
            + b"\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
        )
        assert (await client.read_head()).startswith(b"HTTP/1.1 200 ")
    for head in origin.heads:
        assert b"upgrade" not in head.lower()
        assert b"h2c" not in head.lower()
        assert b"http2-settings" not in head.lower()


@pytest.mark.parametrize(
    ("target", "answer"),
    [
        (b"/plain", GRANTED),
        (b"/open", GRANTED.replace(b"websocket", b"h2c")),
        (b"/open", GRANTED.replace(b"Upgrade: websocket\r\n", b"")),
        (b"/open", GRANTED.replace(b"\r\n\r\n", b"\r\nContent-Length: 5\r\n\r\nhello")),
    ],
)
async def test_a_101_that_was_not_asked_for_is_502(
    target: bytes, answer: bytes, gateway: RunningGateway, origin: TunnelOrigin
) -> None:
    """Row 100: a client that did not ask would read what follows as the answer to its next request."""
    origin.answer = answer
    client = await connect(gateway.port, upgrade_request(target=target))
    assert (await client.read_head()).startswith(b"HTTP/1.1 502 ")
    assert await (await origin.end()).read_rest() == b""


async def test_an_upgrade_that_the_upstream_does_not_grant_is_an_ordinary_call(
    gateway: RunningGateway, origin: TunnelOrigin
) -> None:
    """A WebSocket server refuses with 400, 403 or 426; the client's connection goes on, and what it sent ahead is its next
    request, never a frame."""
    origin.answer = b"HTTP/1.1 426 Upgrade Required\r\nSec-WebSocket-Version: 13\r\nContent-Length: 2\r\n\r\nno"
    follow = b"GET /plain HTTP/1.1\r\nHost: a\r\n\r\n"
    client = await connect(gateway.port, upgrade_request(target=b"/open") + follow)
    assert (await client.read_head()).startswith(b"HTTP/1.1 426 ")
    assert await client.read(2) == b"no"
    assert origin.heads[0].startswith(b"GET /open ")


async def test_an_upgrade_needs_what_every_call_needs(gateway: RunningGateway, origin: TunnelOrigin) -> None:
    """Otherwise WebSocket would be the way in without a key, or past a limit; a tunnel counts as under way to its end."""
    refused = await talk(gateway.port, upgrade_request(b"Connection: close"))
    assert refused.startswith(b"HTTP/1.1 401 ")
    with_key = b"X-API-Key: " + SECRET
    client = await connect(gateway.port, upgrade_request(with_key))
    assert (await client.read_head()).startswith(b"HTTP/1.1 101 ")
    upstream = await origin.end()
    second = await talk(gateway.port, upgrade_request(with_key, b"Connection: close"))
    assert second.startswith(b"HTTP/1.1 429 ")
    assert b"too_many_concurrent" in second
    assert len(origin.heads) == 1
    client.writer.close()
    assert await upstream.read_rest() == b""
    upstream.writer.close()
    async with asyncio.timeout(5):
        while True:
            third = await connect(gateway.port, upgrade_request(with_key))
            if (await third.read_head()).startswith(b"HTTP/1.1 101 "):
                break


async def test_a_tunnel_is_metered_once_at_its_end(
    gateway: RunningGateway, origin: TunnelOrigin, tmp_path: Path
) -> None:
    """Rows 105, 107: what went through is what is billed: bytes both ways, the whole time, and that it ended well."""
    client = await connect(gateway.port, upgrade_request(b"X-API-Key: " + SECRET))
    await client.read_head()
    upstream = await origin.end()
    client.writer.write(b"x" * 1000)
    await upstream.read(1000)
    upstream.writer.write(b"y" * 50_000)
    await client.read(50_000)
    assert metered(tmp_path) == []
    began = time.monotonic()
    client.writer.close()
    await upstream.read_rest()
    upstream.writer.close()
    (call,) = await metered_calls(tmp_path, 1)
    assert (call.status, call.bytes_in, call.bytes_out, call.key_id, call.complete) == (101, 1000, 50_000, KEY_ID, True)
    assert call.latency_us < (time.monotonic() - began + 10) * 1e6
    assert gateway.count("http_requests_total", route="ws", method="GET", status="101") == 1


async def test_each_end_may_close_its_half_first(gateway: RunningGateway, origin: TunnelOrigin) -> None:
    """Row 107: an end that has said all it had may still listen, and hears the rest."""
    for client_first in (True, False):
        client, upstream = await open_tunnel(gateway, origin)
        early, late = (client, upstream) if client_first else (upstream, client)
        early.writer.write(b"my last words")
        early.writer.write_eof()
        assert await late.read_rest() == b"my last words"
        late.writer.write(b"a" * MIB)
        late.writer.write_eof()
        assert await early.read_rest() == b"a" * MIB


async def test_a_client_that_half_closed_before_the_101_is_still_heard(
    gateway: RunningGateway, origin: TunnelOrigin
) -> None:
    """Rows 37, 107: its FIN came while it waited; the upstream gets it after what came before it."""
    client = await connect(gateway.port, upgrade_request(target=b"/open") + b"all I have")
    client.writer.write_eof()
    upstream = await origin.end()
    assert await upstream.read_rest() == b"all I have"
    upstream.writer.write(b"heard")
    upstream.writer.close()
    assert (await client.read_rest()).endswith(b"\r\n\r\nheard")


async def test_frames_are_not_looked_at(gateway: RunningGateway, origin: TunnelOrigin) -> None:
    """Row 107: what is wrong in WebSocket is the ends' to judge; bytes that look like HTTP are no request."""
    client, upstream = await open_tunnel(gateway, origin)
    client.writer.write(INVALID_FRAMES)
    assert await upstream.read(len(INVALID_FRAMES)) == INVALID_FRAMES
    upstream.writer.write(INVALID_FRAMES)
    assert await client.read(len(INVALID_FRAMES)) == INVALID_FRAMES
    assert len(origin.heads) == 1


async def test_silence_ends_a_tunnel_and_traffic_of_either_end_keeps_it(origin: TunnelOrigin, tmp_path: Path) -> None:
    """Row 107: ends that died without a word would hold two connections and a lease forever; a ping now and then is enough,
    and the time of ordinary answers does not hold."""
    async with running_gateway(settings(origin, idle_seconds=0.5), spool_directory=tmp_path) as gateway:
        client, upstream = await open_tunnel(gateway, origin)
        silent_client, silent_upstream = await open_tunnel(gateway, origin)
        silent = asyncio.gather(silent_client.read_rest(), silent_upstream.read_rest())
        sender, receiver = client, upstream
        while not silent.done():
            sender.writer.write(b"ping")
            assert await receiver.read(4) == b"ping"
            sender, receiver = receiver, sender
            await asyncio.wait([silent], timeout=0.1)
        assert not any(await silent)
        (call,) = await metered_calls(tmp_path, 1)
        assert (call.status, call.complete) == (101, False)
        assert call.latency_us >= 0.5e6
        sender.writer.write(b"still here")
        assert await receiver.read(10) == b"still here"


async def test_a_tunnel_ends_with_its_key(origin: TunnelOrigin, tmp_path: Path) -> None:
    """Rows 66, 70: who took a key back would see its holder go on for hours, on the connection that was open."""
    plain = settings(origin)
    short = key("ak_test_short", b"sk_test_short" + b"s" * 32, expires_at=time.time() + 1.5)
    both = replace(plain, keys={**plain.keys, short.id: short})
    async with running_gateway(both, spool_directory=tmp_path) as gateway:
        stays = await connect(gateway.port, upgrade_request(b"X-API-Key: " + SECRET))
        assert (await stays.read_head()).startswith(b"HTTP/1.1 101 ")
        stays_upstream = await origin.end()
        assert short.secret is not None
        ends = await connect(gateway.port, upgrade_request(b"X-API-Key: " + short.secret))
        assert (await ends.read_head()).startswith(b"HTTP/1.1 101 ")
        assert await (await origin.end()).read_rest() == b""
        assert await ends.read_rest() == b""
        assert short.expires_at is not None
        assert -0.1 < time.time() - short.expires_at < 1.5 + MACHINE_SECONDS
        (call,) = await metered_calls(tmp_path, 1)
        assert (call.status, call.key_id, call.complete) == (101, short.id, False)
        stays.writer.write(b"still here")
        assert await stays_upstream.read(10) == b"still here"


@pytest.mark.parametrize("upward", [True, False])
async def test_an_end_that_takes_nothing_holds_the_other_back_at_flat_memory(
    upward: bool, gateway: RunningGateway, origin: TunnelOrigin
) -> None:
    """Rows 107, 104: a message of 64 MiB to a slow end would otherwise be 64 MiB of the gateway's memory."""
    size = 64 * MIB
    client, upstream = await open_tunnel(gateway, origin)
    sender, receiver = (client, upstream) if upward else (upstream, client)
    piece = os.urandom(MIB)
    process = psutil.Process()
    before_bytes = process.memory_info().rss
    most_bytes = sent_bytes = 0

    async def send() -> None:
        nonlocal sent_bytes
        while sent_bytes < size:
            sender.writer.write(piece)
            await sender.writer.drain()
            sent_bytes += MIB

    sending = asyncio.create_task(send())
    held_at = -1
    while held_at != sent_bytes:  # until nothing moves any more
        held_at = sent_bytes
        await asyncio.wait([sending], timeout=0.3)
    assert not sending.done()
    assert sent_bytes < 24 * MIB  # the system's buffers, the writer's, and two of the gateway
    for _ in range(size // MIB):
        assert await receiver.read(MIB) == piece
        most_bytes = max(most_bytes, process.memory_info().rss)
    await sending
    assert most_bytes - before_bytes < 24 * MIB


def origin_of(gateway: RunningGateway) -> dict[str, object]:
    """How /status shows the one target."""
    upstreams = gateway.gateway.status()["upstreams"]
    assert isinstance(upstreams, dict)
    (target,) = upstreams["origin"]
    assert isinstance(target, dict)
    return target


Leave = Callable[[End], None]


@pytest.mark.parametrize("leave", [End.reset, lambda end: end.writer.close()], ids=["by a reset", "by closing"])
@pytest.mark.parametrize("client_leaves", [True, False], ids=["client", "upstream"])
async def test_an_end_that_leaves_ends_the_other_within_a_second(
    client_leaves: bool, leave: Leave, gateway: RunningGateway, origin: TunnelOrigin, tmp_path: Path
) -> None:
    """Rows 105, 37: an upstream that goes on for a client that has gone works for nobody, and its calls are billed to it."""
    client, upstream = await open_tunnel(gateway, origin)
    left, other = (client, upstream) if client_leaves else (upstream, client)
    left.writer.write(b"x" * 100)
    await other.read(100)
    began = time.monotonic()
    leave(left)
    assert await other.read_rest() == b""
    assert time.monotonic() - began < 1.0 + MACHINE_SECONDS
    other.writer.close()
    (call,) = await metered_calls(tmp_path, 1)
    assert (call.status, call.complete) == (101, leave is not End.reset)
    assert call.bytes_in + call.bytes_out == 100
    assert origin_of(gateway)["in_flight"] == 0
    async with asyncio.timeout(5):
        while gateway.gateway.connections:  # noqa: ASYNC110  a connection's end is told to nobody
            await asyncio.sleep(0.01)


async def test_a_drain_ends_tunnels_in_order_within_its_deadline(origin: TunnelOrigin, tmp_path: Path) -> None:
    """Row 108: a deployment would otherwise wait for the last browser tab, or reset its connection with data on the way."""
    async with running_gateway(settings(origin), spool_directory=tmp_path) as gateway:
        client, upstream = await open_tunnel(gateway, origin)
        draining = asyncio.create_task(gateway.gateway.drain(2.0))
        client.writer.write(b"during the drain")
        assert await upstream.read(16) == b"during the drain"
        upstream.writer.write(b"z" * 32 * MIB)  # more than the client's system takes while the client reads nothing
        (call,) = await metered_calls(tmp_path, 1)
        assert (call.status, call.complete) == (101, False)
        assert call.bytes_out > MIB
        assert await client.read_rest() == b"z" * call.bytes_out
        client.writer.close()
        upstream.writer.close()
        await asyncio.wait_for(draining, 3)


async def test_a_reload_ends_no_tunnel(gateway: RunningGateway, origin: TunnelOrigin) -> None:
    """Row 112: a call ends under the configuration it began with, even if its route is gone and its upstream too."""
    client, upstream = await open_tunnel(gateway, origin)
    gateway.gateway.reload(configuration([], []))
    assert (await talk(gateway.port, upgrade_request(b"Connection: close"))).startswith(b"HTTP/1.1 404 ")
    client.writer.write(b"ping")
    assert await upstream.read(4) == b"ping"
    upstream.writer.write(b"pong")
    assert await client.read(4) == b"pong"


async def test_problem_documents_of_refused_upgrades_are_whole(gateway: RunningGateway) -> None:
    """A browser's developer reads why: the refusal is an answer like any other."""
    answer = await talk(gateway.port, upgrade_request(b"Content-Length: 5", target=b"/open") + b"hello")
    problem = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert (problem["status"], problem["code"]) == (400, "malformed_request")


@pytest.mark.parametrize("client_first", [True, False])
async def test_a_tunnel_in_tls_passes_bytes_and_ends_when_either_end_does(
    client_first: bool, origin: TunnelOrigin, tmp_path: Path
) -> None:
    """Row 107: event loops have no half-closed TLS, so there one end is the end of both, with all that was on its way."""
    certificate = model(issue(tmp_path, "api.test"))
    plain = settings(origin)
    listen = replace(plain.gateway.listen, tls=(certificate,))
    secure = replace(plain, gateway=replace(plain.gateway, listen=listen))
    trust = ssl.create_default_context(cafile=certificate.cert)
    async with running_gateway(secure, spool_directory=tmp_path) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, ssl=trust, server_hostname="api.test")
        client = End(reader, writer)
        writer.write(upgrade_request(target=b"/open"))
        assert (await client.read_head()).startswith(b"HTTP/1.1 101 ")
        upstream = await origin.end()
        for sender, receiver in ((client, upstream), (upstream, client)):
            sender.writer.write(b"a" * MIB)
            assert await receiver.read(MIB) == b"a" * MIB
        first, second = (client, upstream) if client_first else (upstream, client)
        first.writer.write(b"last words")
        first.writer.close()
        assert await second.read_rest() == b"last words"
        second.writer.close()
        (call,) = await metered_calls(tmp_path, 1)
        assert (call.status, call.complete) == (101, True)
