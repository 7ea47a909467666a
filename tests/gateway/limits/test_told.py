"""Invariant: what limits in shadow would have refused, and what was reached of a quota, is in Postgres once: told by Redis,
carried by the spool, whatever is repeated or lost on the way."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
import redis

from ostiary.core.model import LimitBy, LimitMode, Period, Plan, Quota, RouteLimit, Window
from ostiary.demo.stores import EmbeddedValkey
from ostiary.gateway.limits import QuotaEvents
from ostiary.gateway.limits import script as lua
from ostiary.gateway.usage import PostgresSink
from ostiary.gateway.usage.shipper import Shipper
from tests.gateway.limits.support import Script, decided, policy, running
from tests.gateway.usage.calls import Observed
from tests.support.gateway import configuration, route, running_gateway, talk, upstream
from tests.support.metering import metered_calls
from tests.support.origin import Origin

QUOTA_OF_TEN = policy(Plan("standard", quotas=(Quota(10, Period.MONTH),)))


@pytest.fixture
async def rows(migrated_database: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    connection = await asyncpg.connect(migrated_database)
    yield connection
    await connection.close()


@pytest.fixture
def script(valkey_server: EmbeddedValkey) -> Script:
    script = Script(valkey_server.url(database=2))
    script.redis.flushdb()
    return script


def shares(script: Script) -> list[int]:
    return [percent for _, what, _, percent, _ in script.notes if what == lua.QUOTA_REACHED]


def test_the_call_that_reaches_a_share_tells_and_later_ones_tell_again(script: Script) -> None:
    """An answer that was lost would be the only one to know; an answer a call would be a row a call."""
    limits = policy(Plan("p", quotas=(Quota(100, Period.MONTH),)))
    now_us = 1_790_000_000_000_000
    told = {}
    for number in range(1, 101):
        script.decide([(limits, "ak_1", None)], now_us)
        if script.notes:
            told[number] = shares(script)
    assert told == {
        50: [50],
        51: [50],
        52: [50],
        54: [50],
        58: [50],
        66: [50],
        80: [80],
        81: [80],
        82: [80],
        84: [80],
        88: [80],
        90: [90],
        91: [90],
        92: [90],
        94: [90],
        98: [90],
        100: [100],
    }


def test_what_settles_a_call_tells_too(script: Script) -> None:
    """A dear call that its upstream prices afterwards would use a quota up in silence."""
    now_us = 1_790_000_000_000_000
    script.decide([], now_us, settlements=[(QUOTA_OF_TEN, "ak_1", 9, now_us)])
    assert shares(script) == [90]


async def test_an_answer_that_came_too_late_and_a_refused_call_are_heard_all_the_same(
    valkey_server: EmbeddedValkey,
) -> None:
    """The last call of a quota is the one after which no other is counted that could tell it again."""
    with redis.Redis.from_url(valkey_server.url(database=1)) as store:
        store.flushdb()
    async with running(valkey_server.url(database=1)) as limiter:
        for _ in range(10):
            await decided(limiter, QUOTA_OF_TEN)
        limiter.quota_events.take(100)  # as if all of it had been lost
        await decided(limiter, QUOTA_OF_TEN)
        await decided(limiter, QUOTA_OF_TEN)
        (event,) = limiter.quota_events.take(100)
    assert (event.subject, event.quota, event.limit, event.percent) == ("k:ak_test_1", "standard:month", 10, 100)
    assert event.period_ends_us > time.time() * 1e6


def test_what_no_record_takes_is_bounded_and_what_could_not_be_written_is_kept() -> None:
    """A gateway without a spool would fill its memory; a full disk would swallow what was told."""
    events = QuotaEvents()
    names = QUOTA_OF_TEN.names("ak_1", None, None, "192.0.2.1")
    for number in range(1200):
        events.reached(QUOTA_OF_TEN, names, 0, 50, number)
    assert len(events.pending) == 1000
    taken = events.take(16)
    assert [event.period_ends_us for event in taken] == list(range(200, 216))
    events.put_back(taken)
    assert [event.period_ends_us for event in events.take(17)] == list(range(200, 217))


async def test_both_reach_postgres_with_the_calls_and_each_event_once(
    valkey_server: EmbeddedValkey,
    origin: Origin,
    tmp_path: Path,
    migrated_database: str,
    rows: asyncpg.Connection[asyncpg.Record],
) -> None:
    """Row 90: a customer would not hear that its quota ends, or hear it with every call."""
    with redis.Redis.from_url(valkey_server.url(database=1)) as store:
        store.flushdb()
    limits = (
        RouteLimit(Quota(10, Period.DAY), LimitBy.IP),
        RouteLimit(Window(4, 60, LimitMode.SHADOW), LimitBy.ROUTE),
        RouteLimit(Window(1, 60, LimitMode.SHADOW), LimitBy.HEADER, "x-tenant"),
    )
    settings = configuration(
        [upstream(origin.port)], [route("clients", limits=limits)], redis=valkey_server.url(database=1)
    )
    spool = tmp_path / "spool"
    async with running_gateway(settings, spool_directory=spool) as running:
        for number in range(12):
            request = f"GET / HTTP/1.1\r\nHost: a\r\nX-Tenant: tenant-{number % 2}\r\nConnection: close\r\n\r\n"
            answer = await talk(running.port, request.encode())
            assert answer.startswith(b"HTTP/1.1 200" if number < 10 else b"HTTP/1.1 429")
        await metered_calls(spool, 12)
    shipper = Shipper(directory=spool, sink=PostgresSink(migrated_database), observe=Observed())
    await shipper.ship()
    await shipper.close()
    events = await rows.fetch("SELECT * FROM quota_events ORDER BY threshold")
    assert [(event["threshold"], event["calls_max"]) for event in events] == [(50, 10), (80, 10), (90, 10), (100, 10)]
    assert {(event["subject"], event["quota"]) for event in events} == {("i:127.0.0.1", "clients/day-quota-by-ip")}
    marked = await rows.fetch("SELECT would_refuse, count(*) FROM usage_events GROUP BY 1 ORDER BY 1 NULLS FIRST")
    assert [tuple(row) for row in marked] == [
        (None, 4),  # two tenants' first calls, and two that the quota refused
        ("minute-by-header-x-tenant", 2),
        ("minute-by-route,minute-by-header-x-tenant", 6),
    ]


async def test_of_a_share_that_was_never_told_the_next_one_tells(
    rows: asyncpg.Connection[asyncpg.Record],
) -> None:
    """Events that were lost on the way would be missing for ever."""
    await rows.execute("SELECT usage_ensure_partition('2026-07-01')")
    told = {"subject": "k:a", "quota": "p:day", "period_ends_us": 1_782_950_400_000_000, "calls_max": 9}
    for request, percent in (("one", 80), ("two", 80), ("three", 100)):
        await rows.execute(
            """
            INSERT INTO usage_events
                (occurred_at, request_id, method, status, latency_us, bytes_in, bytes_out, overage, complete, quota_reached)
            VALUES ('2026-07-01 12:00+00', $1, 'GET', 200, 1, 0, 0, false, true, $2::jsonb)
            """,
            request,
            json.dumps([told | {"percent": percent}]),
        )
    found = await rows.fetch("SELECT threshold, period_ends::text FROM quota_events ORDER BY 1")
    assert [row["threshold"] for row in found] == [50, 80, 90, 100]
    assert {row["period_ends"][:10] for row in found} == {"2026-07-02"}
