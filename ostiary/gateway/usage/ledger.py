"""What is said to Postgres: one transaction for a segment, or for some portions of segments, so that each is there whole and
once, or not at all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

import asyncpg

from ostiary.gateway.usage.portion import Portion
from ostiary.gateway.usage.record import COLUMNS_OF, COPY_END, COPY_HEAD, occurred_day
from ostiary.gateway.usage.run import RunState

CONNECT_SECONDS = 5.0
# One statement moves at most a segment (some 50 ms of work); a server that takes longer than this is hanging.
STATEMENT_SECONDS = 30.0
_LOOK_SECONDS = 0.5  # between looks whether the connection of a COPY is still there
_COPY_RECORDS = 1000  # of a message to Postgres: 350 KB, so that no second copy of everything is made
# What a transaction has written is read again for its roll-ups; with Postgres' default of 4 MB, from a file that is made for
# it. No more is taken than there is to read, some 20 MB of the largest transaction.
_WORK_MEM = "64MB"

# Guarantees: one row for a segment, ever, and $3 to $4 of its bytes are ours. Another transaction that has just made the
# row is waited for, so a commit whose answer was lost is found out here. No row comes back when the segment is known.
_ENTER_SEGMENT = """
INSERT INTO usage_segments (segment_id, run_id, records, lost, taken)
VALUES ($1, $2, 0, 0, int8multirange(int8range($3, $4)))
ON CONFLICT (segment_id) DO NOTHING RETURNING true
"""

# Guarantees: from here on nobody else takes anything of this segment. A statement of its own, so that the next one sees what
# whoever had the lock before has committed.
_LOCK_SEGMENT = "SELECT FROM usage_segments WHERE segment_id = $1 FOR UPDATE"

# Guarantees: of the bytes asked for those that nobody has taken, in order. Under the lock.
_LEFT_OF_SEGMENT = """
SELECT lower(part) AS first, upper(part) AS until
FROM usage_segments, unnest(int8multirange(int8range($2, $3)) - taken) AS part WHERE segment_id = $1 ORDER BY part
"""

# Guarantees: they are ours, with this transaction or not at all. Under the lock.
_TAKE_SEGMENT = "UPDATE usage_segments SET taken = taken + int8multirange(int8range($2, $3)) WHERE segment_id = $1"

# Guarantees: the ledger says what was written, no more and no less.
_SETTLE_SEGMENT = "UPDATE usage_segments SET records = records + $2, lost = lost + $3 WHERE segment_id = $1"

# Guarantees: a run's counts only grow, whatever order its segments arrive in; what was written adds up in the transaction
# that wrote it.
_COUNT_RUN = """
INSERT INTO usage_runs AS run (run_id, spool_id, worker, started_at, accepted, dropped, written, lost)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (run_id) DO UPDATE SET
    accepted = greatest(run.accepted, excluded.accepted), dropped = greatest(run.dropped, excluded.dropped),
    written = run.written + excluded.written, lost = run.lost + excluded.lost
"""

# Guarantees: a run is over once; its last counts stand.
_END_RUN = """
INSERT INTO usage_runs AS run (run_id, spool_id, worker, started_at, accepted, dropped, written, lost, killed, ended_at)
VALUES ($1, $2, $3, $4, $5, $6, 0, 0, $7, now())
ON CONFLICT (run_id) DO UPDATE SET
    accepted = greatest(run.accepted, excluded.accepted), dropped = greatest(run.dropped, excluded.dropped),
    killed = excluded.killed, ended_at = coalesce(run.ended_at, excluded.ended_at)
"""

# What Postgres says of a row that it will never take; anything else may pass.
_POISON = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, asyncpg.ProgramLimitExceededError)


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a segment, or a portion of one: rows in the table, records lost. `repeated`: it had been written
    before, and nothing was done now."""

    rows: int
    lost: int
    repeated: bool


@dataclass(frozen=True, slots=True)
class _Claim:
    records: list[bytes]
    lost: int
    repeated: bool


class UsageLedger:
    """A connection to Postgres that takes portions of segments. Not for two tasks at once."""

    def __init__(
        self, connection: asyncpg.Connection[asyncpg.Record], *, statement_seconds: float = STATEMENT_SECONDS
    ) -> None:
        self._connection = connection
        self._statement_seconds = statement_seconds
        self._partitions: dict[int, str] = {}  # of days, known to exist

    @classmethod
    async def connect(
        cls, postgres_url: str, *, statement_seconds: float = STATEMENT_SECONDS, name: str = "ostiary-shipper"
    ) -> UsageLedger:
        """`name` is what Postgres shows of the connection. Raises OSError, TimeoutError, ValueError and asyncpg's errors.

        `synchronous_commit` is on whatever the server's default: a file is deleted on the strength of a commit."""
        connection = await asyncpg.connect(
            postgres_url,
            timeout=CONNECT_SECONDS,
            command_timeout=statement_seconds,
            server_settings={
                "application_name": name,
                "synchronous_commit": "on",
                "TimeZone": "UTC",
                "work_mem": _WORK_MEM,
            },
        )
        return cls(connection, statement_seconds=statement_seconds)

    def terminate(self) -> None:
        """Ends the connection at once; whatever was under way is undone, or was done and is found in the ledger."""
        self._connection.terminate()

    async def close(self) -> None:
        await self._connection.close(timeout=CONNECT_SECONDS)

    async def write(self, portions: Sequence[Portion]) -> list[Written]:
        """Rows, roll-ups, ledger and the runs' counts of all of them, in one transaction; what became of each. Raises
        asyncpg's errors, TimeoutError, OSError; then nothing was written, or all of it was and the next try finds that
        out."""
        try:
            return await self._write_by_day(portions)
        except OverflowError:  # a day that no calendar has: rare enough to be looked for only now
            return await self._write_by_day([_with_days_alone(portion) for portion in portions])

    async def _write_by_day(self, portions: Sequence[Portion]) -> list[Written]:
        days: set[int] = set()
        for portion in portions:
            days.update(occurred_day(record) for record in (portion.records[:1] + portion.records[-1:]))
        try:
            return await self._write(portions, await self._table_for(days))
        except (asyncpg.CheckViolationError, asyncpg.UndefinedTableError):
            # A day in between, because a clock jumped; or a partition that has been dropped since it was seen.
            self._partitions.clear()
            days = {occurred_day(record) for portion in portions for record in portion.records}
            return await self._write(portions, await self._table_for(days))

    async def end_run(self, spool_id: UUID, run: RunState) -> None:
        """The last word on a run nothing of which is left in its spool. Raises as `write` does."""
        await self._connection.execute(
            _END_RUN,
            run.run_id,
            spool_id,
            run.worker,
            _time(run.started_us),
            run.accepted,
            run.dropped,
            not run.closed,
        )

    async def _write(self, portions: Sequence[Portion], table: str) -> list[Written]:
        try:
            return await self._write_whole(portions, table)
        except Exception as error:
            # asyncpg trips over a COPY that it gave up itself (an AttributeError), and over undoing one that was left.
            if isinstance(error, (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError)):
                raise
            self._connection.terminate()
            raise TimeoutError("a COPY did not end in time") from error

    async def _write_whole(self, portions: Sequence[Portion], table: str) -> list[Written]:
        """Everyone takes segments in one order, then roll-ups in one (the trigger sees to it), then runs: so those that
        write at once wait for each other and never deadlock."""
        order = sorted(range(len(portions)), key=lambda at: (portions[at].header.segment_id, portions[at].first or 0))
        async with self._connection.transaction():
            claims = {at: await self._claim(portions[at]) for at in order}
            refused = [0] * len(portions)
            for version in sorted({portion.header.version for portion in portions}):
                records: list[bytes] = []
                owners: list[tuple[int, int]] = []  # up to which record whose they are
                for at in order:
                    if portions[at].header.version == version:
                        records += claims[at].records
                        owners.append((len(records), at))
                for position in await self._copy(table, records, COLUMNS_OF[version]):
                    refused[next(at for end, at in owners if position < end)] += 1
            written = [
                Written(len(claims[at].records) - refused[at], claims[at].lost + refused[at], claims[at].repeated)
                for at in range(len(portions))
            ]
            runs: dict[UUID, list[int]] = {}
            for at in order:
                if not written[at].repeated:
                    header = portions[at].header
                    await self._connection.execute(
                        _SETTLE_SEGMENT, header.segment_id, written[at].rows, written[at].lost
                    )
                    runs.setdefault(header.run_id, []).append(at)
            for run_id in sorted(runs):
                of_run = [portions[at] for at in runs[run_id]]
                await self._connection.execute(
                    _COUNT_RUN,
                    run_id,
                    of_run[0].spool_id,
                    of_run[0].header.worker,
                    _time(of_run[0].run.started_us),
                    max(portion.run.accepted for portion in of_run),
                    max(portion.run.dropped for portion in of_run),
                    sum(written[at].rows for at in runs[run_id]),
                    sum(written[at].lost for at in runs[run_id]),
                )
        return written

    async def _claim(self, portion: Portion) -> _Claim:
        """What of a portion this transaction is to write: usually all of it; nothing, if it has been written before; what
        nobody had, if some of it came in other portions."""
        header = portion.header
        asked = (portion.first, portion.until)
        if await self._connection.fetchval(_ENTER_SEGMENT, header.segment_id, header.run_id, *asked):
            return _Claim(portion.records, portion.lost, repeated=False)
        await self._connection.execute(_LOCK_SEGMENT, header.segment_id)
        left = [
            (row["first"], row["until"])
            for row in await self._connection.fetch(_LEFT_OF_SEGMENT, header.segment_id, *asked)
        ]
        if not left:
            return _Claim([], 0, repeated=True)
        await self._connection.execute(_TAKE_SEGMENT, header.segment_id, *asked)
        if left == [asked]:
            return _Claim(portion.records, portion.lost, repeated=False)
        records = [
            record
            for record, offset in zip(portion.records, portion.offsets, strict=True)
            if any((first is None or first <= offset) and (until is None or offset < until) for first, until in left)
        ]
        return _Claim(records, portion.lost if left[-1][1] == portion.until else 0, repeated=False)

    async def _copy(self, table: str, records: Sequence[bytes], columns: Sequence[str], begin: int = 0) -> list[int]:
        """Copies all rows that Postgres takes; returns which it refused, counted from `begin`. One that it refuses is found
        by halving, so it costs some twenty attempts and no other row."""
        if not records:
            return []
        try:
            async with self._connection.transaction():  # a savepoint
                await self._copy_or_leave(table, records, columns)
        except asyncpg.CheckViolationError:  # no partition: the caller's to mend
            raise
        except _POISON:
            if len(records) == 1:
                return [begin]
            half = len(records) // 2
            refused = await self._copy(table, records[:half], columns, begin)
            return refused + await self._copy(table, records[half:], columns, begin + half)
        return []

    async def _copy_or_leave(self, table: str, records: Sequence[bytes], columns: Sequence[str]) -> None:
        """One COPY, for as long as a statement may take. asyncpg waits without an end for its socket to take more, and is not
        woken when the connection is lost meanwhile: so that is watched from outside. Raises as COPY does, TimeoutError, and
        asyncpg.ConnectionDoesNotExistError."""
        copying = asyncio.create_task(
            self._connection.copy_to_table(table, source=_binary(records), columns=columns, format="binary")
        )
        try:
            deadline = (
                time.monotonic() + self._statement_seconds + _LOOK_SECONDS
            )  # asyncpg's own comes first, if it comes
            while not copying.done():
                lost = self._connection.is_closed()  # as it was before the wait: what is lost may tell so itself
                await asyncio.wait({copying}, timeout=_LOOK_SECONDS)
                if copying.done():
                    break
                if lost:
                    raise asyncpg.ConnectionDoesNotExistError("the connection was lost in the middle of a COPY")
                if time.monotonic() > deadline:
                    raise TimeoutError
            await copying
        finally:
            if not copying.done():
                self._connection.terminate()
                copying.cancel()

    async def _table_for(self, days: Collection[int]) -> str:
        """Where calls of these days go; their partitions are there then. Of one day: its partition. Of several, around
        midnight or when a clock jumped: all of them at once, for a statement for each would take the roll-ups in another
        order than everyone does."""
        for day in sorted(days):
            if day not in self._partitions:
                if len(self._partitions) >= _DAYS_REMEMBERED_MAX:
                    self._partitions.clear()
                date_of = _FIRST_DAY + timedelta(days=day)
                self._partitions[day] = await self._connection.fetchval("SELECT usage_partition($1)", date_of)
        return self._partitions[next(iter(days))] if len(days) == 1 else "usage_events"


async def _binary(records: Sequence[bytes]) -> AsyncIterator[bytes]:
    """What a COPY of these rows says."""
    yield COPY_HEAD
    for begin in range(0, len(records), _COPY_RECORDS):
        yield b"".join(records[begin : begin + _COPY_RECORDS])
    yield COPY_END


def _with_days_alone(portion: Portion) -> Portion:
    """Without records of a day that no partition could be of; they are lost."""
    kept = [at for at, record in enumerate(portion.records) if _FIRST_OF_ALL <= occurred_day(record) <= _LAST_OF_ALL]
    return replace(
        portion,
        records=[portion.records[at] for at in kept],
        offsets=[portion.offsets[at] for at in kept],
        lost=portion.lost + len(portion.records) - len(kept),
    )


_DAYS_REMEMBERED_MAX = 1000  # a bound, not a policy: forgetting costs one look
_FIRST_DAY = date(2000, 1, 1)
_FIRST_OF_ALL, _LAST_OF_ALL = ((end - _FIRST_DAY).days for end in (date.min, date.max))


def _time(unix_us: int) -> datetime:
    return datetime.fromtimestamp(unix_us / 1e6, UTC)
