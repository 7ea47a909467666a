"""The end of a worker, as callers on kept connections see it: what was let in is answered, and nobody is cut between two."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager

from ostiary.gateway.service import IDLE_GRACE_SECONDS
from tests.support.gateway import RunningGateway, configuration, route, running_gateway, upstream
from tests.support.origin import Answer, Seen, answer_ok, running_origin
from tests.support.waiting import until

ASK = b"GET /x HTTP/1.1\r\nHost: a.test\r\n\r\n"
ANSWER_SECONDS = 5.0
Opened = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Held:
    """An origin that sends `first` at once and `rest` when told to."""

    def __init__(self, first: bytes, rest: bytes) -> None:
        self.go = asyncio.Event()
        self._first, self._rest = first, rest

    async def __call__(self, seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(self._first)
        await self.go.wait()
        writer.write(self._rest)


@asynccontextmanager
async def opened(answer: Answer) -> AsyncIterator[tuple[RunningGateway, Opened]]:
    """A gateway before such an origin, and a connection to it."""
    async with (
        running_origin(answer) as origin,
        running_gateway(configuration([upstream(origin.port)], [route()])) as it,
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", it.port)
        try:
            yield it, (reader, writer)
        finally:
            writer.close()


async def answer_of(connection: Opened) -> bytes:
    """One whole answer of two bytes."""
    reader, _ = connection
    async with asyncio.timeout(ANSWER_SECONDS):
        return await reader.readuntil(b"\r\n\r\n") + await reader.readexactly(2)


async def begun(gateway: RunningGateway) -> Awaitable[None]:
    """A drain that has begun."""
    draining = asyncio.create_task(gateway.gateway.drain(ANSWER_SECONDS))
    await until(lambda: gateway.gateway.draining, "it drains")
    return draining


async def test_a_request_that_comes_to_an_idle_connection_as_the_drain_begins_is_served() -> None:
    """Row 108: closing an idle connection in the moment in which its client writes loses that request; the client is told
    to go with the answer."""
    async with opened(answer_ok) as (gateway, connection):
        connection[1].write(ASK)
        assert b"connection: close" not in (await answer_of(connection)).lower()
        draining = await begun(gateway)
        connection[1].write(ASK)
        answer = await answer_of(connection)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"connection: close\r\n" in answer.lower()
        assert await connection[0].read() == b""
        connection[1].close()
        await draining


async def test_a_request_that_waits_for_its_answer_gets_it_with_connection_close() -> None:
    """Row 108: `Connection: close` on kept connections: a client that is not told goes on with a dead connection."""
    origin = Held(b"", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    async with opened(origin) as (gateway, connection):
        connection[1].write(ASK)
        await until(lambda: gateway.gateway.status()["upstreams"]["origin"][0]["in_flight"], "a call is under way")  # type: ignore[index]  # JSON
        draining = await begun(gateway)
        origin.go.set()
        assert b"connection: close\r\n" in (await answer_of(connection)).lower()
        connection[1].close()
        await draining


async def test_a_client_whose_answer_had_promised_to_go_on_may_send_one_more() -> None:
    """Row 108: an answer whose head has left can't say `close` any more. To end the connection after it all the same loses
    the request that its client, rightly, sends next."""
    origin = Held(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no", b"k")
    async with opened(origin) as (gateway, connection):
        connection[1].write(ASK)
        async with asyncio.timeout(ANSWER_SECONDS):
            head = await connection[0].readuntil(b"\r\n\r\no")
        assert b"connection: close" not in head.lower()
        draining = await begun(gateway)
        origin.go.set()
        assert await connection[0].readexactly(1) == b"k"
        connection[1].write(ASK)
        answer = await answer_of(connection)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"connection: close\r\n" in answer.lower()
        connection[1].close()
        await draining


async def test_connections_that_stay_idle_hold_up_no_drain() -> None:
    """Row 108: a kept connection may idle for more than a minute; the end must not wait for it, and gives it its grace."""
    async with opened(answer_ok) as (gateway, connection):
        connection[1].write(ASK)
        await answer_of(connection)
        began = time.monotonic()
        await gateway.gateway.drain(30.0)
        assert IDLE_GRACE_SECONDS * 0.5 < time.monotonic() - began < 10.0
        assert await connection[0].read() == b""


async def test_a_stream_that_outlives_the_deadline_is_ended_there_and_recorded() -> None:
    """Row 108: an endless stream must not hold the worker beyond its deadline; its client sees that it is not whole, and the
    call is counted."""
    first = (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n"
    )
    async with opened(Held(first, b"")) as (gateway, connection):
        connection[1].write(ASK)
        async with asyncio.timeout(ANSWER_SECONDS):
            await connection[0].readuntil(b"data: 1\n\n\r\n")
        began = time.monotonic()
        await gateway.gateway.drain(0.3)
        assert 0.3 <= time.monotonic() - began < 5.0
        try:
            rest = await connection[0].read()
        except ConnectionResetError:
            rest = b""
        assert b"0\r\n\r\n" not in rest, "no last chunk: the client knows that something is missing"
        assert gateway.count("http_requests_total", route="all", method="GET", status="200") == 1
