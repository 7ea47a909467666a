"""What happens between a request's head and its answer's end, in the order in which it happens: permission to send a body,
answers before the body, interim answers, streams, and clients that leave."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ostiary.core.model import Authentication, Configuration, Plan, Scheme, Window
from ostiary.core.upstream import Timeouts
from tests.support.gateway import (
    SECRET,
    RunningGateway,
    configuration,
    key,
    route,
    running_gateway,
    talk,
    upstream,
)
from tests.support.metering import metered_calls
from tests.support.tunnels import End, TunnelOrigin, connect, tunnel_origin
from tests.support.waiting import MACHINE_SECONDS

NOTHING = b""  # an origin that leaves even the answer to the test
WITH_KEY = b"X-API-Key: " + SECRET


@pytest.fixture
async def origin() -> AsyncIterator[TunnelOrigin]:
    async with tunnel_origin(NOTHING) as origin:
        yield origin


def settings(origin: TunnelOrigin, *, idle_seconds: float = 5) -> Configuration:
    """`/key` takes bodies of up to 1 000 bytes with a key, once a minute; everything else is open."""
    timeouts = Timeouts(connect_seconds=1, first_byte_seconds=5, idle_seconds=idle_seconds)
    bearer = Authentication(schemes=frozenset({Scheme.BEARER}))
    return configuration(
        [upstream(origin.port, timeouts=timeouts)],
        [route(), route("key", "/key", authentication=bearer, body_bytes_max=1000)],
        keys=[key(plan="one")],
        plans={"one": Plan("one", windows=(Window(1, 60),))},
    )


@pytest.fixture
async def gateway(origin: TunnelOrigin, tmp_path: Path) -> AsyncIterator[RunningGateway]:
    async with running_gateway(settings(origin), spool_directory=tmp_path) as gateway:
        yield gateway


def post(target: bytes, *lines: bytes, length: int = 5) -> bytes:
    head = (b"POST " + target + b" HTTP/1.1", b"Host: a", b"Content-Length: %d" % length, *lines)
    return b"\r\n".join(head) + b"\r\n\r\n"


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
EXPECT = b"Expect: 100-continue"

# --- Expect: 100-continue


async def test_100_comes_only_once_the_request_is_admitted(gateway: RunningGateway, origin: TunnelOrigin) -> None:
    """Row 29: a body that will be refused is never asked for: the final answer comes in its stead, and the connection ends,
    for whether the body still comes is not known."""
    for lines, length, status in (
        ((), 5, b"401"),
        ((b"X-API-Key: sk_test_" + b"z" * 49,), 5, b"401"),
        ((WITH_KEY,), 1001, b"413"),
    ):
        answer = await talk(gateway.port, post(b"/key", EXPECT, *lines, length=length))
        assert answer.startswith(b"HTTP/1.1 " + status)
        assert b"\r\nConnection: close\r\n" in answer
        assert b"100 Continue" not in answer
    assert origin.heads == []
    client = await connect(gateway.port, post(b"/key", EXPECT, WITH_KEY))
    assert await client.read_head() == b"HTTP/1.1 100 Continue\r\n\r\n"
    upstream_end = await origin.end()
    client.writer.write(b"hello")
    assert await upstream_end.read(5) == b"hello"
    upstream_end.writer.write(OK)
    assert (await client.read_head()).startswith(b"HTTP/1.1 200 ")
    over = await talk(gateway.port, post(b"/key", EXPECT, WITH_KEY))
    assert over.startswith(b"HTTP/1.1 429 ")
    assert b"\r\nConnection: close\r\n" in over
    assert b"100 Continue" not in over
    assert len(origin.heads) == 1


async def test_a_client_that_sends_its_body_unasked_gets_no_100(gateway: RunningGateway, origin: TunnelOrigin) -> None:
    """Row 29: a 100 that comes when the body is here already is one answer too many for some clients (RFC 9110 §10.1.1)."""
    client = await connect(gateway.port, post(b"/", EXPECT) + b"hel")
    upstream_end = await origin.end()
    client.writer.write(b"lo")
    assert await upstream_end.read(5) == b"hello"
    assert b"expect" not in origin.heads[0].lower()
    upstream_end.writer.write(OK)
    assert (await client.read_head()).startswith(b"HTTP/1.1 200 ")


async def test_an_upstream_s_own_100_does_not_reach_the_client_twice(
    gateway: RunningGateway, origin: TunnelOrigin
) -> None:
    """Row 100: Expect ends at the gateway, so the 100 of this hop has been given already."""
    client = await connect(gateway.port, post(b"/", EXPECT))
    assert await client.read_head() == b"HTTP/1.1 100 Continue\r\n\r\n"
    upstream_end = await origin.end()
    client.writer.write(b"hello")
    await upstream_end.read(5)
    upstream_end.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n" + OK)
    assert (await client.read_head()).startswith(b"HTTP/1.1 200 ")


async def test_curl_waits_for_100_and_sends_nothing_when_it_is_refused(
    gateway: RunningGateway, origin: TunnelOrigin
) -> None:
    """Row 29: with a client that many have. `--expect100-timeout` is far beyond the test's own time, so a body that is sent
    was asked for."""
    curl = shutil.which("curl")
    assert curl is not None, "curl is part of every system that runs these tests"

    async def run(*arguments: str) -> str:
        process = await asyncio.create_subprocess_exec(
            curl, "-sv", "--max-time", "5", "--expect100-timeout", "60", "-H", "Expect: 100-continue",
            "--data-binary", "x" * 900, *arguments, f"http://127.0.0.1:{gateway.port}/key",
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        output, _ = await asyncio.wait_for(process.communicate(), 10)
        return output.decode()

    refused = await run()
    assert "< HTTP/1.1 401 " in refused
    assert "100 Continue" not in refused
    asked = asyncio.create_task(run("-H", WITH_KEY.decode()))
    upstream_end = await origin.end()
    assert await upstream_end.read(900) == b"x" * 900
    upstream_end.writer.write(OK)
    assert "< HTTP/1.1 100 Continue" in await asked


# --- answers before the body has come


@pytest.mark.parametrize("status", [b"413 Too Large", b"200 OK"])
async def test_an_answer_before_the_body_s_end_stops_the_upload(
    status: bytes, gateway: RunningGateway, origin: TunnelOrigin
) -> None:
    """Row 101: the client hears it at once, the upstream is spared the rest, and its connection is not used again."""
    client = await connect(gateway.port, post(b"/", length=1_000_000) + b"x" * 1000)
    upstream_end = await origin.end()
    await upstream_end.read(1000)
    upstream_end.writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 5\r\n\r\nearly")
    head = await client.read_head()
    assert head.startswith(b"HTTP/1.1 " + status)
    assert b"\r\nConnection: close\r\n" in head
    client.writer.write(b"y" * 10_000)
    assert await client.read_rest() == b"early"
    assert await upstream_end.read_rest() == b""
    await connect(gateway.port, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    await origin.end()
    assert len(origin.heads) == 2  # on a connection of its own


async def test_an_upstream_that_answers_and_resets_while_the_upload_runs_is_heard(
    gateway: RunningGateway, origin: TunnelOrigin
) -> None:
    """Row 101: servers that refuse a body close with some of it unread, which is a reset; the refusal came before it."""
    for _ in range(20):
        client = await connect(gateway.port, post(b"/", length=1_000_000_000))
        upstream_end = await origin.end()
        client.writer.write(b"x" * 300_000)
        upstream_end.writer.write(b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbig")
        upstream_end.reset()
        assert (await client.read_head()).startswith(b"HTTP/1.1 413 ")
        assert await client.read_rest() == b"big"
        client.writer.close()


async def test_an_answer_may_begin_while_the_upload_goes_on(gateway: RunningGateway, origin: TunnelOrigin) -> None:
    """Row 101: an upstream that answers as it reads (an echo, a transcoder) gets all of the body and gives all of its
    answer."""
    client = await connect(gateway.port, post(b"/", length=50))
    upstream_end = await origin.end()
    upstream_end.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n")
    assert (await client.read_head()).startswith(b"HTTP/1.1 200 ")
    for number in range(5):
        piece = b"%010d" % number
        client.writer.write(piece)
        assert await upstream_end.read(10) == piece
        upstream_end.writer.write(piece)
        assert await client.read(10) == piece
    assert await client.read_rest() == b""


async def test_an_answer_that_began_early_may_wait_for_the_upload(origin: TunnelOrigin) -> None:
    """Row 101: while the body comes, the answer's pause is the upload's time, and no sign of an upstream that hangs."""
    async with running_gateway(settings(origin, idle_seconds=0.2)) as gateway:
        client = await connect(gateway.port, post(b"/", length=10))
        upstream_end = await origin.end()
        upstream_end.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n")
        await client.read_head()
        for number in range(10):
            client.writer.write(b"%d" % number)
            assert await upstream_end.read(1) == b"%d" % number
            await asyncio.sleep(0.1)  # the upload's pace: slow, and in all longer than an answer may pause
        upstream_end.writer.write(b"done")
        assert await client.read(4) == b"done"


async def test_a_client_that_resets_in_its_body_is_metered_as_gone(
    gateway: RunningGateway, origin: TunnelOrigin, tmp_path: Path
) -> None:
    """Row 37: the upstream never takes half of a body for all of it, and the call is in the books as what it was. A reset
    within the head is no call."""
    head = post(b"/", length=1000)
    (await connect(gateway.port, head[:20])).reset()
    client = await connect(gateway.port, head + b"x" * 400)
    upstream_end = await origin.end()
    await upstream_end.read(400)
    client.reset()
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await upstream_end.read(600)
    (call,) = await metered_calls(tmp_path, 1)
    assert (call.status, call.bytes_in, call.complete) == (499, 400, False)
    async with asyncio.timeout(5):
        while gateway.gateway.connections:  # noqa: ASYNC110  a connection's end is told to nobody
            await asyncio.sleep(0.01)


# --- interim answers


HINT = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nConnection: X-Hop\r\nX-Hop: 1\r\n\r\n"
HINT_PASSED = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n"


async def test_interim_answers_reach_a_client_before_the_answer_exists(
    gateway: RunningGateway, origin: TunnelOrigin
) -> None:
    """Row 100: a hint is worth something only ahead of the answer, and a proxy must pass it (RFC 9110 §15.2)."""
    client = await connect(gateway.port, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    upstream_end = await origin.end()
    upstream_end.writer.write(HINT)
    assert await client.read_head() == HINT_PASSED
    upstream_end.writer.write(b"HTTP/1.1 102 Processing\r\n\r\n" + HINT + OK)
    assert await client.read_head() == b"HTTP/1.1 102 Processing\r\n\r\n"
    assert await client.read_head() == HINT_PASSED
    assert (await client.read_head()).startswith(b"HTTP/1.1 200 OK\r\n")
    assert await client.read(2) == b"ok"


async def test_http_1_0_gets_the_answer_alone(gateway: RunningGateway, origin: TunnelOrigin) -> None:
    """Row 100: HTTP/1.0 has no interim answers; it would take one for the answer."""
    origin.answer = HINT * 3 + OK
    answer = await talk(gateway.port, b"GET / HTTP/1.0\r\nHost: a\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"103" not in answer


async def test_endless_interim_answers_end_in_502(gateway: RunningGateway, origin: TunnelOrigin) -> None:
    """Row 100: an upstream could keep a client busy forever without ever answering."""
    origin.answer = HINT * 1000
    answer = await talk(gateway.port, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert answer.count(b"HTTP/1.1 103 ") == 32
    assert b"HTTP/1.1 502 " in answer


async def test_a_client_that_leaves_between_a_hint_and_the_answer_costs_nothing(
    gateway: RunningGateway, origin: TunnelOrigin, tmp_path: Path
) -> None:
    """Rows 37, 100: the request path waits for the answer when it is told, as at any other place."""
    client = await connect(gateway.port, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    upstream_end = await origin.end()
    upstream_end.writer.write(HINT)
    await client.read_head()
    client.reset()
    assert await upstream_end.read_rest() == b""
    (call,) = await metered_calls(tmp_path, 1)
    assert (call.status, call.complete) == (499, False)


# --- streams

STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
FRAMES = [b"Transfer-Encoding: chunked\r\n\r\n", b"\r\n"]


def chunk(data: bytes, frame: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data) if b"chunked" in frame else data


async def open_stream(gateway: RunningGateway, origin: TunnelOrigin, frame: bytes) -> tuple[End, End]:
    client = await connect(gateway.port, b"GET / HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n")
    upstream_end = await origin.end()
    upstream_end.writer.write(STREAM + frame)
    assert (await client.read_head()).startswith(b"HTTP/1.1 200 ")
    return client, upstream_end


@pytest.mark.parametrize("frame", FRAMES, ids=["chunked", "until close"])
async def test_each_event_reaches_the_client_before_the_next_is_sent(
    frame: bytes, gateway: RunningGateway, origin: TunnelOrigin
) -> None:
    """Without it an event waits for the next one, which may be an hour away."""
    client, upstream_end = await open_stream(gateway, origin, frame)
    for number in range(20):
        event = b"data: %d\n\n" % number
        upstream_end.writer.write(chunk(event, frame))
        assert await client.read(len(event) + 5) == b"%x\r\n%b\r\n" % (len(event), event)


@pytest.mark.parametrize("leave", [End.reset, lambda end: end.writer.close()], ids=["by a reset", "by closing"])
@pytest.mark.parametrize("frame", FRAMES, ids=["chunked", "until close"])
async def test_an_upstream_hears_within_a_second_that_a_client_left_its_stream(
    frame: bytes, leave: object, gateway: RunningGateway, origin: TunnelOrigin, tmp_path: Path
) -> None:
    """Row 105: it would send events to nobody, for hours, and each page that a user leaves would cost it a connection."""
    client, upstream_end = await open_stream(gateway, origin, frame)
    upstream_end.writer.write(chunk(b"data: 1\n\n", frame))
    await client.reader.readuntil(b"data: 1\n\n\r\n")
    began = time.monotonic()
    assert callable(leave)
    leave(client)
    assert await upstream_end.read_rest() == b""
    assert time.monotonic() - began < 1.0 + MACHINE_SECONDS
    (call,) = await metered_calls(tmp_path, 1)
    assert (call.status, call.bytes_out, call.complete) == (200, 9, False)


async def test_a_client_that_half_closes_in_an_answer_gets_the_rest_of_it(
    gateway: RunningGateway, origin: TunnelOrigin
) -> None:
    """Row 37: as long as more of it comes; of a known length also after a pause."""
    client, upstream_end = await open_stream(gateway, origin, FRAMES[0])
    client.writer.write_eof()
    for number in range(60):
        upstream_end.writer.write(chunk(b"%04d" % number, FRAMES[0]))
        await client.read(9)
        await asyncio.sleep(0.02)  # the upstream's pace
    upstream_end.writer.write(b"0\r\n\r\n")


@pytest.mark.parametrize("before_the_answer", [True, False])
async def test_a_client_that_half_closes_waits_as_long_as_any_other(
    before_the_answer: bool, gateway: RunningGateway, origin: TunnelOrigin
) -> None:
    """Row 37: FIN says that no more requests come. A pause in a body of known length, or before any, is no sign of more."""
    client = await connect(gateway.port, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    if before_the_answer:
        client.writer.write_eof()
    upstream_end = await origin.end()
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"
    if not before_the_answer:
        upstream_end.writer.write(head + b"ab")
        await client.read_head()
        client.writer.write_eof()
    ended = asyncio.create_task(upstream_end.reader.read())
    await asyncio.wait([ended], timeout=1.2)  # two sweeps and the pause that ends a stream
    assert not ended.done()
    upstream_end.writer.write(b"cd" if not before_the_answer else head + b"abcd")
    assert (await client.read_rest()).endswith(b"cd")
    ended.cancel()
