"""Lists: every item once, in one order, however the list changes meanwhile."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from ostiary.control_plane.db import Connection
from ostiary.control_plane.http.paging import Position, UuidCursor, encode
from tests.control_plane.support import Api


async def _walk(api: Api, path: str, **parameters: Any) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        page = (await api.get(path, params={**parameters, **({"cursor": cursor} if cursor else {})})).document
        items += page["data"]
        cursor = page["next_cursor"]
        if cursor is None:
            return items


@pytest.mark.parametrize("limit", [1, 3, 7, 8, 100])
async def test_pages_together_are_the_list(api: Api, connection: Connection, limit: int) -> None:
    """An item at a page's edge would be left out or come twice, items of one instant above all."""
    await connection.execute(
        "INSERT INTO organizations (name, created_at)"
        " SELECT n::text, '2026-01-01'::timestamptz + (n / 3) * interval '1 us' FROM generate_series(1, 7) n"
    )
    rows = await connection.fetch("SELECT id::text FROM organizations ORDER BY created_at DESC, id DESC")
    assert [item["id"] for item in await _walk(api, "/organizations", limit=limit)] == [row["id"] for row in rows]


async def test_what_is_made_meanwhile_moves_nothing(api: Api) -> None:
    """Counting items to skip would show the last of a page again on the next."""
    for number in range(4):
        await api.organization(f"old {number}")
    page = (await api.get("/organizations", params={"limit": 2})).document
    await api.organization("new")
    rest = (await api.get("/organizations", params={"limit": 2, "cursor": page["next_cursor"]})).document
    assert [item["name"] for item in page["data"] + rest["data"]] == ["old 3", "old 2", "old 1", "old 0"]
    assert rest["next_cursor"] is None


async def test_keys_page_too_and_count_their_app_alone(api: Api) -> None:
    """Another app's keys would be shown, or counted."""
    organization_id = await api.organization()
    app_id, other = await api.app(organization_id, "mine"), await api.app(organization_id, "other")
    await api.key(other)
    made = [(await api.key(app_id))["key_id"] for _ in range(3)]
    listed = await _walk(api, f"/apps/{app_id}/keys", limit=2)
    assert [key["key_id"] for key in listed] == made[::-1]
    assert (await api.get(f"/apps/{app_id}/keys")).document["total"] == 3


async def test_a_cursor_of_another_list_is_refused(api: Api) -> None:
    """A key id compared with a UUID would be a fault."""
    cursor = encode(Position(datetime.now(UTC), "ak_test_0000000000000000000000"))
    reply = await api.get("/organizations", params={"cursor": cursor})
    assert (reply.status, list(reply.fields)) == (422, ["cursor"])


@given(st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(2099, 1, 1)), st.uuids())
def test_a_cursor_is_read_as_it_was_written(moment: datetime, identifier: Any) -> None:
    """Invariant: decode(encode(position)) == position, to the microsecond."""
    position = Position(moment.replace(tzinfo=UTC), str(identifier))
    assert TypeAdapter(UuidCursor).validate_python(encode(position)) == position


async def test_a_page_of_a_long_list_is_quick(api: Api, connection: Connection) -> None:
    """The deepest page would read everything before it: the plan must go along the index."""
    await connection.execute(
        "INSERT INTO organizations (name, created_at)"
        " SELECT n::text, '2026-01-01'::timestamptz + n * interval '1 s' FROM generate_series(1, 20000) n"
    )
    await connection.execute("ANALYZE organizations")
    lines = await connection.fetch(
        "EXPLAIN SELECT id FROM organizations WHERE (created_at, id) < ($1, $2)"
        " ORDER BY created_at DESC, id DESC LIMIT 51",
        datetime(2026, 1, 1, 1, tzinfo=UTC),
        uuid4(),
    )
    plan = "\n".join(line[0] for line in lines)
    assert "organizations_by_age" in plan
    assert "Sort" not in plan
