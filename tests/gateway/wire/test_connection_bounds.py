"""At most so many connections to a target, and a bounded wait for one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from ostiary.core.upstream import Connections, Retries
from tests.gateway.test_bad_targets import Hanging, reset
from tests.support.gateway import RunningGateway, configuration, route, running_gateway, talk, upstream
from tests.support.origin import Seen, answer_ok, answer_with, running_origin
from tests.support.waiting import until


def ask(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode()


def status_of(answer: bytes) -> int:
    return int(answer[9:12])


def waiting(gateway: RunningGateway) -> int:
    upstreams = gateway.gateway.status()["upstreams"]
    assert isinstance(upstreams, dict)
    return int(upstreams["origin"][0]["waiting"])


def under_way(gateway: RunningGateway) -> Callable[[], bool]:
    """One call has the only connection."""

    def holds() -> bool:
        upstreams = gateway.gateway.status()["upstreams"]
        assert isinstance(upstreams, dict)
        return bool(upstreams["origin"][0]["in_flight"] == 1)

    return holds


async def begin(gateway: RunningGateway, paths: list[str]) -> list[asyncio.Task[bytes]]:
    """Calls whose order is certain: each begins when the one before is under way, or waits."""
    calls = [asyncio.create_task(talk(gateway.port, ask(paths[0])))]
    await until(under_way(gateway), "the first call has the connection")
    for number, path in enumerate(paths[1:], 1):
        calls.append(asyncio.create_task(talk(gateway.port, ask(path))))
        await until(lambda: waiting(gateway) == number, "it waits")  # noqa: B023  awaited at once
    return calls


async def test_who_waits_is_served_in_order_by_the_connection_that_comes_free() -> None:
    """Row 96: the last to come would be the first to be served, and the first would time out."""
    hanging = Hanging()
    bounds = Connections(at_most=1, waiting=5, wait_seconds=10.0)
    async with running_origin(hanging) as origin:
        config = configuration([upstream(origin.port, connections=bounds)], [route()])
        async with running_gateway(config) as gateway:
            calls = await begin(gateway, ["/0", "/1", "/2", "/3"])
            hanging.release.set()
            assert [status_of(each) for each in await asyncio.gather(*calls)] == [200] * 4
            assert [seen.target for seen in origin.seen] == ["/0", "/1", "/2", "/3"]
            assert len(origin.raw) == 1, "one connection"
            assert gateway.count("upstream_connection_waits_total", upstream="origin", result="served") == 3


async def test_past_the_number_that_may_wait_and_past_the_time_it_is_503() -> None:
    """Row 96: a queue without a bound is memory, and a wait without one is a client that hangs."""
    hanging = Hanging()
    bounds = Connections(at_most=1, waiting=1, wait_seconds=0.3)
    async with running_origin(hanging) as origin:
        config = configuration([upstream(origin.port, connections=bounds)], [route()])
        async with running_gateway(config) as gateway:
            first, second = await begin(gateway, ["/0", "/1"])
            refused = await talk(gateway.port, ask("/2"))
            assert b'"code": "overloaded"' in refused
            assert refused.startswith(b"HTTP/1.1 503")
            assert b"\r\nRetry-After: 1\r\n" in refused
            assert waiting(gateway) == 1, "at once, while the other still waits"
            assert b'"code": "overloaded"' in await second
            assert waiting(gateway) == 0
            hanging.release.set()
            assert status_of(await first) == 200
            assert [seen.target for seen in origin.seen] == ["/0"]
            for result in ("refused", "timed_out"):
                assert gateway.count("upstream_connection_waits_total", upstream="origin", result=result) == 1


@pytest.mark.parametrize("places", [2, 5])
async def test_a_waiter_whose_client_has_gone_is_skipped_and_holds_no_place(places: int) -> None:
    """Row 105: the upstream would do what nobody waits for any more, and those who do would be turned away."""
    hanging = Hanging()
    bounds = Connections(at_most=1, waiting=places, wait_seconds=10.0)
    async with running_origin(hanging) as origin:
        config = configuration([upstream(origin.port, connections=bounds)], [route()])
        async with running_gateway(config) as gateway:
            (first,) = await begin(gateway, ["/0"])
            _, gone = await asyncio.open_connection("127.0.0.1", gateway.port)
            gone.write(ask("/gone"))
            await until(lambda: waiting(gateway) == 1, "it waits")
            reset(gone)
            await until(lambda: len(gateway.gateway.connections) == 1, "the gateway has seen it go")
            more = []
            for number, path in enumerate(["/1", "/2"], 2):
                more.append(asyncio.create_task(talk(gateway.port, ask(path))))
                await until(lambda: len(gateway.gateway.connections) == number, "it has come")  # noqa: B023  as above
                await until(lambda: waiting(gateway) == min(places, number), "it waits")  # noqa: B023  as above
            hanging.release.set()
            assert [status_of(each) for each in await asyncio.gather(first, *more)] == [200] * 3
            assert [seen.target for seen in origin.seen] == ["/0", "/1", "/2"]


async def test_a_connection_that_ends_makes_room_for_the_next_who_waits() -> None:
    """Row 96: a target that closes after each answer gives no connection back; those who wait would wait in vain."""
    hanging = Hanging()

    async def once(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await hanging.release.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    bounds = Connections(at_most=1, waiting=5, wait_seconds=10.0)
    async with running_origin(once) as origin:
        config = configuration([upstream(origin.port, connections=bounds)], [route()])
        async with running_gateway(config) as gateway:
            calls = await begin(gateway, ["/0", "/1", "/2"])
            hanging.release.set()
            assert [status_of(each) for each in await asyncio.gather(*calls)] == [200] * 3
            assert len(origin.raw) == 3


async def test_a_connect_that_fails_lets_the_next_who_waits_try() -> None:
    """Row 95: those who wait for a target that refuses must learn so as well, not time out one by one."""
    async with running_origin() as gone:
        port = gone.port
    bounds = Connections(at_most=1, waiting=20, wait_seconds=10.0)
    dead = upstream(port, connections=bounds, retries=Retries(attempts=1))
    async with running_gateway(configuration([dead], [route()])) as gateway:
        answers = await asyncio.gather(*(talk(gateway.port, ask("/")) for _ in range(20)))
        assert [status_of(each) for each in answers] == [502] * 20


async def test_a_burst_opens_no_more_connections_than_may_be() -> None:
    """Row 96: calls that come in one turn of the loop would each see room for one more."""
    at_once = most = 0

    async def count(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.01)  # its work
        at_once -= 1
        await answer_ok(seen, reader, writer)

    bounds = Connections(at_most=3, waiting=100, wait_seconds=10.0)
    async with running_origin(count) as origin:
        config = configuration([upstream(origin.port, connections=bounds)], [route()])
        async with running_gateway(config) as gateway:
            answers = await asyncio.gather(*(talk(gateway.port, ask("/")) for _ in range(40)))
            assert [status_of(each) for each in answers] == [200] * 40
            assert most == len(origin.raw) == 3


async def test_a_full_target_is_passed_over_while_another_has_room() -> None:
    """Row 106: calls would wait at a slow target while its neighbour idles."""
    hanging = Hanging()
    bounds = Connections(at_most=1, waiting=5, wait_seconds=10.0)
    async with running_origin(hanging) as slow, running_origin() as quick:
        config = configuration([upstream(slow.port, quick.port, connections=bounds)], [route()])
        async with running_gateway(config) as gateway:
            (first,) = await begin(gateway, ["/0"])
            for _ in range(5):
                assert status_of(await talk(gateway.port, ask("/"))) == 200
            assert (len(slow.seen), len(quick.seen)) == (1, 5)
            hanging.release.set()
            assert status_of(await first) == 200


async def test_a_kept_connection_that_was_reset_is_asked_for_anew_within_the_bounds() -> None:
    """Row 97: the call that is repeated after a stale connection has no place of its own to connect from."""
    async with running_origin() as origin:
        bounds = Connections(at_most=1, waiting=1, wait_seconds=2.0)
        config = configuration([upstream(origin.port, connections=bounds)], [route()])
        async with running_gateway(config) as gateway:
            assert status_of(await talk(gateway.port, ask("/0"))) == 200
            resets = iter([answer_with(b"", reset=True)])

            async def once(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await next(resets, answer_ok)(seen, reader, writer)

            origin.answer = once
            assert status_of(await talk(gateway.port, ask("/1"))) == 200
            assert [seen.target for seen in origin.seen] == ["/0", "/1", "/1"]
