"""The pool of Postgres connections: bounded in number, and every statement bounded in time."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import asyncpg

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    Connection = asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]
    Pool = asyncpg.Pool[asyncpg.Record]
else:  # asyncpg's own classes take no parameters at run time
    Connection = asyncpg.Connection
    Pool = asyncpg.Pool

# Management calls are rare and short: ten at once is far above need, and ten processes still fit Postgres's default of 100.
CONNECTIONS_MAX = 10
CONNECT_SECONDS = 5.0
# Above what Postgres itself is told, so that its clear answer comes before our hanging up.
COMMAND_SECONDS = 10.0

SESSION = {
    "application_name": "ostiary-control-plane",
    "timezone": "UTC",
    "statement_timeout": "5s",  # the slowest list over 100 000 rows takes 0.05 s
    "lock_timeout": "3s",  # the longest another call may hold a row is one short transaction
    "idle_in_transaction_session_timeout": "10s",  # a stuck process must not hold locks for ever
}


class DatabaseUnavailable(Exception):
    """Postgres can't be reached, or refused the connection. The text names the server, never the password."""


def server_name(url: str) -> str:
    """`host:port/database` of a Postgres URL, for messages: nothing of user and password."""
    try:
        parts = urlsplit(url)
        return f"{parts.hostname or 'local socket'}:{parts.port or 5432}{parts.path}"
    except ValueError:
        return "the configured address"


def unavailable(url: str, error: BaseException) -> DatabaseUnavailable:
    """What to tell when connecting to `url` ended with `error`. Only its kind is told: its text may quote the URL."""
    kind = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
    return DatabaseUnavailable(
        f"Postgres at {server_name(url)} can't be used ({kind}); check that it runs and that stores.postgres is right"
    )


# What connecting may raise: the network's errors, the server's refusals, and a URL that asyncpg does not understand.
CONNECT_ERRORS = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError)


async def open_pool(url: str) -> Pool:
    """A pool on the database `url`. Raises DatabaseUnavailable."""
    try:
        return await asyncpg.create_pool(
            url,
            min_size=1,
            max_size=CONNECTIONS_MAX,
            timeout=CONNECT_SECONDS,
            command_timeout=COMMAND_SECONDS,
            server_settings=SESSION,
        )
    except CONNECT_ERRORS as error:
        raise unavailable(url, error) from error
