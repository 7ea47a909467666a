"""Migration 0008 on a database with usage in it: nothing is lost, and what was there can be asked for as what comes."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import asyncpg

from ostiary.control_plane.db import migrate
from ostiary.control_plane.db.schema import read_migrations
from ostiary.control_plane.usage.histogram import calls_by_place
from ostiary.gateway.usage import caller_part, told_part
from ostiary.gateway.usage.postgres_sink import PostgresSink
from ostiary.gateway.usage.record import COLUMNS_OF
from ostiary.gateway.usage.shipper import Shipper
from tests.gateway.usage.calls import Observed, call, open_spool

TABLES = tuple(f"usage_rollups_{unit}" for unit in ("minute", "hour", "day", "all_minute", "all_hour", "all_day"))
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

# As the shipper of the migration before this one wrote: with what keys and limits had to tell.
_INSERT_TOLD = """
INSERT INTO usage_events (occurred_at, request_id, method, status, latency_us, bytes_in, bytes_out, overage, complete, key_id,
    key_generation, route, would_refuse, quota_reached)
SELECT $1::timestamptz + number * interval '1 second', 'req-' || number, 'GET', 200, 500, 1, 2, false, true, 'ak_of_before',
    1 + number % 2, 'clients', CASE WHEN number % 3 = 0 THEN 'standard:minute,minute-by-ip' END,
    CASE WHEN number = 20 THEN $2::jsonb END
FROM generate_series(1, 20) AS number
"""
QUOTA: dict[str, str | int] = {
    "subject": "k:before",
    "quota": "standard:day",
    "period_ends_us": 1_782_950_400_000_000,
    "percent": 90,
    "calls_max": 9,
}


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
    of_all = "SELECT day, sum(calls), NULL, sum(latency_us_sum) FROM usage_rollups_all_day GROUP BY 1 ORDER BY 1"
    assert [(row[0], row[1], row[3]) for row in await connection.fetch(of_all)] == [
        (row[0], row[1], row[3]) for row in before
    ]
    for table, column in (
        *(("usage_rollups_minute", "minute"), ("usage_rollups_hour", "hour")),
        *(("usage_rollups_all_minute", "minute"), ("usage_rollups_all_hour", "hour")),
    ):
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
        for table in TABLES
    ]
    rows = await connection.fetchval("SELECT count(*) FROM usage_events")
    assert calls == [rows] * len(TABLES)
    await connection.close()


async def test_what_rows_of_before_tell_of_keys_and_limits_stays(empty_database: str) -> None:
    """An upgrade would forget what limits in shadow would have refused, when secrets were last used and who was told of a
    quota; or would tell it all again."""
    await migrate(empty_database, migrations=BEFORE)
    connection = await asyncpg.connect(empty_database)
    for day in DAYS:
        await connection.execute("SELECT usage_ensure_partition($1)", day.date())
        await connection.execute(_INSERT_TOLD, day, json.dumps([QUOTA]))
    queries = (
        "SELECT request_id, occurred_at, key_generation, would_refuse, quota_reached FROM usage_events ORDER BY 1, 2",
        "SELECT * FROM key_uses ORDER BY key_id, generation",
        "SELECT * FROM quota_events ORDER BY subject, quota, period_ends, threshold",
    )
    before = [await connection.fetch(query) for query in queries]
    assert [len(rows) for rows in before] == [60, 2, 3]
    await migrate(empty_database)
    assert [await connection.fetch(query) for query in queries] == before
    await connection.close()


async def test_roll_ups_of_before_and_gateways_of_before_go_on(empty_database: str, tmp_path: Path) -> None:
    """Migrations 0018 and 0019, with the next one in force already. An upgrade would count calls twice, or not those of a
    gateway that is upgraded later and names the table, not the partition."""
    since = ("0018_usage_in_one_pass", "0019_usage_by_request")
    await migrate(empty_database, migrations=[each for each in read_migrations() if each.name not in since])
    connection = await asyncpg.connect(empty_database)
    await connection.execute("SELECT usage_ensure_partition($1)", DAYS[0].date())
    await connection.execute(_INSERT_TOLD, DAYS[0], json.dumps([QUOTA]))
    told = await connection.fetch("SELECT * FROM quota_events ORDER BY threshold")
    assert await migrate(empty_database) == list(since)
    await connection.execute(_INSERT_TOLD, DAYS[0] + timedelta(hours=1), json.dumps([QUOTA]))  # one of before
    spool = open_spool(tmp_path)
    for number in range(20):
        moment = DAYS[0].timestamp() + 7200 + number
        spool.append(call(f"new-{number}", caller=caller_part("ak_new", None, None, None, 1), occurred_at=moment))
    spool.close()
    shipper = Shipper(directory=tmp_path, sink=PostgresSink(empty_database), observe=Observed())
    assert await shipper.ship() == 20
    await shipper.close()
    for table in TABLES:
        assert await connection.fetchval(f"SELECT sum(calls)::int FROM {table}") == 60, table  # noqa: S608  names from above
    uses = await connection.fetch("SELECT key_id, max(last_used_at) FROM key_uses GROUP BY 1 ORDER BY 1")
    assert [tuple(row) for row in uses] == [
        ("ak_new", DAYS[0] + timedelta(seconds=7219)),
        ("ak_of_before", DAYS[0] + timedelta(seconds=3620)),
    ]
    assert await connection.fetch("SELECT * FROM quota_events ORDER BY threshold") == told
    for name, count in (("req-7", 2), ("new-7", 1)):
        assert await connection.fetchval("SELECT count(*) FROM usage_events WHERE request_id = $1", name) == count
    await connection.close()


async def test_what_comes_after_it_reaches_every_table(empty_database: str, tmp_path: Path) -> None:
    """A partition that is made later, for a late day too, would take calls without the triggers of the table: rolled up by
    none, billed by none, with keys that nobody seems to use."""
    await migrate(empty_database, migrations=BEFORE)
    connection = await asyncpg.connect(empty_database)
    await connection.execute("SELECT usage_ensure_partition($1)", DAYS[0].date())
    await connection.execute(_INSERT_TOLD, DAYS[0], json.dumps([QUOTA]))
    await migrate(empty_database)
    # Of a day that had a partition before, of one that was never written to, of one that retention has taken, of now.
    moments = [DAYS[0], DAYS[0] - timedelta(days=400), DAYS[2], datetime.now(UTC).replace(microsecond=0)]
    await connection.execute("SELECT usage_ensure_partition($1)", DAYS[2].date())
    await connection.execute(
        "DROP TABLE usage_events_20260131, usage_rollups_minute_20260131, usage_rollups_all_minute_20260131"
    )
    await connection.execute("INSERT INTO usage_retention (kind, kept_from) VALUES ('events', current_date)")
    spool = open_spool(tmp_path)
    for number, moment in enumerate(moments):
        quota = {**QUOTA, "subject": f"k:ak_{number}", "percent": 80}
        told = told_part(["standard:minute"], [quota])
        caller = caller_part(f"ak_{number}", None, None, "live", 2)
        spool.append(call(f"new-{number}", caller=caller, occurred_at=moment.timestamp(), told=told))
    spool.close()
    observed = Observed()
    shipper = Shipper(directory=tmp_path, sink=PostgresSink(empty_database), observe=observed)
    assert await shipper.ship() == len(moments)
    await shipper.close()
    assert observed.quarantines == 0
    uses = await connection.fetch(
        "SELECT key_id, last_used_at, last_used_ip, last_used_user_agent FROM key_uses WHERE key_id <> 'ak_of_before' "
        "AND generation = 2 ORDER BY key_id"
    )
    assert [tuple(row) for row in uses] == [
        (f"ak_{number}", moment, ip_address("192.0.2.7"), "curl/8.5.0") for number, moment in enumerate(moments)
    ]
    told_of = await connection.fetch(
        "SELECT subject, threshold FROM quota_events WHERE subject LIKE 'k:ak\\_%' ORDER BY 1, 2"
    )
    assert [tuple(row) for row in told_of] == [(f"k:ak_{number}", share) for number in range(4) for share in (50, 80)]
    marked = await connection.fetch(
        "SELECT request_id FROM usage_events WHERE would_refuse = 'standard:minute' ORDER BY 1"
    )
    assert [row[0] for row in marked if row[0].startswith("new")] == [f"new-{number}" for number in range(4)]
    for table in ("usage_rollups_minute", "usage_rollups_hour", "usage_rollups_day"):
        calls = await connection.fetchval(
            f"SELECT sum(calls)::int FROM {table} WHERE key_id = ANY($1)",  # noqa: S608  names from above
            [f"ak_{number}" for number in range(4)],
        )
        assert calls == len(moments), table
    await connection.close()
