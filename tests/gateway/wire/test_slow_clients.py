"""Clients that hold their connections and send, or take, next to nothing; and good ones beside them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from ostiary.core.model import ClientLimits
from tests.support.gateway import RunningGateway, configuration, route, running_gateway, talk, upstream
from tests.support.origin import Origin, Seen, answer_ok, running_origin

LARGE = bytes(8 << 20)  # more than the system's buffers hold for a client that does not read
# Where they send all the while: no pause is long enough to be one.
DRIP_SECONDS = 0.05
LIMITS = ClientLimits(head_seconds=0.5, body_idle_seconds=0.5, write_idle_seconds=0.5, keepalive_seconds=5.0)


async def answer_by_path(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    if seen.target == "/large":
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 8388608\r\n\r\n" + LARGE)
    else:
        await answer_ok(seen, reader, writer)


@asynccontextmanager
async def site() -> AsyncIterator[tuple[RunningGateway, Origin]]:
    async with running_origin(answer_by_path) as origin:
        settings = configuration([upstream(origin.port)], [route()], client_limits=LIMITS)
        async with running_gateway(settings) as gateway:
            yield gateway, origin


@dataclass
class Slow:
    """What is sent at first, and again and again, by how many; whether they read."""

    first: bytes
    again: bytes
    reads: bool = True
    clients: int = 60


KINDS = {
    "head": Slow(b"GET / HTTP/1.1\r\nHost: a.test\r\n", b"X-a: b\r\n"),
    "a head by the byte": Slow(b"G", b"E"),
    "body": Slow(b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 9999\r\n\r\n", b"a"),
    "body in chunks": Slow(b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n"),
    "answer": Slow(b"GET /large HTTP/1.1\r\nHost: a.test\r\n\r\n", b"", reads=False, clients=6),
}


async def be_slow(port: int, kind: Slow) -> bytes:
    """Goes on until the gateway ends it; what it answered."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # else the system reads megabytes for it
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=1024)
    answer = b""
    try:
        writer.write(kind.first)
        while not (writer.transport.is_closing() or reader.at_eof()):
            await asyncio.sleep(DRIP_SECONDS)  # the client's pace
            writer.write(kind.again)
            if kind.reads and (seen := getattr(reader, "_buffer", b"")):
                answer = bytes(seen)
                break
    except ConnectionError:
        pass
    finally:
        writer.close()
    return answer


@pytest.mark.parametrize("name", KINDS)
async def test_slow_clients_are_ended_at_the_deadline_and_good_ones_do_not_notice(name: str) -> None:
    """Row 35: they keep sending, so no pause ends them; and each holds a connection, some one of the upstream's too."""
    kind = KINDS[name]
    async with site() as (gateway, _):
        slow = [asyncio.create_task(be_slow(gateway.port, kind)) for _ in range(kind.clients)]
        most = calls = 0
        async with asyncio.timeout(30):
            while most < kind.clients or gateway.gateway.connections:
                answer = await talk(gateway.port, b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")
                assert answer.startswith(b"HTTP/1.1 200 ")
                calls += 1
                await asyncio.sleep(0.01)  # for this call's own connection to end
                most = max(most, len(gateway.gateway.connections))
        assert calls > 5
        if kind.reads:
            assert {(await task)[:12] for task in slow} == {b"HTTP/1.1 408"}
        for task in slow:
            task.cancel()


def steadily(body: bytes, piece_bytes: int) -> list[bytes]:
    return [body[at : at + piece_bytes] for at in range(0, len(body), piece_bytes)]


async def test_a_body_that_comes_slowly_and_steadily_is_taken() -> None:
    """A client far away, over a bad line, takes longer than any pause may be; it sends all the same."""
    body = bytes(2000)
    async with site() as (gateway, origin):
        _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2000\r\nConnection: close\r\n\r\n")
        for piece in steadily(body, 200):  # 1.2 s in all
            await asyncio.sleep(0.12)
            writer.write(piece)
        async with asyncio.timeout(5):
            while not origin.seen:  # noqa: ASYNC110  a list tells nobody
                await asyncio.sleep(0.01)
        writer.close()
    assert origin.seen[0].body == body
