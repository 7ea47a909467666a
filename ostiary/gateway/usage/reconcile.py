"""The proof that no call was lost and none counted twice: accepted = written + spooled + streamed + dropped + lost.

`accepted` and `dropped` are counted by the worker, in its run's file, apart from the records. `spooled` is counted by reading
every record of the spool and checking its sum. `streamed` is what the stream holds, if there is one, by its subjects.
`written` is what the ledger took, held against the roll-ups and against the
rows themselves. `lost` is what the shipper declared unreadable. No number is derived from another.

It holds on a running gateway too. What moves is read in the order in which it moves: the counters, the spool, the stream,
Postgres, the counters again. So a call that is on its way is seen in the first place it is found, and never missed; and
what was found must lie between the counters before and after."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import date
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeAlias
from uuid import UUID

import asyncpg

from ostiary.core.usage import NatsStream
from ostiary.gateway.usage.directory import OPEN, QUARANTINE, SEALED, Contents, SegmentName, known_spool_id, look
from ostiary.gateway.usage.ledger import CONNECT_SECONDS
from ostiary.gateway.usage.record import request_id_of
from ostiary.gateway.usage.run import RunState, is_alive, read_run
from ostiary.gateway.usage.segment import DamagedFile, Segment, read_segment
from ostiary.gateway.usage.stream.contents import StreamContents, read_contents
from ostiary.gateway.usage.stream.message import EndedName

_STATEMENT_SECONDS = 600.0  # counting every row of a large installation takes minutes
_ATTEMPTS_MAX = 5  # a run that ends while it is being counted makes the count void


class RunPlace(StrEnum):
    """Where the last word on a run's counts is."""

    LIVE = "live"  # its process is running, on this spool
    ENDING = "ending"  # over, with its file still in this spool
    STREAMED = "streamed"  # over, with its last word still in the stream
    ENDED = "ended"  # over, and all of it in Postgres
    ELSEWHERE = "elsewhere"  # on another gateway's spool: only there can it be proven
    VANISHED = "vanished"  # of this spool, not ended, and its file is gone: nobody can prove it


@dataclass(frozen=True, slots=True)
class RunBalance:
    """accepted + surplus = written + spooled + streamed + dropped + lost + missing. `missing` calls were accepted and are
    nowhere; `surplus` ones are somewhere and were not accepted. Either is a fault."""

    run_id: str
    worker: str
    place: RunPlace
    accepted: int
    written: int
    spooled: int
    streamed: int
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
class StreamBalance:
    """The stream, all spools of all gateways together. `calls` are not in Postgres yet; `in_work` messages have been
    delivered and not been acknowledged, `redelivered` ones more than once."""

    name: str
    messages: int
    bytes: int
    calls: int
    in_work: int
    redelivered: int


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """`written_by_runs`, `written_by_segments` and `rolled_up` count the same rows, each kept on its own. `quarantined` are
    the names of files set aside. `stream` is what the stream held, if there is one."""

    runs: tuple[RunBalance, ...]
    quarantined: tuple[str, ...]
    written_by_runs: int
    written_by_segments: int
    rolled_up: int
    days: tuple[DayBalance, ...]
    stream: StreamBalance | None = None

    @property
    def holds(self) -> bool:
        """Is everything accounted for?"""
        tables_agree = self.written_by_runs == self.written_by_segments == self.rolled_up and not self.days
        return tables_agree and all(run.holds for run in self.runs)

    def as_json(self) -> dict[str, Any]:
        return {"holds": self.holds, **asdict(self)}


_Range: TypeAlias = "tuple[int | None, int | None]"  # bytes of a segment's file; None: however far it goes


@dataclass(frozen=True, slots=True)
class _Tables:
    """Postgres at one moment; `taken` are the bytes that the ledger has of those segments asked for that stand there."""

    runs: dict[UUID, asyncpg.Record]
    taken: dict[UUID, list[_Range]]
    written_by_runs: int
    written_by_segments: int
    rolled_up: int
    days: tuple[DayBalance, ...]


# All four guarantee numbers of one moment: they run in one repeatable-read transaction.
_RUNS = """
SELECT run_id, spool_id, worker, ended_at IS NOT NULL AS ended, killed, accepted, dropped, written, lost FROM usage_runs
"""
_TAKEN = """
SELECT segment_id, lower(part) AS first, upper(part) AS until FROM usage_segments, unnest(taken) AS part
WHERE segment_id = ANY($1::uuid[])
"""
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


async def reconcile(
    directory: Path, postgres_url: str, *, since: date | None = None, stream: NatsStream | None = None
) -> Reconciliation:
    """Holds the spool in `directory`, and `stream` if there is one, against Postgres, and changes none. `since` bounds the
    days whose rows are counted one by one; all else is compared whole. Raises OSError, TimeoutError and asyncpg's errors;
    of the stream SinkFailed and ClientMissing."""
    held: StreamContents | None = None
    for _ in range(_ATTEMPTS_MAX):
        before = _states(look(directory))
        contents = look(directory)
        spooled = _read_spool(directory, contents, before)
        if stream is not None:
            held = await read_contents(stream)
        in_stream = held.portions if held is not None else ()
        tables = await _read_tables(postgres_url, [*spooled, *(name.segment_id for name in in_stream)], since)
        after = _states(look(directory))
        if before.keys() <= after.keys():
            break
    # A portion may be in all three at once: written and not acknowledged, published and its file not yet deleted.
    elsewhere = {segment_id: list(ranges) for segment_id, ranges in tables.taken.items()}
    streamed: Counter[UUID] = Counter()
    for name in in_stream:
        if not _within(name.first, elsewhere.setdefault(name.segment_id, [])):
            streamed[name.run_id] += name.records + name.lost
        elsewhere[name.segment_id].append((name.first, name.until))
    in_spool: Counter[UUID] = Counter()
    for segment_id, (run_id, segment) in spooled.items():
        if segment is not None:
            in_spool[run_id] += len(_left(segment, elsewhere.get(segment_id, [])))
    ours = known_spool_id(directory)
    ended = held.ended if held is not None else {}
    spools = {name.run_id: name.spool_id for name in in_stream}
    spools |= {run_id: name.spool_id for run_id, name in ended.items()}
    runs = before.keys() | tables.runs.keys() | in_spool.keys() | spools.keys()
    return Reconciliation(
        tuple(
            _balance(
                run_id,
                before.get(run_id),
                after.get(run_id),
                tables.runs.get(run_id),
                _Waiting(in_spool[run_id], streamed[run_id], spools.get(run_id), ended.get(run_id)),
                ours,
            )
            for run_id in sorted(runs)
        ),
        tuple(name.path(directory).name for name in contents.segments if name.state == QUARANTINE),
        tables.written_by_runs,
        tables.written_by_segments,
        tables.rolled_up,
        tables.days,
        None if held is None or stream is None else _stream_balance(stream, held, streamed.total()),
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
            taken = _ranges(await connection.fetch(_TAKEN, list(spooled)))
    finally:
        await connection.close(timeout=CONNECT_SECONDS)
    for segment_id, (_, segment) in spooled.items():
        if segment is not None:
            counts.update(request_id_of(record) for record in _left(segment, taken.get(segment_id, [])))
    return counts


def spooled_by_request_id(directory: Path) -> Counter[str]:
    """The same of the spool alone, what has been set aside included. Raises OSError."""
    contents = look(directory)
    counts: Counter[str] = Counter()
    for _, segment in _read_spool(directory, contents, _states(contents)).values():
        if segment is not None:
            counts.update(request_id_of(record) for record in segment.records)
    return counts


def _ranges(rows: Iterable[asyncpg.Record]) -> dict[UUID, list[_Range]]:
    ranges: dict[UUID, list[_Range]] = {}
    for row in rows:
        ranges.setdefault(row["segment_id"], []).append((row["first"], row["until"]))
    return ranges


def _within(at: int, ranges: list[_Range]) -> bool:
    return any((first is None or first <= at) and (until is None or at < until) for first, until in ranges)


def _left(segment: Segment, elsewhere: list[_Range]) -> list[bytes]:
    """The records of a segment that are nowhere else."""
    if not elsewhere:
        return segment.records
    return [record for record, at in zip(segment.records, segment.offsets, strict=True) if not _within(at, elsewhere)]


def _stream_balance(stream: NatsStream, held: StreamContents, calls: int) -> StreamBalance:
    return StreamBalance(stream.stream, held.messages, held.bytes, calls, held.in_work, held.redelivered)


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
        stored = run.stored if run is not None and not alive else None
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
            taken = _ranges(await connection.fetch(_TAKEN, segments))
            totals = await connection.fetchrow(_TOTALS)
            days = await connection.fetch(_DAYS, since)
    finally:
        await connection.close(timeout=CONNECT_SECONDS)
    assert totals is not None  # noqa: S101  a SELECT without FROM has one row
    return _Tables(
        runs,
        taken,
        totals["by_runs"],
        totals["by_segments"],
        totals["rolled_up"],
        tuple(DayBalance(str(row["day"]), row["rows"], row["rolled_up"]) for row in days),
    )


@dataclass(frozen=True, slots=True)
class _Waiting:
    """What of a run has not come to Postgres; what the stream knows of it: whose spool it is of, and its last word."""

    spooled: int
    streamed: int
    spool_id: UUID | None
    ended: EndedName | None


def _balance(
    run_id: UUID,
    before: tuple[RunState, bool] | None,
    after: tuple[RunState, bool] | None,
    row: asyncpg.Record | None,
    waiting: _Waiting,
    ours: UUID | None,
) -> RunBalance:
    written, lost = (row["written"], row["lost"]) if row is not None else (0, 0)
    spooled, streamed = waiting.spooled, waiting.streamed
    worker = row["worker"] if row is not None else "?"
    if before is not None:
        first, last = before[0], (after or before)[0]
        place = RunPlace.LIVE if before[1] else RunPlace.ENDING
        worker, dropped, exact = first.worker, last.dropped, first.closed
        least, most = first.accepted - first.dropped, last.accepted - last.dropped
    elif waiting.ended is not None and (row is None or not row["ended"]):
        place, dropped, exact = RunPlace.STREAMED, waiting.ended.dropped, waiting.ended.closed
        least = most = waiting.ended.accepted - dropped
    elif row is not None or waiting.spool_id is not None:
        spool_id = row["spool_id"] if row is not None else waiting.spool_id
        dropped, exact = (row["dropped"], not row["killed"]) if row is not None else (0, True)
        least = most = row["accepted"] - row["dropped"] if row is not None else 0
        unfinished = RunPlace.VANISHED if spool_id == ours else RunPlace.ELSEWHERE
        place = RunPlace.ENDED if row is not None and row["ended"] else unfinished
    else:
        dropped, exact, least, most, place = 0, True, 0, 0, RunPlace.VANISHED
    if place is RunPlace.ELSEWHERE:
        least, most = 0, max(most, written + lost + streamed)
    if not exact:
        most += 1  # a record is there an instant before it is counted, and a kill may fall between
    found = written + spooled + streamed + lost
    stored = min(max(found, least), most)
    return RunBalance(
        str(run_id),
        worker,
        place,
        accepted=stored + dropped,
        written=written,
        spooled=spooled,
        streamed=streamed,
        dropped=dropped,
        lost=lost,
        missing=stored - found if stored > found else 0,
        surplus=found - stored if found > stored else 0,
    )
