"""Retention: what is old goes, the books still add up, and nobody waits."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest
from click.testing import CliRunner

from ostiary.cli.main import main
from ostiary.control_plane.audit.commands import by_command
from ostiary.control_plane.db import Connection
from ostiary.control_plane.usage.retention import AHEAD_DAYS, RetentionBusy, connected, keep_up
from ostiary.control_plane.usage.upkeep import run_upkeep
from ostiary.core.usage import Retention
from ostiary.gateway.usage.postgres_sink import PostgresSink
from ostiary.gateway.usage.reconcile import reconcile
from ostiary.gateway.usage.shipper import Shipper
from tests.gateway.usage.calls import Observed, call, open_spool, until

TODAY = date(2026, 6, 15)
KEPT = Retention(events_days=30, minutes_days=3, hours_days=90, days_days=365)


@pytest.fixture
async def other(database: str) -> AsyncIterator[Connection]:
    """A second connection: a reader, or another control plane."""
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


async def _ship(directory: Path, database: str, *days: date) -> None:
    """Calls of these days, three of each, from the spool of a gateway that has ended."""
    spool = open_spool(directory)
    for day in days:
        for number in range(3):
            noon = datetime(day.year, day.month, day.day, 12, tzinfo=UTC).timestamp()
            spool.append(call(f"{day}-{number}", occurred_at=noon))
    spool.close()
    shipper = Shipper(directory=directory, sink=PostgresSink(database), observe=Observed())
    await shipper.ship()
    await shipper.close()


async def _partitions(connection: Connection) -> dict[str, list[str]]:
    rows = await connection.fetch(
        "SELECT inhparent::regclass::text AS parent, inhrelid::regclass::text AS name FROM pg_inherits "
        "JOIN pg_class ON oid = inhrelid WHERE relkind = 'r' ORDER BY 2"
    )
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(row["parent"], []).append(row["name"].removeprefix(row["parent"] + "_"))
    return found


async def test_partitions_are_there_before_they_are_needed(connection: Connection) -> None:
    """Row 92: month change. Without it: the first calls of a day wait for tables, in every gateway at once."""
    await keep_up(connection, KEPT, today=date(2026, 6, 28), by=by_command())
    days = [f"{date(2026, 6, 28) + timedelta(days=ahead):%Y%m%d}" for ahead in range(AHEAD_DAYS + 1)]
    assert await _partitions(connection) == {
        "usage_events": days,
        "usage_rollups_minute": days,
        "usage_rollups_all_minute": days,
        "usage_rollups_hour": ["202606", "202607"],
        "usage_rollups_all_hour": ["202606", "202607"],
    }


async def test_what_is_old_goes_and_the_books_still_balance(
    connection: Connection, database: str, tmp_path: Path
) -> None:
    """Without it: a disk that fills for ever; or a proof that cries wolf from the first day that retention takes."""
    first_kept = TODAY - timedelta(days=29)
    days = (date(2020, 1, 1), date(2025, 6, 1), date(2026, 2, 1), first_kept - timedelta(days=1), first_kept, TODAY)
    await _ship(tmp_path / "spool", database, *days)
    await connection.execute("UPDATE usage_segments SET shipped_at = '2020-01-01'")
    await connection.execute("UPDATE usage_runs SET ended_at = '2020-01-01'")
    would = await keep_up(connection, KEPT, today=TODAY, by=by_command(), dry_run=True)
    assert await connection.fetchval("SELECT count(*) FROM usage_events") == 18
    done = await keep_up(connection, KEPT, today=TODAY, by=by_command())
    assert done == would
    assert (done.days_deleted, done.segments_deleted) == (2, 1)
    events, minutes, hours, kept_days = [
        await connection.fetchval(query)
        for query in (
            "SELECT min(occurred_at)::date FROM usage_events",
            "SELECT min(minute)::date FROM usage_rollups_minute",
            "SELECT min(hour)::date FROM usage_rollups_hour",
            "SELECT min(day) FROM usage_rollups_day",
        )
    ]
    of_all = await connection.fetchrow(
        "SELECT (SELECT min(minute)::date FROM usage_rollups_all_minute), (SELECT min(hour)::date FROM "
        "usage_rollups_all_hour), (SELECT min(day) FROM usage_rollups_all_day)"
    )
    assert of_all is not None
    assert tuple(of_all) == (minutes, hours, kept_days)
    assert (events, minutes, hours, kept_days) == (first_kept, TODAY, first_kept - timedelta(days=1), date(2026, 2, 1))
    result = await reconcile(tmp_path / "spool", database)
    assert result.holds, result
    assert result.written_by_segments == result.rolled_up == 18
    assert (await keep_up(connection, KEPT, today=TODAY, by=by_command())).dropped == ()
    told = await connection.fetch("SELECT operation, actor, before FROM audit_log")
    assert [(row["operation"], row["actor"]) for row in told] == [("dropUsage", "command")], "once, and not for nothing"
    assert json.loads(told[0]["before"]) == {
        "dropped": list(done.dropped),
        "days_deleted": done.days_deleted,
        "segments_deleted": done.segments_deleted,
        "events_deleted": done.events_deleted,
    }


async def test_a_late_row_of_a_dropped_day_is_written_and_goes_again(
    connection: Connection, database: str, tmp_path: Path
) -> None:
    """Row 92: a gateway that was away for longer than events are kept. Its call is billed, and nothing else is disturbed."""
    old = TODAY - timedelta(days=60)
    await _ship(tmp_path / "spool", database, old)
    await keep_up(connection, KEPT, today=TODAY, by=by_command())
    await _ship(tmp_path / "spool", database, old)
    assert await connection.fetchval("SELECT count(*) FROM usage_events") == 3
    assert await connection.fetchval("SELECT calls FROM usage_rollups_day") == 6
    assert (await reconcile(tmp_path / "spool", database)).holds
    assert (await keep_up(connection, KEPT, today=TODAY, by=by_command())).dropped
    assert await connection.fetchval("SELECT count(*) FROM usage_events") == 0


async def test_a_drop_that_was_cut_short_is_finished(connection: Connection, database: str, tmp_path: Path) -> None:
    """Without it: a partition that is neither there nor gone, and a retention that fails on it for ever."""
    detached, pending = TODAY - timedelta(days=60), TODAY - timedelta(days=61)
    await _ship(tmp_path / "spool", database, detached, pending)
    await connection.execute(f"ALTER TABLE usage_events DETACH PARTITION usage_events_{detached:%Y%m%d}")
    reader = await asyncpg.connect(database)
    await reader.execute("BEGIN; SELECT count(*) FROM usage_events")
    await connection.execute("SET lock_timeout = '50ms'")
    with pytest.raises(RetentionBusy, match="a reader"):
        await keep_up(connection, KEPT, today=TODAY, by=by_command())
    await reader.close()
    await keep_up(connection, KEPT, today=TODAY, by=by_command())
    found = await connection.fetchval("SELECT count(*) FROM pg_class WHERE relname ~ '^usage_events_20260[1-5]..$'")
    assert found == 0


async def test_two_at_once_are_one(connection: Connection, other: Connection) -> None:
    """Without it: two control planes drop the same partition, and one of them fails every hour."""
    await other.execute("SELECT pg_advisory_lock($1)", int.from_bytes(b"ostiaryr", "big"))
    with pytest.raises(RetentionBusy, match="another process"):
        await keep_up(connection, KEPT, today=TODAY, by=by_command())


async def test_a_shipper_goes_on_while_a_reader_holds_what_is_dropped(
    connection: Connection, other: Connection, database: str, tmp_path: Path
) -> None:
    """Without it: a long report and retention together stop all metering until the report ends."""
    old = TODAY - timedelta(days=60)
    await _ship(tmp_path / "spool", database, old)
    await other.execute("BEGIN; SELECT count(*) FROM usage_events")
    await connection.execute("SET lock_timeout = '2s'")
    dropping = asyncio.create_task(keep_up(connection, KEPT, today=TODAY, by=by_command()))
    await asyncio.sleep(0)
    await asyncio.wait_for(_ship(tmp_path / "spool", database, TODAY), 1.5)
    with pytest.raises(RetentionBusy):
        await dropping


async def test_the_control_plane_does_it_by_itself(connection: Connection, database: str, tmp_path: Path) -> None:
    """Without it: retention that is configured, and never happens."""
    await _ship(tmp_path / "spool", database, date(2020, 1, 1))
    upkeep = asyncio.create_task(run_upkeep(database, KEPT, first_seconds=0))

    async def gone() -> bool:
        return not await connection.fetchval("SELECT count(*) FROM usage_events")

    await until(gone, "what is old is dropped")
    upkeep.cancel()
    await asyncio.wait({upkeep})


async def test_upkeep_outlives_a_postgres_that_is_away(caplog: pytest.LogCaptureFixture) -> None:
    """Without it: one bad moment, and nothing is dropped until the next restart."""
    upkeep = asyncio.create_task(run_upkeep("postgresql://127.0.0.1:1/nothing", KEPT, first_seconds=0))

    async def told() -> bool:
        return "usage_retention_failed" in caplog.messages

    await until(told, "the failure is logged")
    assert not upkeep.done()
    upkeep.cancel()
    await asyncio.wait({upkeep})


def test_the_command_says_what_it_would_do_and_does_it(database: str, tmp_path: Path) -> None:
    """Without it: an operator who can't see what a change of `usage.retention` will delete."""
    asyncio.run(_ship(tmp_path / "spool", database, date(2020, 1, 1)))
    config = tmp_path / "gateway.yaml"
    config.write_text(
        f"version: 1\nroutes: []\nstores: {{postgres: '{database}'}}\nusage: {{retention: {{events: 30d}}}}\n"
    )
    would = CliRunner().invoke(main, ["usage", "retention", "-c", str(config), "--dry-run"])
    assert would.output.splitlines() == [
        "would drop usage_events_20200101",
        "would drop usage_rollups_minute_20200101",
        "would drop usage_rollups_all_minute_20200101",
        "would drop usage_rollups_hour_202001",
        "would drop usage_rollups_all_hour_202001",
    ]
    done = CliRunner().invoke(main, ["usage", "retention", "-c", str(config), "--json"])
    assert json.loads(done.output)["dropped"] == [line.split()[-1] for line in would.output.splitlines()]
    again = CliRunner().invoke(main, ["usage", "retention", "-c", str(config)])
    assert (again.exit_code, again.output) == (0, "nothing to do: all that is there is kept\n")


async def test_connecting_has_its_bounds(database: str) -> None:
    """Without it: a retention that waits for a reader, and everyone behind it."""
    async with connected(database) as connection:
        assert await connection.fetchval("SHOW lock_timeout") == "3s"
