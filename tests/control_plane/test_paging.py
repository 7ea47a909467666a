"""Lists: every item once, in one order, however the list changes meanwhile."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from ostiary.control_plane.accounts import store as accounts
from ostiary.control_plane.db import Connection
from ostiary.control_plane.http.paging import Position, UuidCursor, encode
from ostiary.control_plane.keys import store as keys
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


@pytest.mark.parametrize(
    ("statement", "index"),
    [
        (accounts.ORGANIZATIONS_PAGE, "organizations_by_age"),
        (accounts.APPS_PAGE, "apps_by_age"),
        (accounts.APPS_OF_ORGANIZATION_PAGE, "apps_by_organization"),
        (keys.KEYS_OF_APP_PAGE, "api_keys_by_app"),
    ],
)
async def test_a_page_costs_the_same_however_deep_it_lies(connection: Connection, statement: str, index: str) -> None:
    """The last page of a long list would read everything before it: the position must be a condition on the index, in the
    plan that Postgres keeps for all parameters."""
    await connection.execute(
        """
        INSERT INTO organizations (name) SELECT n::text FROM generate_series(1, 200) n;
        INSERT INTO apps (organization_id, name, created_at)
            SELECT id, n::text, now() - n * interval '1 s' FROM organizations, generate_series(1, 20) n;
        INSERT INTO organizations (name, created_at)
            SELECT 'o' || n, now() - n * interval '1 s' FROM generate_series(1, 5000) n;
        INSERT INTO api_keys (id, app_id, name, environment, secret_sha256, secret_sealed, data_key_wrapped, secret_hint)
            SELECT 'ak_test_' || row_number() OVER (), id, 'x', 'test', sha256((id || n::text)::bytea), '', '', 'hint'
            FROM (SELECT id FROM apps LIMIT 500), generate_series(1, 10) n;
        ANALYZE organizations, apps, api_keys;
        """
    )
    # The statement as it is, prepared by name: EXPLAIN then shows the plan for parameters that are not known yet.
    await connection.execute(f"SET plan_cache_mode = force_generic_plan; PREPARE page AS {statement}")
    nothing = ", ".join("NULL" for _ in set(re.findall(r"\$\d", statement)))
    lines = [line[0] for line in await connection.fetch(f"EXPLAIN EXECUTE page({nothing})")]
    plan = "\n".join(lines)
    assert "Sort" not in plan
    assert index in plan
    (condition,) = [line for line in lines if "Index Cond" in line and "created_at" in line]
    assert "ROW" in condition
