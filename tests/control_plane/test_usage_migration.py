"""Migration 0008 on a database with usage in it: nothing is lost, and what was there can be asked for as what comes."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import asyncpg

from ostiary.control_plane.db import migrate
from ostiary.control_plane.db.schema import read_migrations
from ostiary.control_plane.usage.histogram import calls_by_place
from ostiary.gateway.usage.record import COLUMNS_OF

BEFORE = [migration for migration in read_migrations() if migration.name < "0008"]
DAYS = [datetime(2026, 1, day, 11, 59, 59, tzinfo=UTC) for day in (1, 2, 31)]

# As the shipper of before wrote: without the new columns.
_INSERT = f"""
INSERT INTO usage_events ({", ".join(COLUMNS_OF[1])})
SELECT $1::timestamptz + number * interval '1 second', 500 + number * 977, 400, 1, 2, 'req-' || number, 'GET',
    CASE WHEN number % 4 = 0 THEN 404 ELSE 200 END, 'ak_' || number % 3, NULL, NULL, 'live', 'clients', '/clients', NULL,
    NULL, number % 10 = 0, true
FROM generate_series(1, 200) AS number
"""  # noqa: S608  names of columns


async def test_what_was_there_is_rolled_up_by_hour_and_minute_and_nothing_is_lost(empty_database: str) -> None:
    """An upgrade would lose the history, or count it twice."""
    await migrate(empty_database, migrations=BEFORE)
    connection = await asyncpg.connect(empty_database)
    for day in DAYS:
        await connection.execute("SELECT usage_ensure_partition($1)", day.date())
        await connection.execute(_INSERT, day)
    await connection.execute("DROP TABLE usage_events_20260101")  # as people did before there was retention
    query = "SELECT day, sum(calls), sum(errors), sum(latency_us_sum) FROM usage_rollups_day GROUP BY 1 ORDER BY 1"
    before = await connection.fetch(query)
    await migrate(empty_database)
    assert await connection.fetch(query) == before
    expected = {day.date(): 200 for day in DAYS[1:]}
    for table, column in (("usage_rollups_minute", "minute"), ("usage_rollups_hour", "hour")):
        rows = await connection.fetch(
            f"SELECT {column}::date AS day, sum(calls)::int AS calls FROM {table} GROUP BY 1"  # noqa: S608  names from above
        )
        assert {row["day"]: row["calls"] for row in rows} == expected, table
        # Made of the same calls, all three histograms are nearly one: those of days were halved among places.
        fine = int(await connection.fetchval(f"SELECT sum(latency_histogram) FROM {table}") or 0)  # noqa: S608  as above
        coarse = int(
            await connection.fetchval(
                "SELECT sum(latency_histogram) FROM usage_rollups_day WHERE day > $1", DAYS[0].date()
            )
            or 0
        )
        pairs = zip(calls_by_place(fine)[1:], calls_by_place(coarse)[1:], strict=True)
        differences = [one - other for one, other in pairs]
        assert all(differences[at] + differences[at + 1] == 0 for at in range(0, 78, 2)), differences
    assert {row["kind"]: row["kept_from"] for row in await connection.fetch("SELECT * FROM usage_retention")} == {
        kind: DAYS[1].date() for kind in ("events", "minutes", "hours")
    }
    await connection.close()


async def test_calls_that_are_written_meanwhile_are_rolled_up_once(empty_database: str) -> None:
    """A call that comes while the migration runs would be in the table and in no roll-up, or twice in one."""
    await migrate(empty_database, migrations=BEFORE)
    stop = asyncio.Event()
    begun = asyncio.Event()

    async def write() -> None:
        connection = await asyncpg.connect(empty_database)
        await connection.execute("SELECT usage_ensure_partition($1)", DAYS[0].date())
        while not stop.is_set():
            try:
                await connection.execute(_INSERT, DAYS[0])
            except asyncpg.CheckViolationError:  # a partition that is new: what the shipper does then
                await connection.execute("SELECT usage_ensure_partition($1)", DAYS[0].date())
            begun.set()
        await connection.close()

    async with asyncio.TaskGroup() as tasks:
        for _ in range(2):
            tasks.create_task(write())
        await begun.wait()
        await migrate(empty_database)
        await asyncio.sleep(0.1)
        stop.set()
    connection = await asyncpg.connect(empty_database)
    calls = [
        await connection.fetchval(f"SELECT sum(calls)::int FROM {table}")  # noqa: S608  names from above
        for table in ("usage_rollups_minute", "usage_rollups_hour", "usage_rollups_day")
    ]
    rows = await connection.fetchval("SELECT count(*) FROM usage_events")
    assert calls == [rows] * 3
    await connection.close()
