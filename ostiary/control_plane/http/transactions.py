"""Transactions on the pool, and what the database's refusals mean to a caller."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from ostiary.control_plane.db import Connection, Pool
from ostiary.control_plane.http.problems import Problem, ProblemCode

# How long a call waits for one of the pool's connections: longer, and the caller is better told to come back.
ACQUIRE_SECONDS = 2.0

# Classes of SQLSTATE that say "not now" rather than "wrong": connection, rollback (deadlock), resources, object in use,
# operator intervention (shutdown, cancelled by a time bound), system; and a read-only server after a failover.
_PASSING_CLASSES = frozenset({"08", "40", "53", "55", "57", "58"})
_READ_ONLY = "25006"


class Transactions:
    """Opens transactions: committed at the end of the block, undone if it raises.

    Raises Problem `database_unavailable` for what passes by itself."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    @asynccontextmanager
    async def open(self, *, reads: bool = False) -> AsyncIterator[Connection]:
        """`reads`: nothing can be changed, and everything is seen as of one moment."""
        try:
            async with (
                self._pool.acquire(timeout=ACQUIRE_SECONDS) as connection,
                # A list and its total are of one moment.
                connection.transaction(isolation="repeatable_read" if reads else "read_committed", readonly=reads),
            ):
                yield connection
        except asyncpg.PostgresError as error:
            if (error.sqlstate or "")[:2] in _PASSING_CLASSES or error.sqlstate == _READ_ONLY:
                raise _unavailable() from error
            raise
        except asyncpg.InterfaceError as error:
            if isinstance(error, ValueError):  # an argument that does not fit its column: a fault of ours
                raise
            raise _unavailable() from error
        except (OSError, TimeoutError) as error:
            raise _unavailable() from error


def _unavailable() -> Problem:
    return Problem(ProblemCode.DATABASE_UNAVAILABLE, headers=[("Retry-After", "2")])
