"""The proof that no call was lost and none counted twice: accepted = written + spooled + dropped + lost.

`accepted` and `dropped` are counted by the worker, in its run's file, apart from the records. `spooled` is counted by reading
every record of the spool and checking its sum. `written` is what the ledger took, held against the roll-ups and against the
rows themselves. `lost` is what the shipper declared unreadable. No number is derived from another.

It holds on a running gateway too. What moves is read in the order in which it moves: the counters, the spool, Postgres, the
counters again. So a call that is on its way is seen in the first place it is found, and never missed; and what was found must
lie between the counters before and after."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from datetime import date
from enum import StrEnum
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg

from ostiary.gateway.usage.directory import OPEN, QUARANTINE, SEALED, Contents, SegmentName, known_spool_id, look
from ostiary.gateway.usage.ledger import CONNECT_SECONDS
from ostiary.gateway.usage.record import request_id_of
from ostiary.gateway.usage.run import RunState, is_alive, read_run
from ostiary.gateway.usage.segment import DamagedFile, Segment, read_segment

_STATEMENT_SECONDS = 600.0  # counting every row of a large installation takes minutes
_ATTEMPTS_MAX = 5  # a run that ends while it is being counted makes the count void


class RunPlace(StrEnum):
    """Where the last word on a run's counts is."""

    LIVE = "live"  # its process is running, on this spool
    ENDING = "ending"  # over, with its file still in this spool
    ENDED = "ended"  # over, and all of it in Postgres
    ELSEWHERE = "elsewhere"  # on another gateway's spool: only there can it be proven
    VANISHED = "vanished"  # of this spool, not ended, and its file is gone: nobody can prove it


@dataclass(frozen=True, slots=True)
class RunBalance:
    """accepted + surplus = written + spooled + dropped + lost + missing. `missing` calls were accepted and are nowhere;
    `surplus` ones are somewhere and were not accepted. Either is a fault."""

    run_id: str
    worker: str
    place: RunPlace
    accepted: int
    written: int
    spooled: int
    dropped: int
    lost: int
    missing: int
    surplus: int

    @property
    def holds(self) -> bool:
        return self.missing == 0 and self.surplus == 0 and self.place is not RunPlace.VANISHED


@dataclass(frozen=True, slots=True)
class DayBalance:
    """A day on which the rows of `usage_events` and the calls of `usage_rollups_day` differ."""

    day: str
    rows: int
    rolled_up: int


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """`written_by_runs`, `written_by_segments` and `rolled_up` count the same rows, each kept on its own. `quarantined` are
    the names of files set aside."""

    runs: tuple[RunBalance, ...]
    quarantined: tuple[str, ...]
    written_by_runs: int
    written_by_segments: int
    rolled_up: int
    days: tuple[DayBalance, ...]

    @property
    def holds(self) -> bool:
        """Is everything accounted for?"""
        tables_agree = self.written_by_runs == self.written_by_segments == self.rolled_up and not self.days
        return tables_agree and all(run.holds for run in self.runs)

    def as_json(self) -> dict[str, Any]:
        return {"holds": self.holds, **asdict(self)}


@dataclass(frozen=True, slots=True)
class _Tables:
    """Postgres at one moment; `segments` are those asked for that stand in the ledger."""

    runs: dict[UUID, asyncpg.Record]
    segments: frozenset[UUID]
    written_by_runs: int
    written_by_segments: int
    rolled_up: int
    days: tuple[DayBalance, ...]


# All four guarantee numbers of one moment: they run in one repeatable-read transaction.
_RUNS = """
SELECT run_id, spool_id, worker, ended_at IS NOT NULL AS ended, killed, accepted, dropped, written, lost FROM usage_runs
"""
_SEGMENTS = "SELECT segment_id FROM usage_segments WHERE segment_id = ANY($1::uuid[])"
# What retention has deleted still counts: it wrote down how many calls went with it.
_TOTALS = """
WITH gone AS (SELECT kind, calls FROM usage_retention)
SELECT (SELECT coalesce(sum(written), 0) FROM usage_runs)::bigint AS by_runs,
       ((SELECT coalesce(sum(records), 0) FROM usage_segments)
        + coalesce((SELECT calls FROM gone WHERE kind = 'segments'), 0))::bigint AS by_segments,
       ((SELECT coalesce(sum(calls), 0) FROM usage_rollups_day)
        + coalesce((SELECT calls FROM gone WHERE kind = 'days'), 0))::bigint AS rolled_up
"""
# A day whose partition retention has dropped has roll-ups and no rows, rightly: it is left out; so is one whose partition
# came again with a late row.
_DAYS = """
WITH events AS (
    SELECT (occurred_at AT TIME ZONE 'UTC')::date AS day, count(*) AS rows FROM usage_events
    WHERE $1::date IS NULL OR occurred_at >= $1::timestamp AT TIME ZONE 'UTC' GROUP BY 1
), rollups AS (
    SELECT day, sum(calls)::bigint AS rolled_up FROM usage_rollups_day WHERE $1::date IS NULL OR day >= $1 GROUP BY 1
)
SELECT day, coalesce(rows, 0) AS rows, coalesce(rolled_up, 0) AS rolled_up FROM events FULL JOIN rollups USING (day)
WHERE coalesce(rows, 0) <> coalesce(rolled_up, 0)
  AND to_regclass('usage_events_' || to_char(day, 'YYYYMMDD')) IS NOT NULL
  AND day >= coalesce((SELECT max(kept_from) FROM usage_retention WHERE kind IN ('events', 'days')), '-infinity')
ORDER BY day
"""
_REQUESTS = "SELECT request_id, count(*) AS calls FROM usage_events GROUP BY request_id"


async def reconcile(directory: Path, postgres_url: str, *, since: date | None = None) -> Reconciliation:
    """Holds the spool in `directory` against Postgres, and changes neither. `since` bounds the days whose rows are counted
    one by one; all else is compared whole. Raises OSError, TimeoutError and asyncpg's errors."""
    for _ in range(_ATTEMPTS_MAX):
        before = _states(look(directory))
        contents = look(directory)
        spooled = _read_spool(directory, contents, before)
        tables = await _read_tables(postgres_url, list(spooled), since)
        after = _states(look(directory))
        if before.keys() <= after.keys():
            break
    in_spool: Counter[UUID] = Counter()
    for segment_id, (run_id, segment) in spooled.items():
        if segment is not None and segment_id not in tables.segments:
            in_spool[run_id] += len(segment.records)
    ours = known_spool_id(directory)
    return Reconciliation(
        tuple(
            _balance(run_id, ours, before.get(run_id), after.get(run_id), tables.runs.get(run_id), in_spool[run_id])
            for run_id in sorted(before.keys() | tables.runs.keys() | in_spool.keys())
        ),
        tuple(name.path(directory).name for name in contents.segments if name.state == QUARANTINE),
        tables.written_by_runs,
        tables.written_by_segments,
        tables.rolled_up,
        tables.days,
    )


async def count_by_request_id(directory: Path, postgres_url: str) -> Counter[str]:
    """How often each request id stands in Postgres or in the spool: held against the log of an origin, it shows every call
    that was lost or counted twice. It holds all ids in memory: for tests and incidents. Raises as `reconcile` does."""
    contents = look(directory)
    spooled = _read_spool(directory, contents, _states(contents))
    connection = await _connect(postgres_url)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            counts = Counter({row["request_id"]: row["calls"] for row in await connection.fetch(_REQUESTS)})
            written = {row["segment_id"] for row in await connection.fetch(_SEGMENTS, list(spooled))}
    finally:
        await connection.close(timeout=CONNECT_SECONDS)
    for segment_id, (_, segment) in spooled.items():
        if segment is not None and segment_id not in written:
            counts.update(request_id_of(record) for record in segment.records)
    return counts


def spooled_by_request_id(directory: Path) -> Counter[str]:
    """The same of the spool alone, what has been set aside included. Raises OSError."""
    contents = look(directory)
    counts: Counter[str] = Counter()
    for _, segment in _read_spool(directory, contents, _states(contents)).values():
        if segment is not None:
            counts.update(request_id_of(record) for record in segment.records)
    return counts


def _states(contents: Contents) -> dict[UUID, tuple[RunState, bool]]:
    """Each run's counts, and whether its process lives; a file that can't be read proves nothing and is left out."""
    states = {}
    for run_id, path in contents.runs.items():
        try:
            states[run_id] = (read_run(path), is_alive(path))
        except (DamagedFile, FileNotFoundError):
            continue
    return states


def _read_spool(
    directory: Path, contents: Contents, states: dict[UUID, tuple[RunState, bool]]
) -> dict[UUID, tuple[UUID, Segment | None]]:
    """Segment id: run id and records, None for what can't be read. A segment that has gone since was written, and stands in
    the ledger."""
    found: dict[UUID, tuple[UUID, Segment | None]] = {}
    for name in contents.segments:
        run, alive = states.get(name.run_id, (None, False))
        stored = run.accepted - run.dropped if run is not None and not alive else None
        try:
            segment = _read_wherever(name, directory, stored)
        except (DamagedFile, FileNotFoundError):
            segment = None
        found[name.segment_id] = (name.run_id, segment)
    return found


def _read_wherever(name: SegmentName, directory: Path, stored_by_run: int | None) -> Segment | None:
    """A segment is renamed as it is sealed or set aside; it is looked for under all the names it may have got."""
    path = name.path(directory)
    for suffix in (OPEN, SEALED, QUARANTINE):
        try:
            return read_segment(path.with_suffix(suffix), stored_by_run)
        except FileNotFoundError:
            continue
    raise FileNotFoundError(path)


async def _connect(postgres_url: str) -> asyncpg.Connection[asyncpg.Record]:
    return await asyncpg.connect(
        postgres_url,
        timeout=CONNECT_SECONDS,
        command_timeout=_STATEMENT_SECONDS,
        server_settings={"application_name": "ostiary-reconcile", "TimeZone": "UTC"},
    )


async def _read_tables(postgres_url: str, segments: list[UUID], since: date | None) -> _Tables:
    connection = await _connect(postgres_url)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            runs = {row["run_id"]: row for row in await connection.fetch(_RUNS)}
            known = frozenset(row["segment_id"] for row in await connection.fetch(_SEGMENTS, segments))
            totals = await connection.fetchrow(_TOTALS)
            days = await connection.fetch(_DAYS, since)
    finally:
        await connection.close(timeout=CONNECT_SECONDS)
    assert totals is not None  # noqa: S101  a SELECT without FROM has one row
    return _Tables(
        runs,
        known,
        totals["by_runs"],
        totals["by_segments"],
        totals["rolled_up"],
        tuple(DayBalance(str(row["day"]), row["rows"], row["rolled_up"]) for row in days),
    )


def _balance(
    run_id: UUID,
    ours: UUID | None,
    before: tuple[RunState, bool] | None,
    after: tuple[RunState, bool] | None,
    row: asyncpg.Record | None,
    spooled: int,
) -> RunBalance:
    written, lost = (row["written"], row["lost"]) if row is not None else (0, 0)
    if before is not None:
        first, last = before[0], (after or before)[0]
        place = RunPlace.LIVE if before[1] else RunPlace.ENDING
        worker, dropped, exact = first.worker, last.dropped, first.closed
        least, most = first.accepted - first.dropped, last.accepted - last.dropped
    elif row is not None:
        worker, dropped, exact = row["worker"], row["dropped"], not row["killed"]
        least = most = row["accepted"] - row["dropped"]
        unfinished = RunPlace.VANISHED if row["spool_id"] == ours else RunPlace.ELSEWHERE
        place = RunPlace.ENDED if row["ended"] else unfinished
    else:
        worker, dropped, exact, least, most, place = "?", 0, True, 0, 0, RunPlace.VANISHED
    if place is RunPlace.ELSEWHERE:
        least, most = 0, max(most, written + lost)
    if not exact:
        most += 1  # a record is there an instant before it is counted, and a kill may fall between
    found = written + spooled + lost
    stored = min(max(found, least), most)
    return RunBalance(
        str(run_id),
        worker,
        place,
        accepted=stored + dropped,
        written=written,
        spooled=spooled,
        dropped=dropped,
        lost=lost,
        missing=stored - found if stored > found else 0,
        surplus=found - stored if found > stored else 0,
    )
