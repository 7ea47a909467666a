"""The fault proxy does what its faults say, to the byte: what stands on it is worth no more than it."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from tests.support.fault_proxy import (
    RESET_ON_CLOSE,
    Ending,
    FaultProxy,
    Faults,
    fault_proxy,
    fault_proxy_in_thread,
    unanswered_port,
)

DATA = bytes(range(256)) * 40


@dataclass
class Peer:
    """A server that says nothing by itself; `connections` are its ends of what came."""

    port: int
    connections: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = field(default_factory=asyncio.Queue)


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    peer = Peer(0)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer.connections.put_nowait((reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    peer.port = server.sockets[0].getsockname()[1]
    yield peer
    server.close()
    while not peer.connections.empty():
        peer.connections.get_nowait()[1].close()


@dataclass
class Pair:
    """Both ends of a connection through the proxy."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    server_reader: asyncio.StreamReader
    server_writer: asyncio.StreamWriter

    def close(self) -> None:
        self.writer.transport.abort()
        self.server_writer.transport.abort()


async def connect(proxy: FaultProxy, peer: Peer) -> Pair:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    async with asyncio.timeout(5):
        return Pair(reader, writer, *await peer.connections.get())


async def everything(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(5):
        return await reader.read()


async def gather(reader: asyncio.StreamReader, into: bytearray) -> None:
    """Into `into`, for what came before a reset."""
    async with asyncio.timeout(5):
        while piece := await reader.read(1 << 16):
            into += piece


async def test_a_proxy_without_faults_is_not_to_be_seen(peer: Peer) -> None:
    """Bytes both ways, a half-close, then the end: a test that fails must fail for its fault."""
    async with fault_proxy("127.0.0.1", peer.port) as proxy:
        pair = await connect(proxy, peer)
        pair.writer.write(DATA)
        pair.writer.write_eof()
        assert await everything(pair.server_reader) == DATA
        pair.server_writer.write(DATA[::-1])
        pair.server_writer.close()
        assert await everything(pair.reader) == DATA[::-1]
        await proxy.until(lambda proxy: not proxy.links[0].open)
        assert (proxy.links[0].to_server.passed_bytes, proxy.links[0].to_client.passed_bytes) == (len(DATA), len(DATA))
        pair.close()


async def test_a_reset_by_one_side_is_a_reset_for_the_other(peer: Peer) -> None:
    async with fault_proxy("127.0.0.1", peer.port) as proxy:
        pair = await connect(proxy, peer)
        # A transport's own abort() is a plain close for the other side, unless something is left unread.
        pair.server_writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        pair.server_writer.transport.abort()
        with pytest.raises(ConnectionResetError):
            await everything(pair.reader)
        pair.close()


async def test_slices_are_writes_of_their_size(peer: Peer) -> None:
    async with fault_proxy("127.0.0.1", peer.port) as proxy:
        proxy.to_server = Faults(slice_bytes=1000)
        pair = await connect(proxy, peer)
        pair.writer.write(DATA)
        pair.writer.close()
        assert await everything(pair.server_reader) == DATA
        assert proxy.links[0].to_server.writes >= -(-len(DATA) // 1000)
        pair.close()


async def test_latency_delays_and_does_not_throttle(peer: Peer) -> None:
    """Each byte comes late by as much; a hundred pieces are not a hundred times as late."""
    async with fault_proxy("127.0.0.1", peer.port) as proxy:
        proxy.to_client = Faults(latency_seconds=0.1)
        pair = await connect(proxy, peer)
        began = time.monotonic()
        for number in range(100):
            pair.server_writer.write(b"%02d" % number)
            await asyncio.sleep(0)
        pair.server_writer.close()
        assert await everything(pair.reader) == b"".join(b"%02d" % number for number in range(100))
        assert 0.1 <= time.monotonic() - began < 2.0
        pair.close()


async def test_a_bandwidth_is_not_exceeded(peer: Peer) -> None:
    async with fault_proxy("127.0.0.1", peer.port) as proxy:
        proxy.to_client = Faults(bytes_per_second=50_000)
        pair = await connect(proxy, peer)
        began = time.monotonic()
        pair.server_writer.write(DATA)
        pair.server_writer.close()
        assert await everything(pair.reader) == DATA
        # The pause after the last piece is not waited for: it holds back what would come next.
        assert time.monotonic() - began >= len(DATA) / 50_000 - 1 / 50
        pair.close()


@pytest.mark.parametrize("after", [0, 1, 5000])
async def test_a_reset_comes_after_exactly_so_many_bytes(after: int, peer: Peer) -> None:
    async with fault_proxy("127.0.0.1", peer.port) as proxy:
        proxy.to_client = Faults(ending=Ending.RESET, after_bytes=after)
        pair = await connect(proxy, peer)
        pair.server_writer.write(DATA)
        got = bytearray()
        with pytest.raises(ConnectionResetError):
            await gather(pair.reader, got)
        assert len(got) <= after  # a reset may take from the receiver what it has not read
        assert proxy.links[0].to_client.passed_bytes == after
        with pytest.raises(ConnectionResetError):
            await everything(pair.server_reader)
        pair.close()


@pytest.mark.parametrize("after", [0, 1, 5000])
async def test_a_limit_ends_both_directions_after_exactly_so_many_bytes(after: int, peer: Peer) -> None:
    async with fault_proxy("127.0.0.1", peer.port) as proxy:
        proxy.to_client = Faults(ending=Ending.CLOSE, after_bytes=after)
        pair = await connect(proxy, peer)
        pair.server_writer.write(DATA)
        pair.writer.write(b"dropped, if it comes later than the end")
        assert await everything(pair.reader) == DATA[:after]
        assert await everything(pair.server_reader) in (b"", b"dropped, if it comes later than the end")
        pair.close()
        await proxy.until(lambda proxy: not proxy.links[0].open)


async def test_a_half_close_leaves_the_other_direction_open(peer: Peer) -> None:
    async with fault_proxy("127.0.0.1", peer.port) as proxy:
        proxy.to_client = Faults(ending=Ending.HALF_CLOSE, after_bytes=3)
        pair = await connect(proxy, peer)
        pair.server_writer.write(b"abcdef")
        assert await everything(pair.reader) == b"abc"
        pair.writer.write(DATA)
        pair.writer.write_eof()
        assert await everything(pair.server_reader) == DATA
        pair.close()


async def test_a_blackhole_swallows_and_gives_back_when_it_is_lifted(peer: Peer) -> None:
    """Neither bytes nor the end nor a reset come through it."""
    async with fault_proxy("127.0.0.1", peer.port) as proxy:
        proxy.to_client = Faults(ending=Ending.BLACKHOLE, after_bytes=4)
        pair = await connect(proxy, peer)
        pair.server_writer.write(b"abcdefgh")
        pair.server_writer.write_eof()
        async with asyncio.timeout(5):
            assert await pair.reader.readexactly(4) == b"abcd"
        pair.writer.write(b"x")  # the other direction goes on, and shows that time has passed
        async with asyncio.timeout(5):
            await pair.server_reader.readexactly(1)
        assert proxy.links[0].to_client.passed_bytes == 4
        proxy.to_client = Faults()
        assert await everything(pair.reader) == b"efgh"
        pair.close()


async def test_faults_reach_a_connection_that_is_open_and_idle(peer: Peer) -> None:
    async with fault_proxy("127.0.0.1", peer.port) as proxy:
        pair = await connect(proxy, peer)
        proxy.to_client = Faults(ending=Ending.RESET)
        with pytest.raises(ConnectionResetError):
            await everything(pair.reader)
        pair.close()
        proxy.heal()
        pair = await connect(proxy, peer)
        proxy.close()
        assert await everything(pair.reader) == b""
        assert await everything(pair.server_reader) == b""
        pair.close()


async def test_refused_connections_leave_the_open_ones_and_the_port_alone(peer: Peer) -> None:
    async with fault_proxy("127.0.0.1", peer.port) as proxy:
        first = await connect(proxy, peer)
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", proxy.port)
        first.writer.write(b"still here")
        async with asyncio.timeout(5):
            await first.server_reader.readexactly(10)
        proxy.accept()
        second = await connect(proxy, peer)
        first.close()
        second.close()


async def test_a_sender_waits_when_nothing_is_taken(peer: Peer) -> None:
    """A proxy that took everything would hide whether backpressure works."""
    async with fault_proxy("127.0.0.1", peer.port) as proxy:
        proxy.blackhole()
        pair = await connect(proxy, peer)
        pair.writer.write(bytes(64 << 20))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pair.writer.drain(), 0.3)
        assert pair.writer.transport.get_write_buffer_size() > 32 << 20
        proxy.heal()
        async with asyncio.timeout(10):
            await pair.server_reader.readexactly(64 << 20)
        pair.close()


def test_the_proxy_in_a_thread_obeys_from_outside() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        fault_proxy_in_thread("127.0.0.1", server.getsockname()[1]) as proxy,
    ):
        client = socket.create_connection(("127.0.0.1", proxy.port), timeout=5)
        behind, _ = server.accept()
        client.sendall(b"hello")
        assert behind.recv(5, socket.MSG_WAITALL) == b"hello"
        proxy.wait_until(lambda proxy: proxy.links[0].to_server.passed_bytes == 5)
        proxy.to_client = Faults(ending=Ending.CLOSE, after_bytes=2)
        behind.sendall(b"abc")
        assert client.recv(10, socket.MSG_WAITALL) == b"ab"
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", proxy.port), timeout=5)
        client.close()
        behind.close()


async def test_an_unanswered_port_neither_takes_nor_refuses() -> None:
    with unanswered_port() as port, pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.open_connection("127.0.0.1", port), 0.3)
