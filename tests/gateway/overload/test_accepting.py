"""A listening socket that is paused loses nobody who waits in its queue."""

from __future__ import annotations

import asyncio
import resource
import socket

import pytest

from ostiary.gateway.overload.accepting import (
    RESERVED_DESCRIPTORS,
    Accepting,
    connections_that_fit,
    descriptors_are_short,
)


class Greeter(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        transport.write(b"hello")
        transport.close()


async def greeting(port: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    data = await reader.read()
    writer.close()
    return data


async def test_who_connects_during_a_pause_is_served_after_it() -> None:
    """Row 114: closing the listening socket instead would reset everyone in its queue."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    port = sock.getsockname()[1]
    accepting = Accepting(sock, factory=Greeter, backlog=64)
    await accepting.start()
    assert await greeting(port) == b"hello"
    assert accepting.pause()
    assert not accepting.pause()
    assert accepting.paused
    early = [asyncio.create_task(greeting(port)) for _ in range(20)]
    done, _ = await asyncio.wait(early, timeout=0.1)
    assert not done
    accepting.resume()
    accepting.resume()
    assert await asyncio.gather(*early) == [b"hello"] * 20
    accepting.close()
    with pytest.raises(OSError, match="refused"):
        await greeting(port)


async def test_a_pause_for_good_is_not_undone_by_a_resume_under_way() -> None:
    """Row 108: a worker that drains would accept again, and its clients would be cut off."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    port = sock.getsockname()[1]
    accepting = Accepting(sock, factory=Greeter, backlog=64)
    await accepting.start()
    accepting.pause()
    accepting.resume()
    accepting.close()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    with pytest.raises(OSError, match="refused"):
        await greeting(port)


def test_clients_get_at_most_what_leaves_each_an_upstream_and_the_worker_its_stores() -> None:
    """Row 114: with `ulimit -n 256`, clients that took all would leave nothing to ask upstreams with."""
    assert connections_that_fit(256) == 96
    assert 2 * connections_that_fit(256) + RESERVED_DESCRIPTORS <= 256
    assert connections_that_fit(1_048_576) > 500_000
    assert connections_that_fit(10) == 1


def test_descriptors_are_counted_whoever_has_taken_them() -> None:
    """Row 114: TLS handshakes and kept connections to upstreams take descriptors too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    pairs: list[socket.socket] = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        assert not descriptors_are_short(256)
        while pairs[-1].fileno() < 256 - RESERVED_DESCRIPTORS // 2 if pairs else True:
            pairs.extend(socket.socketpair())
        assert descriptors_are_short(256)
        while True:
            try:
                pairs.append(socket.socket())
            except OSError:
                break
        assert descriptors_are_short(256)
    finally:
        for sock in pairs:
            sock.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert not descriptors_are_short(256)
