"""How targets are reached: every address of a name, in one time to connect, with the load spread; sockets and IPv6 too."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ostiary.core.upstream import Health, Target, Timeouts
from ostiary.gateway.wire.deadlines import Deadlines
from ostiary.gateway.wire.dialing import ConnectFailed, ConnectTimedOut, Dialer, first_of, in_turn
from ostiary.gateway.wire.pool import TargetPool, Waiter
from ostiary.gateway.wire.resolver import LOOK_UPS_MAX, Address, Resolver
from tests.support.directories import directory_for_all
from tests.support.fault_proxy import unanswered_port
from tests.support.gateway import configuration, route, running_gateway, talk, upstream
from tests.support.origin import Origin, running_origin
from tests.support.ports import free_port
from tests.support.waiting import MACHINE_SECONDS, until

POST = b"POST / HTTP/1.1\r\nHost: api.test\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx"
V4, V6 = socket.AF_INET, socket.AF_INET6


def name_of(*hosts: str) -> Callable[[str], list[Address]]:
    """A look-up that knows one name."""
    return lambda _: [Address(V6 if ":" in host else V4, host) for host in hosts]


class Listening:
    """One port on several addresses of this machine; `accepted` counts the connections of each."""

    def __init__(self) -> None:
        self.port = free_port()  # not the kernel's choice for one address: another test may have that port on the next
        self.accepted: Counter[str] = Counter()
        self._servers: list[asyncio.Server] = []

    async def on(self, *hosts: str) -> Listening:
        for host in hosts:

            async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str = host) -> None:
                self.accepted[host] += 1
                await reader.read()
                writer.close()

            self._servers.append(await asyncio.start_server(accept, host, self.port))
        return self

    def close(self) -> None:
        for server in self._servers:
            server.close()


async def connect(dialer: Dialer) -> asyncio.Transport:
    transports: list[asyncio.BaseTransport] = []

    class Client(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            transports.append(transport)

    await dialer.connect(Client)
    (transport,) = transports
    assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
    return transport  # type: ignore[return-value]  # uvloop's transports are no subclasses


async def test_the_addresses_of_a_name_share_the_load() -> None:
    """Several A records are several servers; the system's resolver may give the same one first, every time."""
    listening = await Listening().on("127.0.0.1", "127.0.0.2", "127.0.0.3")
    target = Target("http", "several.test", listening.port)
    dialer = Dialer(target, seconds=2, resolver=Resolver(look_up=name_of("127.0.0.1", "127.0.0.2", "127.0.0.3")))
    for _ in range(9):
        (await connect(dialer)).close()
    await until(lambda: listening.accepted.total() == 9, "all are accepted")
    assert set(listening.accepted.values()) == {3}
    listening.close()


async def test_an_address_that_refuses_or_is_silent_costs_no_error() -> None:
    """Row 95: one server of three that is off must not fail a third of the calls, nor take their time to connect."""
    with unanswered_port() as port:
        listening = Listening()
        listening.port = port
        await listening.on("127.0.0.3")  # 127.0.0.1 does not answer, 127.0.0.2 refuses
        look_up = name_of("127.0.0.1", "127.0.0.2", "127.0.0.3")
        dialer = Dialer(Target("http", "several.test", port), seconds=2, resolver=Resolver(look_up=look_up))
        for _ in range(3):
            began = time.monotonic()
            (await connect(dialer)).close()
            assert time.monotonic() - began < 1.5 + MACHINE_SECONDS
        await until(lambda: listening.accepted["127.0.0.3"] == 3, "all are accepted there")
        listening.close()


async def test_names_are_looked_up_for_every_connection() -> None:
    """A service that has moved would be lost until a restart."""
    listening = await Listening().on("127.0.0.1", "127.0.0.2")
    answers = iter(["127.0.0.1", "127.0.0.2"])
    resolver = Resolver(look_up=lambda name: [Address(V4, next(answers))])
    dialer = Dialer(Target("http", "moving.test", listening.port), seconds=2, resolver=resolver)
    for _ in range(2):
        (await connect(dialer)).close()
    await until(lambda: listening.accepted == {"127.0.0.1": 1, "127.0.0.2": 1}, "it is followed")
    listening.close()


def test_families_alternate_and_each_takes_turns() -> None:
    """RFC 8305 §4: a broken IPv6 must cost one pause, not one for each of its addresses."""
    a, b = Address(V6, "::1"), Address(V6, "::2")
    c, d, e = Address(V4, "1"), Address(V4, "2"), Address(V4, "3")
    assert in_turn([a, b, c, d, e], 0) == [a, c, b, d, e]
    assert in_turn([a, b, c, d, e], 1) == [b, d, a, e, c]
    assert in_turn([c], 7) == [c]


async def test_a_look_up_that_hangs_ends_at_the_time_to_connect_and_is_one_for_all() -> None:
    """Row 95: a resolver that is away must not take a thread per call: they would never come to an end."""
    asked: list[str] = []
    release = threading.Event()

    def hang(name: str) -> list[Address]:
        asked.append(name)
        release.wait(20)
        raise socket.gaierror("nobody answered")

    resolver = Resolver(look_up=hang)
    dialer = Dialer(Target("http", "hanging.test", 80), seconds=0.2, resolver=resolver)
    began = time.monotonic()
    results = await asyncio.gather(*(connect(dialer) for _ in range(50)), return_exceptions=True)
    assert time.monotonic() - began < 2 + MACHINE_SECONDS
    assert {str(result) for result in results} == {"no connection within 0.2 s, while looking the name up"}
    assert all(isinstance(result, ConnectTimedOut) for result in results)
    assert asked == ["hanging.test"]
    others = [Dialer(Target("http", f"{n}.test", 80), seconds=0.2, resolver=resolver) for n in range(2 * LOOK_UPS_MAX)]
    await asyncio.gather(*(connect(other) for other in others), return_exceptions=True)
    assert len(asked) == LOOK_UPS_MAX
    assert sum(thread.name == "look-up" for thread in threading.enumerate()) == LOOK_UPS_MAX
    release.set()
    await until(lambda: len(asked) == 1 + 2 * LOOK_UPS_MAX, "the others have their turn, late")


@pytest.mark.parametrize("name", ["no-such-host.invalid", "a" * 64 + ".test"])
async def test_a_name_that_can_t_be_looked_up_is_a_failed_connection(name: str) -> None:
    """Row 95: the system's own resolver, and names that no resolver takes."""
    with pytest.raises(ConnectFailed, match="while looking the name up"):
        await connect(Dialer(Target("http", name, 80), seconds=5, resolver=Resolver()))


async def test_attempts_that_lose_are_ended() -> None:
    """Each holds a descriptor, and a server that sees a connection without a request may log an error."""
    came_late = socket.socket()
    cancelled: list[bool] = []

    async def never() -> socket.socket:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise
        raise AssertionError

    async def now() -> socket.socket:
        return came_late

    assert await first_of([never(), now(), never()], stagger_seconds=0.01) is came_late
    await asyncio.sleep(0)
    assert cancelled == [True]  # the third was never begun
    came_late.close()


async def test_when_all_addresses_fail_the_first_error_is_told() -> None:
    async def fail(number: int) -> socket.socket:
        raise ConnectionRefusedError(number)

    with pytest.raises(ConnectionRefusedError, match="1"):
        await first_of([fail(1), fail(2)], stagger_seconds=5)


async def test_a_connection_without_an_answer_is_504_at_the_time_to_connect(caplog: pytest.LogCaptureFixture) -> None:
    """Row 96: a machine that is off answers no SYN. A caller waits for as long as the configuration says, no longer."""
    with unanswered_port() as port:
        slow = upstream(port, timeouts=Timeouts(connect_seconds=0.3))
        async with running_gateway(configuration([slow], [route()])) as gateway:
            began = time.monotonic()
            answer = await talk(gateway.port, POST)
            assert 0.3 <= time.monotonic() - began < 1.5 + MACHINE_SECONDS
    assert answer.startswith(b"HTTP/1.1 504 Upstream timeout\r\n")
    assert b'"code": "upstream_timeout"' in answer
    (fields,) = [record.fields for record in caplog.records if record.name == "ostiary.gateway.request"]  # type: ignore[attr-defined]  # the log's own extra
    assert fields["reason"] == "upstream origin: no connection within 0.3 s, while connecting"


@contextmanager
def standing(turn_seconds: float) -> Iterator[None]:
    """Each turn of the loop lasts so long, as when thousands of calls are readable at once."""
    loop = asyncio.get_running_loop()
    over = False

    def stand() -> None:
        if not over:
            time.sleep(turn_seconds)
            loop.call_soon(stand)

    loop.call_soon(stand)
    try:
        yield
    finally:
        over = True


async def test_time_for_which_the_loop_stands_is_not_the_targets() -> None:
    """Row 115: in a burst every turn is late, and a connection takes several; the first calls must not get 504 for that."""
    there = await Listening().on("127.0.0.1", "::1")
    dialer = Dialer(
        Target("http", "both.test", there.port),
        seconds=0.2,
        resolver=Resolver(look_up=name_of("127.0.0.1", "::1")),
    )
    with standing(0.15):
        transport = await connect(dialer)
    transport.close()
    there.close()


async def test_time_for_which_the_loop_stands_is_not_waiting_for_a_connection() -> None:
    """Row 115: connections that were given back while the loop stood are handed to who waits, before its time is over."""
    deadlines = Deadlines(every_sweep=lambda: None)
    deadlines.start()
    target = Target("http", "127.0.0.1", 1)
    pool = TargetPool(target, dialer=Dialer(target, seconds=1, resolver=Resolver()), deadlines=deadlines)
    waiter = Waiter(pool, deadlines, seconds=0.4)
    deadlines.watch(waiter)
    asyncio.get_running_loop().call_soon(time.sleep, 1.5)
    await asyncio.sleep(0.01)  # the sweep that was due long ago
    assert not waiter.turn.done
    await until(lambda: waiter.turn.done, "the end of its time")
    deadlines.stop()


async def test_a_target_that_does_not_answer_is_passed_over() -> None:
    """Row 96: nothing was sent, so even a POST goes to the next target."""
    with unanswered_port() as port:
        async with running_origin() as origin:
            both = upstream(port, origin.port, timeouts=Timeouts(connect_seconds=0.2))
            async with running_gateway(configuration([both], [route()])) as gateway:
                for _ in range(2):
                    assert (await talk(gateway.port, POST)).startswith(b"HTTP/1.1 200 OK\r\n")
        assert len(origin.seen) == 2


@pytest.fixture
def short_directory() -> Iterator[Path]:
    """The path of a unix socket may have 107 characters; pytest's own directories may be longer."""
    with directory_for_all() as directory:
        yield directory


async def test_a_unix_socket_is_a_target_and_is_checked(short_directory: Path) -> None:
    """A service on the same machine needs no port that others could reach."""
    path = short_directory / "app.sock"
    origin = Origin()
    checked = Health(path="/healthz", every_seconds=0.05, unhealthy_after=1, healthy_after=1)
    settings = configuration([upstream(targets=(Target("unix", str(path), 0),), health=checked)], [route()])
    async with running_gateway(settings) as gateway:

        def healthy() -> bool:
            upstreams = gateway.gateway.status()["upstreams"]
            assert isinstance(upstreams, dict)
            (target,) = upstreams["origin"]
            assert target["target"] == f"unix:{path}"
            return bool(target["healthy"])

        await until(lambda: not healthy(), "it is taken out while there is no socket")
        assert (await talk(gateway.port, POST)).startswith(b"HTTP/1.1 502 Upstream unreachable\r\n")
        server = await asyncio.start_unix_server(origin.serve, path)
        await until(healthy, "it is taken in")
        assert (await talk(gateway.port, POST)).startswith(b"HTTP/1.1 200 OK\r\n")
        server.close()
    (seen,) = [seen for seen in origin.seen if seen.method == "POST"]
    assert (seen.one("host"), seen.body) == ("localhost", b"x")
    assert origin.garbled == []


async def test_an_ipv6_address_is_a_target() -> None:
    """The Host header has it in brackets (RFC 9110 §7.2)."""
    origin = Origin()
    server = await asyncio.start_server(origin.serve, "::1", 0)
    port = server.sockets[0].getsockname()[1]
    settings = configuration([upstream(targets=(Target("http", "::1", port),))], [route()])
    async with running_gateway(settings) as gateway:
        assert (await talk(gateway.port, POST)).startswith(b"HTTP/1.1 200 OK\r\n")
    assert origin.seen[0].one("host") == f"[::1]:{port}"
    server.close()


async def test_connections_to_targets_send_at_once() -> None:
    """A small request after another would wait 40 ms for the acknowledgement of the first (Nagle)."""
    listening = await Listening().on("127.0.0.1")
    target = Target("http", "127.0.0.1", listening.port)
    transport = await connect(Dialer(target, seconds=2, resolver=Resolver()))
    assert transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    transport.close()
    listening.close()
