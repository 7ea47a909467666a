"""All SQL about the audit log."""

from __future__ import annotations

import json
from collections.abc import Sequence
from uuid import UUID

from asyncpg import Record

from ostiary.control_plane.audit.model import AuditFilter, AuditRow
from ostiary.control_plane.db import Connection
from ostiary.control_plane.http.auditing import Entry
from ostiary.core.audit_chain import CONTENT, GENESIS, Anchor, content_sha256


class AuditLog:
    """Where `dispatch` writes; see `http.auditing.AuditTrail`."""

    async def hold(self, connection: Connection, resource: str, identifier: str) -> None:
        await connection.execute(
            """
            -- Guarantees that audited changes of one thing come one after the other, from their first reading on. Things
            -- whose names meet in 64 bits wait for each other too, and nothing else comes of it.
            SELECT pg_advisory_xact_lock(hashtextextended('audit:' || $1 || ':' || $2, 0))
            """,
            resource,
            identifier,
        )

    async def append(self, connection: Connection, entry: Entry) -> None:
        content: dict[str, object] = {
            "actor": entry.actor.principal,
            "actor_name": entry.actor.name,
            "address": entry.address,
            "request_id": entry.request_id,
            "operation": entry.operation,
            "resource_type": entry.resource_type,
            "resource_id": entry.resource_id,
            "organization_id": entry.organization_id,
            "outcome": str(entry.outcome),
            "code": entry.code,
            "before": None if entry.before is None else dict(entry.before),
            "after": None if entry.after is None else dict(entry.after),
        }
        values = [content[name] for name in CONTENT]
        for name in ("before", "after"):
            if (document := content[name]) is not None:
                values[CONTENT.index(name)] = json.dumps(document)
        if entry.organization_id is not None:
            values[CONTENT.index("organization_id")] = UUID(entry.organization_id)
        # Guarantees a place in the chain to this row, and that it is there exactly when the change is: both with the commit.
        await connection.execute(
            "SELECT audit_append($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
            *values,
            content_sha256(content),
        )


def page_statement(
    asked: AuditFilter, *, organization_id: str | None, after: int | None, limit: int
) -> tuple[str, list[object]]:
    """The statement of a page, and its arguments."""
    conditions, values = _conditions(asked, organization_id)
    if after is not None:
        values.append(after)
        conditions.append(f"number < ${len(values)}")
    values.append(limit)
    where = " AND ".join(conditions) or "true"
    statement = f"""
        -- Guarantees the next rows, newest first, none twice and none left out: numbers have no gaps and never change.
        SELECT * FROM audit_log WHERE {where} ORDER BY number DESC LIMIT ${len(values)}
    """  # noqa: S608  names of columns, written below; values are parameters
    return statement, values


async def page(
    connection: Connection, asked: AuditFilter, *, organization_id: str | None, after: int | None, limit: int
) -> Sequence[AuditRow]:
    """Up to `limit` rows, newest first, with numbers below `after`."""
    statement, values = page_statement(asked, organization_id=organization_id, after=after, limit=limit)
    return [audit_row(row) for row in await connection.fetch(statement, *values)]


async def count(connection: Connection, asked: AuditFilter, *, organization_id: str | None) -> int:
    conditions, values = _conditions(asked, organization_id)
    if not conditions:
        return (await head(connection)).number  # there are no gaps
    where = " AND ".join(conditions)
    # Guarantees the number of the same moment: the transaction reads one snapshot.
    return int(await connection.fetchval(f"SELECT count(*) FROM audit_log WHERE {where}", *values) or 0)  # noqa: S608  as above


async def head(connection: Connection) -> Anchor:
    # Guarantees the last row of what is committed.
    row = await connection.fetchrow("SELECT number, hash FROM audit_log ORDER BY number DESC LIMIT 1")
    return Anchor(0, GENESIS) if row is None else Anchor(row["number"], row["hash"])


def _conditions(asked: AuditFilter, organization_id: str | None) -> tuple[list[str], list[object]]:
    given: dict[str, object | None] = {
        "organization_id =": organization_id,
        "actor =": asked.actor,
        "resource_type =": asked.resource,
        "resource_id =": asked.resource_id,
        "operation =": asked.operation,
        "outcome =": asked.outcome,
        "occurred_at >=": asked.since,
        "occurred_at <": asked.until,
    }
    held = {test: value for test, value in given.items() if value is not None}
    return [f"{test} ${number}" for number, test in enumerate(held, 1)], list(held.values())


def content_of(row: Record) -> dict[str, object]:
    """What of a row is hashed as its content."""
    content = {name: row[name] for name in CONTENT}
    if content["organization_id"] is not None:
        content["organization_id"] = str(content["organization_id"])
    for name in ("before", "after"):
        if content[name] is not None:
            content[name] = json.loads(content[name])
    return content


def audit_row(row: Record) -> AuditRow:
    return AuditRow.model_validate(
        {
            **content_of(row),
            "number": row["number"],
            "occurred_at": row["occurred_at"],
            "previous_hash": row["previous_hash"].hex(),
            "hash": row["hash"].hex(),
        }
    )
