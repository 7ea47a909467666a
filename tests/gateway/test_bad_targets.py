"""Targets that flap, hang or are down, with real origins: what callers see, and what reaches the targets."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

from ostiary.core.upstream import Balance, Breaker, Ejection, Retries, Timeouts, Upstream
from tests.support.gateway import RunningGateway, configuration, route, running_gateway, talk, upstream
from tests.support.origin import Answer, Origin, Seen, answer_ok, answer_with, running_origin
from tests.support.waiting import until

RESETS = answer_with(b"", reset=True)
ILL = answer_with(b"HTTP/1.1 503 Ill\r\nContent-Length: 0\r\n\r\n")
EJECTION = Ejection(after=3, seconds=0.3, seconds_max=10.0)
RETRIES = Retries(attempts=2, on=frozenset({"connect", "reset"}))


async def calls(port: int, count: int = 1, *, method: str = "GET") -> Counter[int]:
    """One after the other on one connection; how often each status came."""
    ask = f"{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n".encode()
    got = await talk(port, (ask + b"\r\n") * (count - 1) + ask + b"Connection: close\r\n\r\n", seconds=20.0)
    statuses = [int(part[:3]) for part in got.split(b"HTTP/1.1 ")[1:]]
    assert len(statuses) == count
    return Counter(statuses)


class Hanging:
    """An origin's answer that comes when it is released."""

    def __init__(self) -> None:
        self.release = asyncio.Event()

    async def __call__(self, seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self.release.wait()
        await answer_ok(seen, reader, writer)


@asynccontextmanager
async def origins(*answers: Answer) -> AsyncIterator[Sequence[Origin]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(running_origin(answer)) for answer in answers]


def settings(targets: Sequence[Origin], **changes: object) -> Upstream:
    base = upstream(*(origin.port for origin in targets), ejection=EJECTION, retries=RETRIES)
    return replace(base, **changes)  # type: ignore[arg-type]  # a builder: the fields are checked where they are used


def target_status(gateway: RunningGateway, number: int) -> dict[str, object]:
    upstreams = gateway.gateway.status()["upstreams"]
    assert isinstance(upstreams, dict)
    found = upstreams["origin"][number]
    assert isinstance(found, dict)
    return found


def seen(targets: Sequence[Origin]) -> list[int]:
    return [len(origin.seen) for origin in targets]


async def test_a_flapping_target_costs_its_callers_nothing_and_gets_a_trial_at_a_time() -> None:
    """Row 106: each time it falls, every second call would fail until someone takes it out."""
    async with (
        origins(answer_ok, answer_ok) as targets,
        running_gateway(configuration([settings(targets)], [route()])) as gateway,
    ):
        flapping, _ = targets
        name = {"upstream": "origin", "target": f"127.0.0.1:{flapping.port}"}
        healthy = gateway.metrics.gauge("upstream_healthy", **name)
        for flap in (1, 2):
            flapping.answer = RESETS
            flapping.seen.clear()
            assert await calls(gateway.port, 20) == {200: 20}
            stale = flap - 1  # the second time there is a kept connection: its reset may be its age, and is not counted
            assert len(flapping.seen) == EJECTION.after + stale
            assert target_status(gateway, 0)["ejected"] is True
            assert gateway.metrics.values[healthy] == 0.0
            assert gateway.count("upstream_ejections_total", **name) == flap

            flapping.answer = answer_ok
            while target_status(gateway, 0)["ejected"]:
                assert await calls(gateway.port) == {200: 1}
            assert target_status(gateway, 0)["healthy"] is True
            assert gateway.metrics.values[healthy] == 1.0
            assert len(flapping.seen) == EJECTION.after + stale + 1, "one trial"


async def test_a_target_that_comes_back_is_tried_with_one_call() -> None:
    """Row 106: what just comes up would fall again under all the calls that had waited for it."""
    async with (
        origins(RESETS, answer_ok) as targets,
        running_gateway(configuration([settings(targets)], [route()])) as gateway,
    ):
        back, other = targets
        await calls(gateway.port, 10)
        assert len(back.seen) == EJECTION.after
        hanging = back.answer = Hanging()

        async def ask() -> None:
            await calls(gateway.port)

        asked: list[asyncio.Task[None]] = []
        while len(back.seen) == EJECTION.after:  # until the trial is due, and has been given
            asked.append(asyncio.create_task(ask()))
            await asyncio.sleep(0.01)
        before = len(other.seen)
        assert await calls(gateway.port, 20) == {200: 20}
        assert len(other.seen) >= before + 20
        assert len(back.seen) == EJECTION.after + 1, "a single one waits there"
        hanging.release.set()
        await asyncio.gather(*asked)
        assert await calls(gateway.port, 4) == {200: 4}
        assert len(back.seen) == EJECTION.after + 3, "every second call again"


async def test_a_trial_whose_client_goes_away_is_followed_by_another() -> None:
    """Row 106: a target would be lost for good when the one client that tried it had no patience."""
    async with (
        origins(RESETS, answer_ok) as targets,
        running_gateway(configuration([settings(targets)], [route()])) as gateway,
    ):
        back, _ = targets
        await calls(gateway.port, 10)
        hanging = back.answer = Hanging()
        for trial in (1, 2):
            leaving = []
            while len(back.seen) < EJECTION.after + trial:
                leaving.append(await leave(gateway.port))
                await asyncio.sleep(0.01)
            for writer in leaving:
                reset(writer)
            await until(lambda: not gateway.gateway.connections, "the gateway has seen them go")
        hanging.release.set()


async def leave(port: int) -> asyncio.StreamWriter:
    """A call whose client does not read its answer."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    return writer


def reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def test_one_hanging_target_of_three_costs_as_many_calls_as_it_takes_to_notice() -> None:
    """Row 106: a third of all calls would wait for their timeout, for as long as it hangs."""
    timeouts = Timeouts(connect_seconds=1.0, first_byte_seconds=0.1, idle_seconds=1.0)
    ejection = Ejection(after=2, seconds=60.0, seconds_max=60.0)
    async with origins(Hanging(), answer_ok, answer_ok) as targets:
        slow = settings(targets, timeouts=timeouts, ejection=ejection)
        async with running_gateway(configuration([slow], [route()])) as gateway:
            assert await calls(gateway.port, 34) == {504: 2, 200: 32}
            assert seen(targets) == [2, 16, 16]


async def test_all_targets_down_get_no_storm_of_further_tries() -> None:
    """Row 106: an upstream that is down would get three times the calls that brought it down. Counted where they arrive."""
    async with origins(RESETS, RESETS, RESETS) as targets:
        down = settings(targets, retries=Retries(attempts=3, on=frozenset({"connect", "reset"})))
        async with running_gateway(configuration([down], [route()])) as gateway:
            for _ in range(4):
                got = await asyncio.gather(*(calls(gateway.port, 10) for _ in range(10)))
                assert sum(got, Counter()) == {502: 100}
            connections = sum(len(origin.raw) for origin in targets)
            assert connections <= 400 + 40
            assert connections > 400 + 20, "the budget is there to be used"
            assert min(seen(targets)) > 100, "while all are out, all are used"
            made = gateway.count("upstream_retries_total", upstream="origin", result="made")
            denied = gateway.count("upstream_retries_total", upstream="origin", result="denied")
            assert made == connections - 400
            assert denied >= 360


async def test_refused_connections_are_tried_elsewhere_within_the_budget_when_all_refuse() -> None:
    """Rows 95, 106: nothing was sent, so another target is asked; but not again and again when that one refuses as well."""
    async with origins(answer_ok, answer_ok, answer_ok) as gone:
        ports = [origin.port for origin in gone]
    down = upstream(*ports, ejection=EJECTION, retries=Retries(attempts=3))
    async with running_gateway(configuration([down], [route()])) as gateway:
        got = await asyncio.gather(*(calls(gateway.port, 10, method="POST") for _ in range(30)))
        assert sum(got, Counter()) == {502: 300}
        made = gateway.count("upstream_retries_total", upstream="origin", result="made")
        # Free are those of calls that found a target with nothing against it: at most the calls of the first moment.
        assert made <= 30 + 30


async def test_a_dead_target_costs_no_call_however_many_meet_it_at_once() -> None:
    """Row 95: with a live target beside it, a connect that fails is no reason for an error, budget or not."""
    async with origins(answer_ok) as gone:
        dead = gone[0].port
    async with origins(answer_ok) as live:
        both = upstream(dead, live[0].port, balance=Balance.ROUND_ROBIN, retries=Retries(budget_share=0.0))
        async with running_gateway(configuration([both], [route()])) as gateway:
            got = await asyncio.gather(*(calls(gateway.port, method="POST") for _ in range(100)))
            assert sum(got, Counter()) == {200: 100}


async def test_when_most_of_the_weight_is_out_all_targets_are_used() -> None:
    """Row 106: one target of three would fall under the calls of all, and the two may be well by now."""
    async with (
        origins(RESETS, RESETS, answer_ok) as targets,
        running_gateway(configuration([settings(targets)], [route()])) as gateway,
    ):
        await calls(gateway.port, 30)
        assert [target_status(gateway, number)["ejected"] for number in range(3)] == [True, True, False]
        before = seen(targets)
        assert (await calls(gateway.port, 9, method="POST"))[200] in (2, 3, 4)
        assert min(now - then for now, then in zip(seen(targets), before, strict=True)) >= 2

        targets[0].answer = targets[1].answer = answer_ok
        await until_all_are_in(gateway)
        assert await calls(gateway.port, 9) == {200: 9}


async def until_all_are_in(gateway: RunningGateway) -> None:
    async with asyncio.timeout(10):
        while not all(target_status(gateway, number)["healthy"] for number in range(3)):
            await calls(gateway.port)


async def test_a_threshold_of_all_leaves_the_last_good_target_alone_in_use() -> None:
    """Row 106: an operator whose targets can each carry everything wants no call at a bad one."""
    async with origins(RESETS, RESETS, answer_ok) as targets:
        strict = settings(targets, panic_share=1.0, ejection=Ejection(after=1, seconds=60.0))
        async with running_gateway(configuration([strict], [route()])) as gateway:
            await calls(gateway.port, 10)
            assert seen(targets)[:2] == [1, 1]


async def test_statuses_eject_only_where_they_are_named() -> None:
    """Row 106: a 503 may be the service's own word on one call; where the operator says it is not, it counts."""
    named = replace(EJECTION, on=frozenset({"503"}))
    for ejection, expected in ((EJECTION, 10), (named, EJECTION.after)):
        async with (
            origins(ILL, answer_ok) as targets,
            running_gateway(configuration([settings(targets, ejection=ejection)], [route()])) as gateway,
        ):
            await calls(gateway.port, 20)
            assert len(targets[0].seen) == expected


async def test_a_reload_keeps_what_was_learnt_of_a_target() -> None:
    """Row 106: a known-bad target would get its share of the calls after each reload, until it is found bad anew."""
    async with origins(RESETS, answer_ok) as targets:
        before = settings(targets, ejection=replace(EJECTION, seconds=60.0, seconds_max=60.0))
        async with running_gateway(configuration([before], [route()])) as gateway:
            await calls(gateway.port, 10)
            first, second = before.targets
            after = replace(before, targets=(first, replace(second, weight=5)), timeouts=Timeouts(connect_seconds=0.5))
            gateway.gateway.reload(configuration([after], [route("renamed")]))
            assert target_status(gateway, 0)["ejected"] is True
            assert await calls(gateway.port, 10) == {200: 10}
            assert len(targets[0].seen) == EJECTION.after
            gauge = gateway.metrics.gauge("upstream_healthy", upstream="origin", target=f"127.0.0.1:{targets[0].port}")
            assert gateway.metrics.values[gauge] == 0.0

            gateway.gateway.reload(configuration([replace(after, ejection=None)], [route()]))
            assert target_status(gateway, 0)["healthy"] is True
            assert gateway.metrics.values[gauge] == 1.0, "what is not ejected any more is used"


async def test_an_open_breaker_answers_at_once_and_sends_nothing() -> None:
    """Row 106: callers would each wait for an upstream that is down, and keep it down."""
    breaker = Breaker(calls=4, open_seconds=0.5, trials=2)
    async with origins(ILL) as targets:
        guarded = settings(targets, breaker=breaker)
        async with running_gateway(configuration([guarded], [route()])) as gateway:
            assert await calls(gateway.port, 4) == {503: 4}
            answer = await talk(gateway.port, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 503")
            assert b'"code": "upstream_unhealthy"' in answer
            assert answer.count(b"Retry-After: 1\r\n") == answer.count(b"Retry-After") == 1
            assert len(targets[0].seen) == 4
            assert gateway.gateway.status()["breakers"] == {"origin": "open"}
            gauge = gateway.metrics.gauge("upstream_breaker_open", upstream="origin")
            assert gateway.metrics.values[gauge] == 1.0

            gateway.gateway.reload(configuration([replace(guarded, timeouts=Timeouts())], [route()]))
            assert gateway.gateway.status()["breakers"] == {"origin": "open"}, "a reload is no way around it"

            targets[0].answer = answer_ok
            while (await calls(gateway.port))[200] == 0:
                assert len(targets[0].seen) == 4
            assert await calls(gateway.port, 5) == {200: 5}
            assert gateway.gateway.status()["breakers"] == {"origin": "closed"}
            assert gateway.metrics.values[gauge] == 0.0
            states = [
                gateway.count("upstream_breaker_changes_total", upstream="origin", state=state)
                for state in ("open", "half_open", "closed")
            ]
            assert states == [1.0, 1.0, 1.0]
            assert gateway.count("upstream_breaker_refusals_total", upstream="origin") >= 1


async def test_a_breaker_lets_no_more_than_its_trials_through() -> None:
    """Row 106: all who waited would come at once."""
    async with origins(ILL) as targets:
        guarded = settings(targets, breaker=Breaker(calls=4, open_seconds=0.2, trials=2))
        async with running_gateway(configuration([guarded], [route()])) as gateway:
            await calls(gateway.port, 4)
            hanging = targets[0].answer = Hanging()
            asked: list[asyncio.Task[Counter[int]]] = []
            while len(targets[0].seen) < 6:
                asked.append(asyncio.create_task(calls(gateway.port)))
                await asyncio.sleep(0.01)
            assert await calls(gateway.port, 20) == {503: 20}
            assert len(targets[0].seen) == 6
            hanging.release.set()
            got = sum(await asyncio.gather(*asked), Counter())
            assert got[200] == 2
            assert await calls(gateway.port, 5) == {200: 5}


async def test_a_call_that_takes_too_long_as_a_whole_is_504() -> None:
    """Row 96: each stage in time, and the caller still waiting: its tries together have a bound."""
    timeouts = Timeouts(connect_seconds=1.0, first_byte_seconds=5.0, idle_seconds=5.0, whole_seconds=0.2)
    async with (
        origins(Hanging()) as targets,
        running_gateway(configuration([settings(targets, timeouts=timeouts)], [route()])) as gateway,
    ):
        began = asyncio.get_running_loop().time()
        assert await calls(gateway.port, 2) == {504: 2}, "and the connection goes on"
        assert asyncio.get_running_loop().time() - began < 3.0
        targets[0].answer = answer_ok
        assert await calls(gateway.port, 5) == {200: 5}


async def test_an_answer_that_takes_too_long_as_a_whole_breaks_off() -> None:
    """Row 96: an origin that sends a byte now and then is never idle, and never done."""
    left = asyncio.Event()

    async def drip(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        try:
            for _ in range(2000):
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.01)
        finally:
            left.set()

    timeouts = Timeouts(connect_seconds=1.0, first_byte_seconds=5.0, idle_seconds=5.0, whole_seconds=0.2)
    async with (
        origins(drip) as targets,
        running_gateway(configuration([settings(targets, timeouts=timeouts)], [route()])) as gateway,
    ):
        got = await talk(gateway.port, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert got.startswith(b"HTTP/1.1 200")
        assert len(got) < 10_000
        await asyncio.wait_for(left.wait(), 5)
        assert gateway.count("gateway_errors_total", code="upstream_timeout") == 1


async def test_the_time_of_a_call_ends_with_the_call() -> None:
    """Row 96: on a connection that is kept, the time of a call that was long answered would end the next one."""

    async def works(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if seen.target == "/slow":
            await asyncio.sleep(0.7)  # its work: past the time of the call before, and the sweep that would notice
        await answer_ok(seen, reader, writer)

    async with origins(works) as targets:
        bounded = settings(targets, timeouts=Timeouts(whole_seconds=0.1))
        async with running_gateway(configuration([bounded], [route()])) as gateway:
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await reader.readuntil(b"\r\n\r\nok")).startswith(b"HTTP/1.1 200")
            gateway.gateway.reload(configuration([replace(bounded, timeouts=Timeouts())], [route()]))
            writer.write(b"GET /slow HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert (await asyncio.wait_for(reader.read(), 10)).startswith(b"HTTP/1.1 200")
            writer.close()
