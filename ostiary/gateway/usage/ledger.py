"""What the shipper says to Postgres: one transaction a segment, so that a segment is there whole and once, or not at all."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

import asyncpg

from ostiary.gateway.usage.record import COLUMNS_OF, COPY_END, COPY_HEAD, occurred_day
from ostiary.gateway.usage.run import RunState
from ostiary.gateway.usage.segment import Segment

CONNECT_SECONDS = 5.0
# One statement moves at most a segment (some 50 ms of work); a server that takes longer than this is hanging.
STATEMENT_SECONDS = 30.0
_LOOK_SECONDS = 0.5  # between looks whether the connection of a COPY is still there

# Guarantees: one row for a segment, ever. Another transaction that holds the same segment is waited for, so a commit whose
# answer was lost is found out here. No row comes back when the segment was written before.
_ENTER_SEGMENT = """
INSERT INTO usage_segments (segment_id, run_id, records, lost) VALUES ($1, $2, 0, 0)
ON CONFLICT (segment_id) DO NOTHING RETURNING true
"""

# Guarantees: the ledger says what this transaction wrote, no more and no less.
_SETTLE_SEGMENT = "UPDATE usage_segments SET records = $2, lost = $3 WHERE segment_id = $1"

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
    """What became of a segment: rows in the table, records lost. `repeated`: it had been written before, and nothing was
    done now."""

    rows: int
    lost: int
    repeated: bool


class UsageLedger:
    """A connection to Postgres that takes segments. Not for two tasks at once."""

    def __init__(
        self,
        connection: asyncpg.Connection[asyncpg.Record],
        spool_id: UUID,
        *,
        statement_seconds: float = STATEMENT_SECONDS,
    ) -> None:
        self._connection = connection
        self._statement_seconds = statement_seconds
        self._spool_id = spool_id
        self._days: set[int] = set()  # partitions known to exist

    @classmethod
    async def connect(
        cls, postgres_url: str, spool_id: UUID, *, statement_seconds: float = STATEMENT_SECONDS
    ) -> UsageLedger:
        """Raises OSError, TimeoutError and asyncpg's errors.

        `synchronous_commit` is on whatever the server's default: a file is deleted on the strength of a commit."""
        connection = await asyncpg.connect(
            postgres_url,
            timeout=CONNECT_SECONDS,
            command_timeout=statement_seconds,
            server_settings={"application_name": "ostiary-shipper", "synchronous_commit": "on", "TimeZone": "UTC"},
        )
        return cls(connection, spool_id, statement_seconds=statement_seconds)

    def terminate(self) -> None:
        """Ends the connection at once; whatever was under way is undone, or was done and is found in the ledger."""
        self._connection.terminate()

    async def close(self) -> None:
        await self._connection.close(timeout=CONNECT_SECONDS)

    async def write(self, segment: Segment, run: RunState | None) -> Written:
        """Rows, roll-ups, ledger and the run's counts, in one transaction. Raises asyncpg's errors, TimeoutError, OSError;
        then nothing was written, or all of it was and the next try finds that out."""
        records = segment.records
        if records:
            await self._ensure_days({occurred_day(records[0]), occurred_day(records[-1])})
        try:
            return await self._write(segment, run)
        except asyncpg.CheckViolationError:
            # A day in between, because a clock jumped; or a partition that has been dropped since it was seen.
            self._days.clear()
            await self._ensure_days({occurred_day(record) for record in records})
            return await self._write(segment, run)

    async def end_run(self, run: RunState) -> None:
        """The last word on a run nothing of which is left in the spool. Raises as `write` does."""
        await self._connection.execute(
            _END_RUN,
            run.run_id,
            self._spool_id,
            run.worker,
            _time(run.started_us),
            run.accepted,
            run.dropped,
            not run.closed,
        )

    async def _write(self, segment: Segment, run: RunState | None) -> Written:
        try:
            return await self._write_whole(segment, run)
        except Exception as error:
            # asyncpg trips over a COPY that it gave up itself (an AttributeError), and over undoing one that was left.
            if isinstance(error, (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError)):
                raise
            self._connection.terminate()
            raise TimeoutError("a COPY did not end in time") from error

    async def _write_whole(self, segment: Segment, run: RunState | None) -> Written:
        header = segment.header
        async with self._connection.transaction():
            if not await self._connection.fetchval(_ENTER_SEGMENT, header.segment_id, header.run_id):
                return Written(0, 0, repeated=True)
            poisoned = await self._copy(segment.records, COLUMNS_OF[header.version])
            rows, lost = len(segment.records) - poisoned, segment.lost + poisoned
            await self._connection.execute(_SETTLE_SEGMENT, header.segment_id, rows, lost)
            stored_before = header.accepted_before
            await self._connection.execute(
                _COUNT_RUN,
                header.run_id,
                self._spool_id,
                header.worker,
                _time(run.started_us if run else header.created_us),
                run.accepted if run else stored_before + len(segment.records) + segment.lost,
                run.dropped if run else header.dropped_before,
                rows,
                lost,
            )
        return Written(rows, lost, repeated=False)

    async def _copy(self, records: Sequence[bytes], columns: Sequence[str]) -> int:
        """Copies all rows that Postgres takes; returns how many it refused. One that it refuses is found by halving, so it
        costs its segment some twenty attempts and no other row."""
        if not records:
            return 0
        try:
            async with self._connection.transaction():  # a savepoint
                await self._copy_or_leave(b"".join((COPY_HEAD, *records, COPY_END)), columns)
        except asyncpg.CheckViolationError:  # no partition: the caller's to mend
            raise
        except _POISON:
            if len(records) == 1:
                return 1
            half = len(records) // 2
            return await self._copy(records[:half], columns) + await self._copy(records[half:], columns)
        return 0

    async def _copy_or_leave(self, data: bytes, columns: Sequence[str]) -> None:
        """One COPY, for as long as a statement may take. asyncpg waits without an end for its socket to take more, and is not
        woken when the connection is lost meanwhile: so that is watched from outside. Raises as COPY does, TimeoutError, and
        asyncpg.ConnectionDoesNotExistError."""
        copying = asyncio.create_task(
            self._connection.copy_to_table("usage_events", source=io.BytesIO(data), columns=columns, format="binary")
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

    async def _ensure_days(self, days: set[int]) -> None:
        for day in sorted(days - self._days):
            await self._connection.execute("SELECT usage_ensure_partition($1)", _FIRST_DAY + timedelta(days=day))
            if len(self._days) >= 1000:  # a bound, not a policy: forgetting costs one look
                self._days.clear()
            self._days.add(day)


_FIRST_DAY = date(2000, 1, 1)


def _time(unix_us: int) -> datetime:
    return datetime.fromtimestamp(unix_us / 1e6, UTC)
