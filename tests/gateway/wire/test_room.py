"""Who may connect: bounds in all and by address."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from ipaddress import ip_network

from ostiary.core.model import ClientLimits, Network
from ostiary.gateway.wire.room import TOLD_MAX, Room, counted_as, plain_address
from tests.support.gateway import RunningGateway, configuration, route, running_gateway, upstream
from tests.support.origin import Origin

GET = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"
LAST = b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n"


@asynccontextmanager
async def gateway_of(
    origin: Origin, limits: ClientLimits, trusted: tuple[Network, ...] = ()
) -> AsyncIterator[RunningGateway]:
    settings = configuration([upstream(origin.port)], [route()], client_limits=limits, trusted_proxies=trusted)
    async with running_gateway(settings) as gateway:
        yield gateway


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connect(cls, port: int, source: str = "127.0.0.1") -> Client:
        return cls(*await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0)))

    async def ask(self, request: bytes = GET) -> bytes:
        """The head and the body of one answer; empty if the gateway only closes."""
        try:
            self._writer.write(request)
            head = await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), 5)
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
            return head + await self._reader.readexactly(length)
        except (ConnectionError, asyncio.IncompleteReadError):
            return b""

    async def closed(self) -> bool:
        try:
            return await asyncio.wait_for(self._reader.read(), 5) == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self._writer.close()


async def test_one_address_fills_its_own_room_and_nobody_else_s(origin: Origin) -> None:
    """Row 36: one client with 5 000 connections would leave none for the others."""
    async with gateway_of(origin, ClientLimits(connections_per_address=20)) as gateway:
        greedy = [await Client.connect(gateway.port) for _ in range(50)]
        answers = [await client.ask() for client in greedy]
        assert [answer[:12] for answer in answers] == [b"HTTP/1.1 200"] * 20 + [b"HTTP/1.1 503"] * 30
        refused = answers[-1]
        assert b"Connection: close\r\n" in refused
        assert json.loads(refused.partition(b"\r\n\r\n")[2])["code"] == "overloaded"
        assert await greedy[-1].closed()
        other = await Client.connect(gateway.port, "127.0.0.2")
        assert (await other.ask()).startswith(b"HTTP/1.1 200")
        assert gateway.count("client_connections_refused_total", reason="connections_per_address") == 30
        assert gateway.gateway.room.total == 21
        assert gateway.gateway.room.addresses == 2
        for client in (*greedy, other):
            client.close()
        await until_empty(gateway)


async def until_empty(gateway: RunningGateway) -> None:
    """Nothing is counted of clients that have gone."""
    async with asyncio.timeout(5):
        while gateway.gateway.connections:  # noqa: ASYNC110  a set tells nobody
            await asyncio.sleep(0.01)
    assert gateway.gateway.room.total == 0
    assert gateway.gateway.room.addresses == 0


async def test_a_place_that_is_left_is_free_again(origin: Origin) -> None:
    """A count that only grows would lock a client out after so many connections, one after the other."""
    async with gateway_of(origin, ClientLimits(connections=2, connections_per_address=2)) as gateway:
        for _ in range(10):
            client = await Client.connect(gateway.port)
            assert (await client.ask(LAST)).startswith(b"HTTP/1.1 200")
            assert await client.closed()
            client.close()
        await until_empty(gateway)


async def test_a_trusted_proxy_has_the_room_of_all_its_clients(origin: Origin) -> None:
    """Row 36: the gateway behind a load balancer would be capped at one client's share."""
    trusted = (ip_network("127.0.0.1"),)
    async with gateway_of(origin, ClientLimits(connections=6, connections_per_address=2), trusted) as gateway:
        proxy = [await Client.connect(gateway.port) for _ in range(7)]
        statuses = [(await client.ask())[9:12] for client in proxy]
        assert statuses == [b"200"] * 6 + [b"503"], "the bound in all holds for a proxy too"
        assert gateway.count("client_connections_refused_total", reason="connections") == 1
        for client in proxy:
            client.close()


async def test_a_flood_is_closed_without_an_answer(origin: Origin) -> None:
    """Row 36: an answer each, and two seconds to read it, would take a descriptor for every refused connection."""
    async with gateway_of(origin, ClientLimits(connections=1, connections_per_address=1)) as gateway:
        clients = [await Client.connect(gateway.port) for _ in range(TOLD_MAX + 20)]
        assert all([await client.closed() for client in clients[-19:]])
        assert len(gateway.gateway.connections) <= TOLD_MAX + 1
        assert (await clients[0].ask()).startswith(b"HTTP/1.1 200")
        for client in clients:
            client.close()
        await until_empty(gateway)


async def test_bounds_that_a_reload_lowers_hold_for_who_comes_next(origin: Origin) -> None:
    """Who is connected was let in."""
    wide = configuration([upstream(origin.port)], [route()])
    narrow = configuration([upstream(origin.port)], [route()], client_limits=ClientLimits(connections_per_address=1))
    async with running_gateway(wide) as gateway:
        before = [await Client.connect(gateway.port) for _ in range(3)]
        assert all([(await client.ask()).startswith(b"HTTP/1.1 200") for client in before])
        gateway.gateway.reload(narrow)
        late = await Client.connect(gateway.port)
        assert (await late.ask()).startswith(b"HTTP/1.1 503")
        assert (await before[0].ask()).startswith(b"HTTP/1.1 200")
        for client in (*before, late):
            client.close()


# --- the counts by themselves ----------------------------------------------------------------------------------------


@contextmanager
def room(limits: ClientLimits) -> Iterator[tuple[Room, list[str]]]:
    refused: list[str] = []
    yield Room(limits=limits, trusted=(ip_network("2001:db8:1::/48"),), refused=refused.append), refused


def test_ipv6_clients_are_counted_by_their_network() -> None:
    """RFC 6177: one customer has 2^64 addresses, and could take a connection with each."""
    with room(ClientLimits(connections_per_address=2)) as (counts, refused):
        assert counts.enter("2001:db8::1") is None
        assert counts.enter("2001:db8::ffff") is None
        assert counts.enter("2001:db8::2") == "connections_per_address"
        assert counts.enter("2001:db8:0:1::2") is None
        assert [counts.enter(f"2001:db8:1::{number}") for number in range(9)] == [None] * 9, "a trusted proxy"
        assert refused == ["connections_per_address"]


def test_an_ipv4_client_is_the_same_on_a_socket_for_both() -> None:
    """`::ffff:192.0.2.1` and `192.0.2.1` would be two clients to every limit and list."""
    assert plain_address("::ffff:192.0.2.1") == "192.0.2.1"
    assert plain_address("192.0.2.1") == "192.0.2.1"
    assert plain_address("fe80::1%eth0") == "fe80::1"
    assert plain_address("::ffff:1") == "::ffff:1"
    assert counted_as("192.0.2.1") == "192.0.2.1"
    assert counted_as("unix") == "unix"
