"""gzip: the client gets the same body, smaller; whoever must not have it so does not; nothing else changes."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import h11
import pytest

from ostiary.core.config.gzip import TYPES
from ostiary.core.model import Gzip
from ostiary.gateway.compression import accepts_gzip, compressed_lines
from ostiary.gateway.wire.gzip_stream import STREAMS_MAX
from tests.support.gateway import RunningGateway, configuration, route, running_gateway, talk, upstream
from tests.support.messages import parse, request
from tests.support.origin import Answer, Origin, Seen, answer_with, running_origin

JSON = json.dumps([{"id": number, "name": f"client {number}"} for number in range(2000)]).encode()
ACCEPT = b"Accept-Encoding: gzip, br"
COMPRESSES = Gzip(bytes_min=100, types=TYPES)


@asynccontextmanager
async def gateway_for(
    answer: Answer, *, gzip: Gzip | None = COMPRESSES
) -> AsyncIterator[tuple[RunningGateway, Origin]]:
    async with running_origin(answer) as origin:
        settings = configuration([upstream(origin.port)], [route(gzip=gzip)])
        async with running_gateway(settings) as gateway:
            yield gateway, origin


def answer(
    body: bytes,
    *lines: bytes,
    status: bytes = b"200 OK",
    kind: bytes = b"application/json",
    framing: str = "length",
) -> Answer:
    head = b"HTTP/1.1 " + status + b"\r\nContent-Type: " + kind + b"\r\n" + b"".join(line + b"\r\n" for line in lines)
    if framing == "chunked":
        cut = max(1, len(body) // 3)
        pieces = [body[at : at + cut] for at in range(0, len(body), cut)]
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
        return answer_with(head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")
    if framing == "close":
        return answer_with(head + b"\r\n" + body, close=True)
    return answer_with(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)


def headers(response: h11.Response) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in response.headers}


async def get(gateway: RunningGateway, *lines: bytes, method: bytes = b"GET") -> tuple[h11.Response, bytes]:
    return parse(await talk(gateway.port, request("/", *lines, method=method)), method)


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
@pytest.mark.parametrize("body", [JSON[:200], JSON, JSON * 40], ids=["small", "100 KiB", "4 MiB"])
async def test_the_client_gets_the_same_body_compressed(body: bytes, framing: str) -> None:
    """However the upstream frames it, and whether it is one slice or a hundred."""
    async with gateway_for(answer(body, b'ETag: "v1"', b"Accept-Ranges: bytes", framing=framing)) as (gateway, _):
        response, sent = await get(gateway, ACCEPT)
    got = headers(response)
    assert gzip.decompress(sent) == body
    assert len(sent) < len(body)
    assert got["content-encoding"] == "gzip"
    assert got["transfer-encoding"] == "chunked"
    assert "content-length" not in got
    assert got["etag"] == 'W/"v1"', "RFC 9110 §8.8.1: the bytes are others"
    assert got["vary"] == "Accept-Encoding"
    assert "accept-ranges" not in got


async def test_a_connection_goes_on_after_a_compressed_answer() -> None:
    """A last chunk that is missing, or comes twice, would be the next answer."""
    async with gateway_for(answer(JSON)) as (gateway, origin):
        data = await talk(gateway.port, request("/", ACCEPT, close=False) * 3 + request("/", ACCEPT))
        assert data.count(b"HTTP/1.1 200 OK\r\n") == 4
        assert data.count(b"\r\n0\r\n\r\n") == 4
        assert {seen.connection for seen in origin.seen} == {0}, "upstream connections are used again"


LEFT_ALONE: dict[str, tuple[Answer, tuple[bytes, ...], bytes]] = {
    "no Accept-Encoding": (answer(JSON), (), b"GET"),
    "gzip refused": (answer(JSON), (b"Accept-Encoding: gzip;q=0, br",), b"GET"),
    "HEAD": (
        answer_with(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 9999\r\n\r\n"),
        (ACCEPT,),
        b"HEAD",
    ),
    "204": (answer_with(b"HTTP/1.1 204 No Content\r\nContent-Type: text/plain\r\n\r\n"), (ACCEPT,), b"GET"),
    "304": (answer_with(b"HTTP/1.1 304 Not Modified\r\nContent-Type: text/plain\r\n\r\n"), (ACCEPT,), b"GET"),
    "206": (answer(JSON, b"Content-Range: bytes 0-9/10", status=b"206 Partial Content"), (ACCEPT,), b"GET"),
    "301": (answer(JSON, b"Location: /x", status=b"301 Moved Permanently"), (ACCEPT,), b"GET"),
    "coded already": (answer(gzip.compress(JSON), b"Content-Encoding: gzip"), (ACCEPT,), b"GET"),
    "no-transform": (answer(JSON, b"Cache-Control: public, No-Transform"), (ACCEPT,), b"GET"),
    "a digest of its bytes": (answer(JSON, b"Content-Digest: sha-256=:AAAA:"), (ACCEPT,), b"GET"),
    "a picture": (answer(JSON, kind=b"image/png"), (ACCEPT,), b"GET"),
    "events": (answer(JSON, kind=b"text/event-stream"), (ACCEPT,), b"GET"),
    "short": (answer(JSON[:99]), (ACCEPT,), b"GET"),
}


@pytest.mark.parametrize("case", LEFT_ALONE)
async def test_an_answer_that_must_not_be_compressed_passes_as_it_is(case: str) -> None:
    """Each is a client that could not read it, or a promise of the upstream that would be broken."""
    given, lines, method = LEFT_ALONE[case]
    answers = []
    for chosen in (COMPRESSES, None):
        async with gateway_for(given, gzip=chosen) as (gateway, _):
            response, body = await get(gateway, *lines, method=method)
        same = {
            name: value for name, value in headers(response).items() if name not in ("date", "vary", "x-request-id")
        }
        answers.append((response.status_code, same, body))
    assert answers[0] == answers[1]


async def test_http_1_0_gets_it_plain() -> None:
    """It has no chunks, and a length is not known before the end."""
    async with gateway_for(answer(JSON)) as (gateway, _):
        old = b"GET / HTTP/1.0\r\nHost: api.test\r\n" + ACCEPT + b"\r\n\r\n"
        assert (await talk(gateway.port, old)).endswith(b"\r\n\r\n" + JSON)


async def test_a_route_without_gzip_compresses_nothing() -> None:
    """It is an opt-in: a secret beside what an attacker chooses shows in the length (BREACH)."""
    async with gateway_for(answer(JSON), gzip=None) as (gateway, _):
        response, body = await get(gateway, ACCEPT)
    assert body == JSON
    assert "vary" not in headers(response)


async def test_caches_learn_that_another_client_would_get_another_answer() -> None:
    """RFC 9110 §12.5.5: a cache would give the plain answer, or the compressed one, to everybody."""
    async with gateway_for(answer(JSON)) as (gateway, _):
        response, body = await get(gateway)
    assert body == JSON
    assert headers(response)["vary"] == "Accept-Encoding"


@pytest.mark.parametrize(
    ("sent", "accepted"),
    [
        ((b"gzip",), True),
        ((b"GZIP",), True),
        ((b"x-gzip",), True),
        ((b"br;q=1.0, gzip;q=0.8, *;q=0.1",), True),
        ((b"*",), True),
        ((b"br", b"gzip"), True),
        ((b"gzip ; q=0.001",), True),
        ((b"gzip;q=0",), False),
        ((b"gzip;q=0.000",), False),
        ((b"*;q=0",), False),
        ((b"*;q=1, gzip;q=0",), False),
        ((b"identity",), False),
        ((b"identity;q=1, gzip;q=0.5",), False),
        ((b"identity;q=0.5, gzip;q=1",), True),
        ((b"br, deflate",), False),
        ((b"",), False),
        ((b"gzip;q=2",), False),
        ((b"gzip;q=1;x=1",), False),
        ((b"agzip",), False),
    ],
)
def test_what_the_client_takes_is_read_by_its_weights(sent: tuple[bytes, ...], accepted: bool) -> None:
    """RFC 9110 §12.5.3."""
    lines = [b"Accept: */*", *(b"accept-encoding: " + value for value in sent)]
    assert accepts_gzip(lines) is accepted


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([b"Vary: Origin"], [b"Vary: Origin", b"Vary: Accept-Encoding"]),
        ([b"vary: origin, accept-encoding"], [b"vary: origin, accept-encoding"]),
        ([b"Vary: *"], [b"Vary: *"]),
        ([b'ETag: W/"a"'], [b'ETag: W/"a"', b"Vary: Accept-Encoding"]),
    ],
)
def test_only_what_must_change_in_the_head_does(before: list[bytes], after: list[bytes]) -> None:
    """The rest is between upstream and client."""
    kind = b"Content-Type: Application/JSON; charset=utf-8"
    lines = compressed_lines([kind, *before], frozenset({b"application/json"}))
    assert lines == [kind, *after, b"Content-Encoding: gzip"]


async def test_what_the_upstream_has_sent_is_not_held_back() -> None:
    """A stream of lines would come in lumps, or at its end."""
    goes_on = asyncio.Event()

    async def in_two_parts(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nfirst\n\r\n"
        )
        await goes_on.wait()
        writer.write(b"7\r\nsecond\n\r\n0\r\n\r\n")

    async with gateway_for(in_two_parts) as (gateway, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(request("/", ACCEPT))
        await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        inflate = zlib.decompressobj(31)
        text = b""
        while b"first\n" not in text:
            size = int(await asyncio.wait_for(reader.readline(), 5), 16)
            text += inflate.decompress(await reader.readexactly(size))
            await reader.readexactly(2)
        goes_on.set()
        while b"second\n" not in text:
            size = int(await asyncio.wait_for(reader.readline(), 5), 16)
            text += inflate.decompress(await reader.readexactly(size))
            await reader.readexactly(2)
        writer.close()
    assert text == b"first\nsecond\n"


async def test_other_calls_are_answered_while_a_large_answer_is_compressed() -> None:
    """32 MiB take a third of a second of the processor: compressed at a stretch, nobody else would be served meanwhile."""
    body = JSON * 400

    async def by_path(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await answer(body if seen.target == "/large" else b"ok")(seen, reader, writer)

    async with gateway_for(by_path) as (gateway, _):
        large = asyncio.create_task(talk(gateway.port, request("/large", ACCEPT), seconds=30))
        meanwhile = 0
        while not large.done():
            assert (await talk(gateway.port, request("/small", ACCEPT))).startswith(b"HTTP/1.1 200")
            meanwhile += 1
        _, sent = parse(await large)
    assert zlib.decompress(sent, 31) == body
    assert meanwhile >= 20


async def test_a_client_that_does_not_read_holds_back_the_upstream() -> None:
    """Row 35: compressed or not, an answer that nobody takes would be kept in memory."""
    written = 0
    block = os.urandom(1 << 18)  # it does not get smaller

    async def endless(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 1000000000\r\n\r\n")
        while written < 1_000_000_000:
            writer.write(block)
            await writer.drain()
            written += len(block)

    async with gateway_for(endless) as (gateway, _):
        _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(request("/", ACCEPT))
        before = -1
        while written != before or not written:
            before = written
            await asyncio.sleep(0.25)  # as long as nothing more is taken, it is held back
        assert written < 64 << 20
        writer.transport.abort()


async def test_an_answer_that_breaks_off_does_not_look_whole() -> None:
    """Row 101: a client would take a part of a document for the document."""
    broken = answer_with(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 100000\r\n\r\n" + JSON[:50_000], close=True
    )
    async with gateway_for(broken) as (gateway, _):
        data = await talk(gateway.port, request("/", ACCEPT))
        with pytest.raises(h11.RemoteProtocolError):
            parse(data)
        for _ in range(STREAMS_MAX):  # each gives its stream back
            await talk(gateway.port, request("/", ACCEPT))
        head = (await talk(gateway.port, request("/", ACCEPT))).partition(b"\r\n\r\n")[0]
        assert b"Content-Encoding: gzip" in head


# --- a gzip bomb is a body like any other --------------------------------------------------------------------------

BOMB = gzip.compress(bytes(8 << 20))  # 8 KiB for 8 MiB


async def test_a_compressed_body_passes_opaque_in_both_directions() -> None:
    """Row 34: whoever unpacks it pays for it; we never do, not even where answers are compressed (CVE-2025-69223)."""
    async with gateway_for(answer(BOMB, b"Content-Encoding: gzip")) as (gateway, origin):
        lines = (ACCEPT, b"Content-Encoding: gzip", b"Content-Length: %d" % len(BOMB))
        data = await talk(gateway.port, request("/", *lines, method=b"POST", body=BOMB))
        response, body = parse(data, b"POST")
    assert origin.seen[0].body == BOMB
    assert origin.seen[0].one("content-encoding") == "gzip"
    assert body == BOMB
    assert headers(response)["content-length"] == str(len(BOMB))
