"""The default sink: Postgres, one transaction for as many segments as are given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final
from uuid import UUID

import asyncpg

from ostiary.gateway.usage.ledger import STATEMENT_SECONDS, UsageLedger, Written
from ostiary.gateway.usage.portion import whole
from ostiary.gateway.usage.run import RunState
from ostiary.gateway.usage.sink import Finished, SinkFailed

# Four full segments: the more calls there are, the more of them share a row of the roll-ups. Twice as many would save little
# more, for twice the memory here and in Postgres.
_TOGETHER_BYTES_MAX: Final = 16 << 20


class PostgresSink:
    """A `Sink`. It connects when there is something to deliver."""

    def __init__(self, postgres_url: str, *, statement_seconds: float = STATEMENT_SECONDS) -> None:
        self._postgres_url = postgres_url
        self._statement_seconds = statement_seconds
        self._ledger: UsageLedger | None = None

    @property
    def together_bytes_max(self) -> int:
        return _TOGETHER_BYTES_MAX

    async def deliver(self, spool_id: UUID, finished: Sequence[Finished]) -> list[Written]:
        with postgres_failures():
            ledger = await self.connected()
            return await ledger.write([whole(spool_id, segment, run) for segment, run in finished])

    async def end_run(self, spool_id: UUID, run: RunState) -> None:
        with postgres_failures():
            ledger = await self.connected()
            await ledger.end_run(spool_id, run)

    async def close(self) -> None:
        if self._ledger is not None:
            ledger, self._ledger = self._ledger, None
            ledger.terminate()

    async def connected(self) -> UsageLedger:
        """Raises OSError, TimeoutError, ValueError and asyncpg's errors."""
        if self._ledger is None:
            self._ledger = await UsageLedger.connect(self._postgres_url, statement_seconds=self._statement_seconds)
        return self._ledger


@contextmanager
def postgres_failures() -> Iterator[None]:
    """What goes wrong with Postgres, as SinkFailed. Only Postgres' own words are kept: others may quote the URL, and with
    it a password."""
    try:
        yield
    except asyncpg.PostgresError as error:
        text = str(error.args[0]) if error.args else ""
        raise SinkFailed(_kind(error), type(error).__name__, text, sqlstate=error.sqlstate) from error
    except (OSError, asyncpg.InterfaceError, ValueError) as error:  # TimeoutError and ConnectionError among them
        raise SinkFailed(_kind(error), type(error).__name__) from error


def _kind(error: Exception) -> str:
    if isinstance(error, asyncpg.ReadOnlySQLTransactionError):
        return "read_only"
    if isinstance(error, (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError, asyncpg.UndefinedFunctionError)):
        return "schema"
    if isinstance(error, (asyncpg.OperatorInterventionError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError)):
        return "unavailable"
    return "unavailable" if isinstance(error, OSError) else "other"
