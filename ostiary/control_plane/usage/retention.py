"""How long usage is kept, and events. Partitions are dropped, not rows deleted: that costs the same however many calls were
in them. Events are few, and are deleted.

The books stay whole. What is taken is written down first (`usage_retention`): from which day on each kind is complete, and
how many calls went with roll-ups and ledger, so that `ostiary usage reconcile` still adds up."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

import asyncpg

from ostiary.control_plane.audit.commands import Deed
from ostiary.control_plane.db import Connection
from ostiary.control_plane.db.pool import CONNECT_ERRORS, CONNECT_SECONDS, unavailable
from ostiary.control_plane.http.access import Actor
from ostiary.core.usage import Retention

# Partitions are there this long before they are needed: a control plane that is away for a long week-end is not missed.
# Whoever writes a row makes its partition anyway, if need be.
AHEAD_DAYS = 7

# A segment may be delivered again as long as its file may lie in some spool: a gateway that was switched off between commit
# and removal, and is switched on later than this, would count it twice.
LEDGER_DAYS = 100

# Events are for who follows them. One that was away for longer looks at the things themselves.
EVENT_DAYS = 30

# Whoever drops waits no longer than this for readers; shippers and dashboards would stand in line behind it.
LOCK_WAIT = "3s"
STATEMENT_SECONDS = 300.0

# Any fixed number will do: the first 8 bytes of "ostiaryr".
_ADVISORY_LOCK = int.from_bytes(b"ostiaryr", "big")


@dataclass(frozen=True, slots=True)
class Kind:
    """One sort of usage and its partitioned table; `per_month` says that a partition is a month."""

    name: str
    table: str
    per_month: bool


EVENTS = Kind("events", "usage_events", per_month=False)
MINUTES = Kind("minutes", "usage_rollups_minute", per_month=False)
HOURS = Kind("hours", "usage_rollups_hour", per_month=True)
MINUTES_OF_ALL = Kind("minutes", "usage_rollups_all_minute", per_month=False)
HOURS_OF_ALL = Kind("hours", "usage_rollups_all_hour", per_month=True)


@dataclass(frozen=True, slots=True)
class Upkeep:
    """What was done, or would be: partitions dropped, roll-ups, entries of the ledger and events deleted."""

    dropped: tuple[str, ...]
    days_deleted: int
    segments_deleted: int
    events_deleted: int

    @property
    def something(self) -> bool:
        return bool(self.dropped or self.days_deleted or self.segments_deleted or self.events_deleted)


class RetentionBusy(Exception):
    """Another process is at it, or a reader holds a partition; the next hour does it."""


def kept_from(today: date, days: int | None) -> date | None:
    """The first day that is kept: today is one of `days`. None for ever."""
    return None if days is None else today - timedelta(days=days - 1)


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Connection]:
    """A connection of its own, with bounds that fit dropping. Raises DatabaseUnavailable."""
    try:
        connection = await asyncpg.connect(
            url,
            timeout=CONNECT_SECONDS,
            command_timeout=STATEMENT_SECONDS,
            server_settings={"application_name": "ostiary-retention", "lock_timeout": LOCK_WAIT, "TimeZone": "UTC"},
        )
    except CONNECT_ERRORS as error:
        raise unavailable(url, error) from error
    try:
        yield connection
    finally:
        await connection.close(timeout=CONNECT_SECONDS)


async def keep_up(
    connection: Connection, retention: Retention, *, today: date, by: Actor, dry_run: bool = False
) -> Upkeep:
    """Makes the partitions of the days to come and drops what is no longer kept. Safe to repeat, and to be killed anywhere.
    What was dropped is written into the audit log. Raises RetentionBusy, and asyncpg's errors."""
    # Guarantees that one process at a time drops; the lock ends with the connection.
    if not await connection.fetchval("SELECT pg_try_advisory_lock($1)", _ADVISORY_LOCK):
        raise RetentionBusy("another process is dropping old usage now")
    try:
        if not dry_run:
            for ahead in range(AHEAD_DAYS + 1):
                # Guarantees that rows of that day find their partitions.
                await connection.execute("SELECT usage_ensure_partition($1)", today + timedelta(days=ahead))
        # First, for the service's own role may do this, and not what follows.
        events = await _delete_events(connection, today - timedelta(days=EVENT_DAYS), dry_run)
        dropped: list[str] = []
        for kind, days in (
            (EVENTS, retention.events_days),
            (MINUTES, retention.minutes_days),
            (MINUTES_OF_ALL, retention.minutes_days),
            (HOURS, retention.hours_days),
            (HOURS_OF_ALL, retention.hours_days),
        ):
            if (first := kept_from(today, days)) is not None:
                dropped += await _drop(connection, kind, first.replace(day=1) if kind.per_month else first, dry_run)
        days_deleted = 0
        if (first := kept_from(today, retention.days_days)) is not None:
            days_deleted = await _delete_days(connection, first, dry_run)
        segments = await _delete_segments(connection, today - timedelta(days=LEDGER_DAYS), dry_run)
        done = Upkeep(tuple(dropped), days_deleted, segments, events)
        if done.something and not dry_run:
            gone = {
                "dropped": dropped,
                "days_deleted": days_deleted,
                "segments_deleted": segments,
                "events_deleted": events,
            }
            await Deed("dropUsage", resource="usage", by=by).note(connection, before=gone)
        return done
    except asyncpg.LockNotAvailableError as error:
        raise RetentionBusy(f"a reader has held a partition for over {LOCK_WAIT}") from error
    finally:
        if not connection.is_closed():
            await connection.execute("SELECT pg_advisory_unlock($1)", _ADVISORY_LOCK)


async def _drop(connection: Connection, kind: Kind, first: date, dry_run: bool) -> Sequence[str]:
    # Guarantees every partition of the table, and whether an earlier drop of it was cut short in the middle.
    rows = await connection.fetch(
        "SELECT c.relname::text AS name, i.inhdetachpending AS pending FROM pg_inherits i "
        "JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = $1::regclass ORDER BY 1",
        kind.table,
    )
    border = f"{kind.table}_{first:%Y%m}" if kind.per_month else f"{kind.table}_{first:%Y%m%d}"
    own = re.compile(rf"{kind.table}_[0-9]{{{6 if kind.per_month else 8}}}")
    old = {row["name"]: row["pending"] for row in rows if own.fullmatch(row["name"]) and row["name"] < border}
    if dry_run:
        return list(old)
    if old:
        await _remember(connection, kind.name, first)
    for name, pending in old.items():
        # Guarantees that readers and shippers of other partitions go on: without CONCURRENTLY they would all stand in line
        # behind this, for as long as the slowest reader takes.
        how = "FINALIZE" if pending else "CONCURRENTLY"
        await connection.execute(f"ALTER TABLE {kind.table} DETACH PARTITION {name} {how}")
        await connection.execute(f"DROP TABLE {name}")
    # Guarantees that what was cut short between the two is dropped too: a table of that name that belongs to nothing.
    lost = await connection.fetch(
        "SELECT relname::text AS name FROM pg_class WHERE relkind = 'r' AND NOT relispartition AND relname ~ $1 "
        "AND relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = $2::regclass) AND relname < $3",
        f"^{own.pattern}$",
        kind.table,
        border,
    )
    for row in lost:
        await connection.execute(f"DROP TABLE {row['name']}")
    return [*old, *(row["name"] for row in lost)]


async def _delete_days(connection: Connection, first: date, dry_run: bool) -> int:
    if dry_run:
        # Guarantees the number that would be deleted.
        return int(await connection.fetchval("SELECT count(*) FROM usage_rollups_day WHERE day < $1", first) or 0)
    deleted = await connection.fetchrow(
        """
        -- Guarantees that the calls of deleted roll-ups stand in usage_retention when they are gone: one statement.
        WITH of_all AS (DELETE FROM usage_rollups_all_day WHERE day < $1),
             gone AS (DELETE FROM usage_rollups_day WHERE day < $1 RETURNING calls),
             totals AS (SELECT count(*) AS rows, coalesce(sum(calls), 0)::bigint AS calls FROM gone),
             kept AS (
                 INSERT INTO usage_retention AS known (kind, kept_from, calls)
                 SELECT 'days', $1, calls FROM totals WHERE rows > 0
                 ON CONFLICT (kind) DO UPDATE SET
                     kept_from = greatest(known.kept_from, excluded.kept_from), calls = known.calls + excluded.calls
             )
        SELECT rows FROM totals
        """,
        first,
    )
    return 0 if deleted is None else int(deleted["rows"])


async def _delete_segments(connection: Connection, first: date, dry_run: bool) -> int:
    if dry_run:
        # Guarantees the number that would be deleted.
        counted = await connection.fetchval(
            "SELECT count(*) FROM usage_segments s JOIN usage_runs r USING (run_id) "
            "WHERE s.shipped_at < $1 AND r.ended_at < $1",
            first,
        )
        return int(counted or 0)
    deleted = await connection.fetchrow(
        """
        -- Guarantees that only the ledger of runs that are long over is forgotten, and that its records stay in the sum.
        WITH gone AS (
                 DELETE FROM usage_segments s USING usage_runs r
                 WHERE r.run_id = s.run_id AND s.shipped_at < $1 AND r.ended_at < $1 RETURNING s.records
             ),
             totals AS (SELECT count(*) AS rows, coalesce(sum(records), 0)::bigint AS records FROM gone),
             kept AS (
                 INSERT INTO usage_retention AS known (kind, kept_from, calls)
                 SELECT 'segments', $1, records FROM totals WHERE rows > 0
                 ON CONFLICT (kind) DO UPDATE SET
                     kept_from = greatest(known.kept_from, excluded.kept_from), calls = known.calls + excluded.calls
             )
        SELECT rows FROM totals
        """,
        first,
    )
    return 0 if deleted is None else int(deleted["rows"])


async def _delete_events(connection: Connection, first: date, dry_run: bool) -> int:
    # Guarantees that what is deleted is old, and that the last event stays: the next one's number follows it.
    old = "occurred_at < $1 AND number < (SELECT max(number) FROM event_outbox)"
    if dry_run:
        return int(await connection.fetchval(f"SELECT count(*) FROM event_outbox WHERE {old}", _midnight(first)) or 0)  # noqa: S608  a constant
    deleted = await connection.execute(f"DELETE FROM event_outbox WHERE {old}", _midnight(first))  # noqa: S608  a constant
    return int(deleted.rpartition(" ")[2])


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


async def _remember(connection: Connection, kind: str, first: date) -> None:
    await connection.execute(
        """
        -- Guarantees that nobody takes what is being dropped for complete; written before the first partition goes.
        INSERT INTO usage_retention AS known (kind, kept_from) VALUES ($1, $2)
        ON CONFLICT (kind) DO UPDATE SET kept_from = greatest(known.kept_from, excluded.kept_from)
        """,
        kind,
        first,
    )
