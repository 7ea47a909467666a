"""All SQL of published routes in the gateway. It reads `route_versions`, and writes its own row of `gateway_nodes`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from ostiary.core.published import RouteVersion

_NEWEST = """
-- Guarantees the version in force by number and text, or nothing: one look at the end of the index.
SELECT number, sha256 FROM route_versions ORDER BY number DESC LIMIT 1
"""

_VERSION = """
-- Guarantees the version in force, whole, or nothing.
SELECT number, document, sha256, extract(epoch FROM created_at)::float8 AS published_at
FROM route_versions ORDER BY number DESC LIMIT 1
"""

_REPORT = """
-- Guarantees one row for each node, with what it runs now; `since` is when it first said so.
INSERT INTO gateway_nodes AS known (node, host, ostiary, version, sha256, refused_version, refused_problems)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (node) DO UPDATE SET
    host = excluded.host, ostiary = excluded.ostiary, version = excluded.version, sha256 = excluded.sha256,
    refused_version = excluded.refused_version, refused_problems = excluded.refused_problems, seen_at = now(),
    since = CASE WHEN (known.version, known.sha256) IS DISTINCT FROM (excluded.version, excluded.sha256)
                 THEN now() ELSE known.since END
"""

_FORGET = """
-- Guarantees that a node that ends in order is gone from the list, and those that ended otherwise an hour later.
DELETE FROM gateway_nodes WHERE node = $1 OR seen_at < now() - interval '1 hour'
"""


@dataclass(frozen=True, slots=True)
class Report:
    """What a node says of itself. `refused_problems` are bounded by whoever makes this."""

    node: str
    host: str
    ostiary: str
    version: int | None
    sha256: str | None
    refused_version: int | None = None
    refused_problems: Sequence[str] = ()


async def connect(postgres_url: str, *, deadline_seconds: float) -> asyncpg.Connection:
    """A connection of its own, whose commands end or fail within the deadline. Raises what `describe` describes."""
    return await asyncpg.connect(
        postgres_url,
        timeout=deadline_seconds,
        command_timeout=deadline_seconds,
        server_settings={
            "application_name": "ostiary gateway routes",
            # The server must not work on for a gateway that has given up.
            "statement_timeout": str(int(deadline_seconds * 1000)),
        },
    )


async def newest(connection: asyncpg.Connection) -> tuple[int, str] | None:
    """Number and SHA-256 of the version in force."""
    row = await connection.fetchrow(_NEWEST)
    return None if row is None else (row["number"], row["sha256"])


async def version(connection: asyncpg.Connection) -> RouteVersion | None:
    """The version in force."""
    row = await connection.fetchrow(_VERSION)
    return None if row is None else RouteVersion(row["number"], row["document"], row["sha256"], row["published_at"])


async def report(connection: asyncpg.Connection, said: Report) -> None:
    await connection.execute(
        _REPORT,
        said.node,
        said.host,
        said.ostiary,
        said.version,
        said.sha256,
        said.refused_version,
        list(said.refused_problems),
    )


async def forget(connection: asyncpg.Connection, node: str) -> None:
    """The node's own row, and those of nodes that have been silent for an hour. An empty name is no node's."""
    await connection.execute(_FORGET, node)


def describe(error: Exception) -> str:
    """For the log. Not the text of connection errors: it may quote the URL, and with it a password."""
    if isinstance(error, asyncpg.UndefinedTableError):
        return "the database has no table of routes; run: ostiary db migrate"
    if isinstance(error, asyncpg.PostgresError):
        return f"{type(error).__name__}: {error.args[0] if error.args else ''}"
    return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
