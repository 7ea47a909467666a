"""`usage.spool.when_full: block`: no call is served that can't be metered, and a refused one costs nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from ostiary.core.model import Authentication, Plan, Scheme, Window
from ostiary.core.upstream import Timeouts
from ostiary.core.usage import SpoolSettings, UsageSettings, WhenFull
from ostiary.gateway.usage import Spool
from tests.gateway.usage.calls import call, segment_files
from tests.support.gateway import SECRET, RunningGateway, configuration, key, route, running_gateway, talk, upstream
from tests.support.messages import parse, request
from tests.support.metering import metered
from tests.support.origin import OK, Origin, Seen

BEARER = b"Authorization: Bearer " + SECRET
MIB = 1 << 20


@pytest.fixture
async def gateway(origin: Origin, tmp_path: Path) -> AsyncIterator[RunningGateway]:
    """Three calls an hour, and a spool of one segment."""
    settings = configuration(
        [upstream(origin.port, timeouts=Timeouts(connect_seconds=30.0, first_byte_seconds=30.0, idle_seconds=30.0))],
        [route(authentication=Authentication(schemes=frozenset({Scheme.BEARER})))],
        keys=[key(plan="small")],
        plans={"small": Plan("small", windows=(Window(3, 3600),))},
    )
    blocking = replace(settings, usage=UsageSettings(spool=SpoolSettings(when_full=WhenFull.BLOCK)))
    async with running_gateway(blocking, spool_directory=tmp_path, spool_bytes_max=MIB) as gateway:
        yield gateway


def fill(gateway: RunningGateway) -> int:
    """Other calls take all the room that there is; returns how many were metered."""
    spool = gateway.spool
    assert spool is not None
    while spool.claim():
        spool.release()
        assert spool.append(call("another"))
    return spool.accepted


def empty(spool: Spool | None, directory: Path) -> None:
    """What a worker's timer and the shipper do."""
    assert spool is not None
    spool.seal()
    for path in segment_files(directory, "sealed"):
        path.unlink()


async def ask(gateway: RunningGateway, *lines: bytes, method: bytes = b"GET", body: bytes = b"") -> tuple[int, str]:
    """Status, and Retry-After or what is left of the limit."""
    data = await talk(gateway.port, request("/v1/things", *lines, method=method, body=body))
    response, _ = parse(data, method)
    headers = {name.decode(): value.decode() for name, value in response.headers}
    return response.status_code, headers.get("retry-after") or headers.get("x-ratelimit-remaining", "")


async def test_a_call_that_can_not_be_metered_is_refused_before_it_costs_anything(
    gateway: RunningGateway, origin: Origin, tmp_path: Path
) -> None:
    """Row 88: policy `block`. Without it: calls are served and nobody is billed; or the refused ones use up their caller's
    limits, and it is refused again when there is room."""
    filled = fill(gateway)
    spool = gateway.spool
    assert spool is not None
    for _ in range(5):
        status, retry_after = await ask(gateway, BEARER)
        assert status == 503
        assert retry_after in ("2", "3", "4")
    upload = (b"Content-Length: 5", BEARER)
    assert (await ask(gateway, *upload, method=b"POST", body=b"hello"))[0] == 503
    assert (await ask(gateway, BEARER, method=b"HEAD"))[0] == 503
    assert (await ask(gateway, b"Authorization: Bearer wrong"))[0] == 401, "what is not metered is answered as ever"
    assert origin.seen == []
    assert (spool.accepted, spool.dropped, spool.blocked) == (filled, 0, 8)
    assert gateway.count("usage_calls_blocked_total") == 7
    assert gateway.count("gateway_errors_total", code="overloaded") == 7
    assert gateway.count("http_requests_total", route="all", method="GET", status="503") == 5

    empty(spool, tmp_path)
    assert [await ask(gateway, BEARER) for _ in range(3)] == [(200, "2"), (200, "1"), (200, "0")]
    assert (await ask(gateway, BEARER))[0] == 429
    assert len(origin.seen) == 3
    assert [each.status for each in metered(tmp_path) if each.key_id != "ak_test_abc123"] == [200, 200, 200, 429]
    assert spool.status()["claims"] == 0


async def test_a_call_under_way_is_metered_though_the_spool_has_filled_meanwhile(
    gateway: RunningGateway, origin: Origin, tmp_path: Path
) -> None:
    """Row 88: it was let in while there was room. Without it: the upstream has done the work, and nobody is billed for it."""
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def answer(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.set()
        await go_on.wait()
        writer.write(OK)

    origin.answer = answer
    slow = asyncio.create_task(ask(gateway, BEARER))
    await asyncio.wait_for(arrived.wait(), 30)
    fill(gateway)
    assert (await ask(gateway, BEARER))[0] == 503
    go_on.set()
    assert (await slow)[0] == 200
    spool = gateway.spool
    assert spool is not None
    assert spool.dropped == 0
    assert [each.status for each in metered(tmp_path) if each.key_id != "ak_test_abc123"] == [200]
    assert spool.status()["claims"] == 0


async def test_without_the_policy_calls_are_served_and_counted(origin: Origin, tmp_path: Path) -> None:
    """Row 88: policy `shed`, which is the default: a disk that fills would stop an API that nobody is billed for."""
    settings = configuration([upstream(origin.port)], [route()])
    async with running_gateway(settings, spool_directory=tmp_path, spool_bytes_max=MIB) as gateway:
        spool = gateway.spool
        assert spool is not None
        while spool.append(call("another")):
            pass
        assert (await ask(gateway))[0] == 200
        assert gateway.count("usage_events_dropped_total") == 1
        assert (spool.dropped, spool.full, "blocked" in spool.status()) == (2, True, False)
