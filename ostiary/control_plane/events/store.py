"""All SQL about events."""

from __future__ import annotations

import json
from collections.abc import Sequence

from asyncpg import Record

from ostiary.control_plane.db import Connection
from ostiary.control_plane.events.model import Event, EventQuery
from ostiary.control_plane.http import telling


class EventOutbox:
    """Where `dispatch` writes; see `http.telling.Outbox`."""

    async def append(self, connection: Connection, event: telling.Event) -> None:
        # Guarantees a number to this event, and that it is there exactly when the change is: both with the commit.
        await connection.execute(
            "SELECT event_append($1, $2, $3, $4, $5, $6)",
            event.kind,
            event.resource_type,
            event.resource_id,
            event.organization_id,
            event.request_id,
            json.dumps(dict(event.payload)),
        )


async def page(
    connection: Connection, asked: EventQuery, *, organizations: tuple[str, ...] | None, limit: int
) -> Sequence[Event]:
    """Up to `limit` events that may be seen: newest first, or with `after` oldest first."""
    conditions, values = _conditions(asked, organizations)
    ascending = asked.after is not None
    if asked.cursor is not None:
        values.append(int(asked.cursor.id))
        conditions.append(f"number {'>' if ascending else '<'} ${len(values)}")
    values.append(limit)
    rows = await connection.fetch(
        f"""
        -- Guarantees the next rows in the order of their numbers, none twice and none left out: numbers never change, and
        -- none appears below one that could be seen.
        SELECT * FROM event_outbox WHERE {" AND ".join(conditions) or "true"}
        ORDER BY number {"ASC" if ascending else "DESC"} LIMIT ${len(values)}
        """,  # noqa: S608  names of columns, written below; values are parameters
        *values,
    )
    return [_event(row) for row in rows]


async def count(connection: Connection, asked: EventQuery, *, organizations: tuple[str, ...] | None) -> int:
    conditions, values = _conditions(asked, organizations)
    where = " AND ".join(conditions) or "true"
    # Guarantees the number of the same moment: the transaction reads one snapshot.
    return int(await connection.fetchval(f"SELECT count(*) FROM event_outbox WHERE {where}", *values) or 0)  # noqa: S608  as above


async def oldest(connection: Connection) -> int | None:
    # Guarantees the first number that has not been dropped; nothing before the first event.
    first: int | None = await connection.fetchval("SELECT min(number) FROM event_outbox")
    return first


def _conditions(asked: EventQuery, organizations: tuple[str, ...] | None) -> tuple[list[str], list[object]]:
    given: dict[str, object | None] = {
        "number >": asked.after,
        "kind =": asked.kind,
        "organization_id =": asked.organization_id,
        "app_id =": asked.app_id,
        "resource_type =": asked.resource,
        "resource_id =": asked.resource_id,
        "occurred_at >=": asked.since,
        "occurred_at <": asked.until,
    }
    held = {test: value for test, value in given.items() if value is not None}
    conditions = [f"{test} ${number}" for number, test in enumerate(held, 1)]
    values = list(held.values())
    if organizations is not None:
        values.append(list(organizations))
        conditions.append(f"organization_id = ANY(${len(values)}::uuid[])")
    return conditions, values


def _event(row: Record) -> Event:
    ids = {name: None if row[name] is None else str(row[name]) for name in ("app_id", "organization_id")}
    return Event.model_validate({**dict(row), **ids, "payload": json.loads(row["payload"])})
