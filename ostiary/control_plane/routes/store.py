"""All SQL about published routes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from asyncpg import Record

from ostiary.control_plane.db import Connection
from ostiary.control_plane.http import Position
from ostiary.control_plane.routes.consequences import KeyGroup
from ostiary.control_plane.routes.model import RouteVersion, RouteVersionSummary
from ostiary.core.model import Environment

# A node says every five seconds that it is there (`gateway.published`); three may be late.
SILENT_SECONDS = 15
NODES_MAX = 1000
# Keys with one environment, plan and set of scopes are one group; there are some dozens in practice.
GROUPS_MAX = 10_000
# Any fixed number that nothing else in this database takes: the first 8 bytes of "ostiaryv".
ADVISORY_LOCK = int.from_bytes(b"ostiaryv", "big")

_SUMMARY = """number, sha256, author, note, rolled_back_to, created_at,
    jsonb_array_length(normal_form -> 'routes') AS routes"""


@dataclass(frozen=True, slots=True)
class Node:
    """A row of gateway_nodes; `silent` if it has not been written for SILENT_SECONDS, by Postgres's clock."""

    node: str
    host: str
    ostiary: str
    version: int | None
    sha256: str | None
    since: datetime
    refused_version: int | None
    refused_problems: Sequence[str]
    seen_at: datetime
    silent: bool


async def lock(connection: Connection) -> None:
    """Waits for whoever makes a version. Raises asyncpg.LockNotAvailableError."""
    # Guarantees that versions are made one after the other: who has this lock sees the last, and no one adds one until the
    # transaction ends. Readers wait for nobody. (To lock the table would need the right to change it.)
    await connection.execute("SELECT pg_advisory_xact_lock($1)", ADVISORY_LOCK)


async def insert(
    connection: Connection,
    *,
    document: str,
    sha256: str,
    normal_form: object,
    author: str,
    note: str | None,
    rolled_back_to: int | None,
) -> RouteVersionSummary:
    """To be called under `lock`."""
    row = await connection.fetchrow(
        f"""
        -- Guarantees the next number (under the lock no one else takes it), and by the table's trigger that gateways hear of
        -- it when this commits.
        INSERT INTO route_versions (number, document, sha256, normal_form, author, note, rolled_back_to)
        SELECT coalesce(max(number), 0) + 1, $1, $2, $3::jsonb, $4, $5, $6 FROM route_versions
        RETURNING {_SUMMARY}
        """,  # noqa: S608  a constant of this file
        document,
        sha256,
        json.dumps(normal_form),
        author[:200],
        note,
        rolled_back_to,
    )
    assert row is not None  # noqa: S101  INSERT .. RETURNING gives its row or raises
    return RouteVersionSummary(**dict(row))


async def current_number(connection: Connection) -> int:
    # Guarantees the version in force, 0 before the first: one look at the end of the index.
    return int(await connection.fetchval("SELECT coalesce(max(number), 0) FROM route_versions"))


async def version(connection: Connection, number: int | None) -> RouteVersion | None:
    """The version `number`, or the one in force if that is None."""
    row = await connection.fetchrow(
        f"""
        -- Guarantees the version asked for, or the highest, or nothing.
        SELECT {_SUMMARY}, document, normal_form::text AS content FROM route_versions
        WHERE $1::bigint IS NULL OR number = $1 ORDER BY number DESC LIMIT 1
        """,  # noqa: S608  a constant of this file
        number,
    )
    if row is None:
        return None
    fields: dict[str, Any] = dict(row)
    return RouteVersion(**{**fields, "content": json.loads(fields["content"])})


async def current(connection: Connection) -> RouteVersionSummary | None:
    row = await connection.fetchrow(
        f"""
        -- Guarantees the version in force without its document, or nothing.
        SELECT {_SUMMARY} FROM route_versions ORDER BY number DESC LIMIT 1
        """  # noqa: S608  a constant of this file
    )
    return None if row is None else RouteVersionSummary(**dict(row))


async def history(
    connection: Connection, *, after: Position | None, limit: int
) -> tuple[Sequence[RouteVersionSummary], int]:
    """Up to `limit` versions, newest first, after a position; and how many there are."""
    rows = await connection.fetch(
        f"""
        -- Guarantees the next versions in the order of their numbers, none twice and none left out; along the primary key.
        SELECT {_SUMMARY} FROM route_versions WHERE $1::bigint IS NULL OR number < $1 ORDER BY number DESC LIMIT $2
        """,  # noqa: S608  a constant of this file
        None if after is None else int(after.id),
        limit,
    )
    # Guarantees the number of the same moment: numbers have no gap.
    total = await current_number(connection)
    return [RouteVersionSummary(**dict(row)) for row in rows], total


async def plans_in_force(connection: Connection) -> frozenset[str]:
    """The names of the plans that keys may have."""
    rows = await connection.fetch(
        """
        -- Guarantees the plans of the version in force; none before the first.
        SELECT jsonb_object_keys(normal_form -> 'plans') AS name
        FROM (SELECT normal_form FROM route_versions ORDER BY number DESC LIMIT 1) AS newest
        WHERE jsonb_typeof(normal_form -> 'plans') = 'object'
        """
    )
    return frozenset(row["name"] for row in rows)


async def key_groups(connection: Connection) -> Sequence[KeyGroup] | None:
    """The keys in force, by what access goes by; None if they are of more groups than can be looked through."""
    rows = await connection.fetch(
        """
        -- Guarantees every key that works now in one group, as of one moment: not revoked, not expired. One pass over the
        -- table: a million keys take some 0.3 s.
        SELECT environment, plan, scopes, count(*) AS keys FROM api_keys
        WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
        GROUP BY environment, plan, scopes LIMIT $1
        """,
        GROUPS_MAX + 1,
    )
    if len(rows) > GROUPS_MAX:
        return None
    return [_group(row) for row in rows]


async def nodes(connection: Connection) -> Sequence[Node]:
    rows = await connection.fetch(
        """
        -- Guarantees the gateways that follow, those heard of last first; who is silent is told by Postgres's clock alone.
        SELECT node, host, ostiary, version, sha256, since, refused_version, refused_problems, seen_at,
               seen_at < now() - $1 * interval '1 second' AS silent
        FROM gateway_nodes ORDER BY silent, host, node LIMIT $2
        """,
        SILENT_SECONDS,
        NODES_MAX,
    )
    return [Node(**dict(row)) for row in rows]


def _group(row: Record) -> KeyGroup:
    return KeyGroup(Environment(row["environment"]), row["plan"], frozenset(row["scopes"]), row["keys"])
