"""Requests that come before the answers to those before them: in order, bounded, and no privilege."""

from __future__ import annotations

import asyncio
import time

from ostiary.gateway.wire.states import READ_AHEAD_BYTES_MAX
from tests.support.gateway import RunningGateway, configuration, route, running_gateway, upstream
from tests.support.origin import Origin, Seen, running_origin


def request(number: int, *, last: bool = False) -> bytes:
    return b"GET /%d HTTP/1.1\r\nHost: a\r\n%b\r\n" % (number, b"Connection: close\r\n" if last else b"")


async def answer_with_the_path(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    body = seen.target.encode()
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


async def read_bodies(reader: asyncio.StreamReader, count: int) -> list[bytes]:
    bodies = []
    for _ in range(count):
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        bodies.append(await reader.readexactly(length))
    return bodies


async def test_a_thousand_pipelined_requests_are_answered_in_order() -> None:
    """Row 27: answers out of order go to the wrong request, and with a proxy in front to the wrong user."""
    async with (
        running_origin(answer_with_the_path) as origin,
        running_gateway(configuration([upstream(origin.port)], [route()])) as gateway,
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(b"".join(request(number, last=number == 999) for number in range(1000)))
        async with asyncio.timeout(30):
            assert await read_bodies(reader, 1000) == [b"/%d" % number for number in range(1000)]
            assert await reader.read() == b""
        writer.close()
        assert origin.garbled == []
        # One after the other: a second is not begun before the first one's answer is whole.
        assert len(origin.raw) == 1


async def test_what_a_pipelining_client_sends_ahead_waits_outside_past_a_bound() -> None:
    """Row 27: 100 000 requests that come before the first answer must not wait in the gateway's memory (CVE-2026-54273)."""
    release = asyncio.Event()

    async def wait(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        await answer_with_the_path(seen, reader, writer)

    async with (
        running_origin(wait) as origin,
        running_gateway(configuration([upstream(origin.port)], [route()])) as gateway,
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(b"".join(request(number) for number in range(100_000)))
        await until_read(gateway, origin)
        (client,) = gateway.gateway.connections
        assert not client._reading
        # The bound, and at most the one read that crossed it (uvloop reads up to 256 KiB at once).
        assert READ_AHEAD_BYTES_MAX < len(client._ahead) <= READ_AHEAD_BYTES_MAX + 256 * 1024
        release.set()
        assert (await read_bodies(reader, 200)) == [b"/%d" % number for number in range(200)]
        writer.transport.abort()


async def until_read(gateway: RunningGateway, origin: Origin) -> None:
    """Until the one client is not read any more."""
    async with asyncio.timeout(10):
        while not origin.seen or not gateway.gateway.connections or next(iter(gateway.gateway.connections))._reading:  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_a_client_that_pipelines_without_end_does_not_keep_another_one_waiting() -> None:
    """Row 27: a turn of the loop for each request, or one client could have the worker to itself."""
    async with (
        running_origin(answer_with_the_path) as origin,
        running_gateway(configuration([upstream(origin.port)], [route()])) as gateway,
    ):
        greedy_reader, greedy = await asyncio.open_connection("127.0.0.1", gateway.port)
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        greedy.write(b"".join(request(number) for number in range(100_000)))
        taking = asyncio.create_task(read_bodies(greedy_reader, 100_000))
        before, waited = len(origin.seen), []
        for number in range(50):
            start = time.monotonic()
            writer.write(request(number))
            await read_bodies(reader, 1)
            waited.append(len(origin.seen) - before)
            before = len(origin.seen)
            assert time.monotonic() - start < 5
        taking.cancel()
        # Between two of the modest client's calls the greedy one gets a handful: they take turns.
        assert sorted(waited)[25] <= 8
        assert len(origin.seen) > 60
        greedy.transport.abort()
        writer.close()
