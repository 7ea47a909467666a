"""The audit log: what is in it, who may read it, and that nobody can forget it, fill it or change it."""

from __future__ import annotations

import asyncio
import csv
import io
import itertools
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from ostiary.control_plane import accounts
from ostiary.control_plane.audit import AuditLog
from ostiary.control_plane.audit.model import AuditQuery
from ostiary.control_plane.audit.store import content_of, page_statement
from ostiary.control_plane.authorization import MATRIX
from ostiary.control_plane.db import Connection, open_pool
from ostiary.control_plane.http.access import Actor, PlatformRole, Role
from ostiary.control_plane.http.auditing import RefusalBounds
from ostiary.control_plane.http.dispatch import Dispatcher
from ostiary.core.audit_chain import GENESIS, content_sha256, row_hash
from tests.control_plane.support import OPERATOR_TOKEN, Api
from tests.control_plane.test_authorization import OWNERS, serving_for

LIMITS = {"quotas": [{"requests": 5, "per": "day"}], "reason": "trial"}


async def _rows(connection: Connection) -> list[dict[str, Any]]:
    """The whole log in its order, `before` and `after` read; its chain is held against the one that is made here."""
    previous, rows = GENESIS, []
    for number, row in enumerate(await connection.fetch("SELECT * FROM audit_log ORDER BY number"), 1):
        content = content_of(row)
        assert (row["number"], row["previous_hash"]) == (number, previous)
        previous = row_hash(previous, number, row["occurred_at"], content_sha256(content))
        assert row["hash"] == previous
        rows.append({**content, "number": number, "occurred_at": row["occurred_at"]})
    return rows


async def test_every_change_is_a_row_with_who_from_where_and_what_was_before_and_after(
    api: Api, connection: Connection
) -> None:
    """Nobody could say afterwards who gave a key its rights, or what it had before."""
    organization_id = await api.organization("Acme")
    app_id = await api.app(organization_id)
    key_id = (await api.key(app_id, scopes=["a:read"]))["key_id"]
    changed = await api.request("PATCH", f"/keys/{key_id}", json={"scopes": ["a:read", "a:write"], "name": "a key"})
    assert changed.status == 200
    put = await api.request("PUT", f"/keys/{key_id}/limits", json=LIMITS)
    assert put.status == 200
    assert (await api.request("DELETE", f"/keys/{key_id}/limits?reason=over")).status == 200
    assert (await api.post(f"/keys/{key_id}/rotate", {})).status == 200
    assert (await api.request("DELETE", f"/keys/{key_id}/generations/1")).status == 200
    assert (await api.post(f"/keys/{key_id}/revoke", {"reason": "lost"})).status == 200

    rows = await _rows(connection)
    assert [(row["operation"], row["resource_type"], row["resource_id"]) for row in rows] == [
        ("createOrganization", "organization", organization_id),
        ("createApp", "app", app_id),
        ("createKey", "key", key_id),
        ("amendKey", "key", key_id),
        ("putKeyLimits", "key_limits", key_id),
        ("deleteKeyLimits", "key_limits", key_id),
        ("rotateKey", "key", key_id),
        ("endGeneration", "key", key_id),
        ("revokeKey", "key", key_id),
    ]
    for row in rows:
        assert (row["actor"], row["actor_name"], row["address"]) == ("operator", "operator token", "127.0.0.1")
        assert (row["organization_id"], row["outcome"], row["code"]) == (organization_id, "done", None)
    assert rows[3]["request_id"] == changed.headers["X-Request-Id"]
    made, amended, limited, removed, rotated, ended, revoked = rows[2:]
    assert made["before"] is None
    assert made["after"]["scopes"] == ["a:read"]
    assert (amended["before"], amended["after"]) == ({"scopes": ["a:read"]}, {"scopes": ["a:read", "a:write"]})
    assert limited["before"]["quotas"] is None
    assert [quota["requests"] for quota in limited["after"]["quotas"]] == [5]
    assert removed["after"]["quotas"] is None
    assert removed["after"]["reason"] == "over"
    assert [each["number"] for each in rotated["after"]["generations"]] == [2, 1]
    assert ended["before"].keys() == ended["after"].keys() == {"generations", "state"}
    assert revoked["before"] == {"state": "active", "revoked_at": None, "revoked_reason": None}
    assert (revoked["after"]["state"], revoked["after"]["revoked_reason"]) == ("revoked", "lost")


async def test_no_secret_and_nothing_of_one_is_in_the_log(api: Api, connection: Connection) -> None:
    """Row 132: whoever may read the log, or a copy of it, could use the keys."""
    key = await api.key(await api.app())
    rotated = (await api.post(f"/keys/{key['key_id']}/rotate", {})).document
    await api.post(f"/keys/{key['key_id']}/revoke", {"reason": "lost"})
    text = str([tuple(row) for row in await connection.fetch("SELECT * FROM audit_log")])
    for secret in (key["secret"], rotated["secret"], OPERATOR_TOKEN):
        assert secret not in text
        assert secret[-12:] not in text
    for row in await _rows(connection):
        told = {*(row["before"] or {}), *(row["after"] or {})}
        assert not [name for name in told if "secret" in name or "hash" in name or "hint" in name]


async def test_a_refused_or_repeated_or_failed_call_leaves_no_row_of_a_change(api: Api, connection: Connection) -> None:
    """The log would tell of what never happened, or of one thing twice."""
    organization_id = await api.organization("Acme")
    document = {"organization_id": organization_id, "name": "Shop"}
    first = await api.post("/apps", document, idempotency_key="k")
    again = await api.post("/apps", document, idempotency_key="k")
    assert (first.status, again.headers["Idempotency-Replayed"]) == (201, "true")
    assert (await api.post("/apps", document)).status == 409
    assert (await api.post("/organizations", {"name": ""})).status == 422
    assert (await api.post("/keys/ak_test_nothing/revoke", {"reason": "x"})).status == 404
    assert [row["operation"] for row in await _rows(connection)] == ["createOrganization", "createApp"]


async def test_what_is_refused_for_want_of_a_right_is_written_down(
    database: str, api: Api, connection: Connection
) -> None:
    """Row 126: someone could try every door in peace."""
    own, foreign = await api.organization("Own"), await api.organization("Foreign")
    own_app, foreign_app = await api.app(own), await api.app(foreign)
    key_id = (await api.key(foreign_app))["key_id"]
    before = len(await _rows(connection))
    async with serving_for(database, Actor("user:1", "Eve", None, {own: Role.VIEWER})) as theirs:
        headers = {"X-Request-Id": "eve-1"}
        made = {"organization_id": own, "name": "x"}
        assert (await theirs.request("POST", "/apps", token="t", json=made, headers=headers)).status == 403
        assert (
            await theirs.request("POST", "/apps", token="t", json={**made, "organization_id": foreign})
        ).status == 422
        assert (await theirs.request("POST", "/organizations", token="t", json={"name": "Mine"})).status == 403
        assert (await theirs.get(f"/apps/{foreign_app}", token="t")).status == 404
        assert (await theirs.get(f"/apps/{own_app}", token="t")).status == 200
        keys = await theirs.request("POST", f"/keys/{key_id}/revoke", token="t", json={"reason": "x"})
        assert keys.status == 404
    rows = (await _rows(connection))[before:]
    assert {(row["actor"], row["actor_name"], row["address"], row["outcome"]) for row in rows} == {
        ("user:1", "Eve", "127.0.0.1", "refused")
    }
    assert [(row["operation"], row["resource_id"], row["organization_id"], row["code"]) for row in rows] == [
        ("createApp", None, own, "role_missing"),
        ("createApp", None, None, "invalid_fields"),  # Foreign's people are not told of Own's
        ("createOrganization", None, None, "role_missing"),
        ("revokeKey", key_id, None, "not_found"),
    ]
    assert rows[0]["request_id"] == "eve-1"


async def test_callers_without_credentials_are_written_down_and_can_t_fill_the_disk(
    api: Api, connection: Connection
) -> None:
    """A stranger with a loop could make the log, and with it the database, grow without end."""
    path = "/keys/ak_test_abcdef/revoke"
    for token in (None, "wrong"):
        assert (await api.request("POST", path, token=token, json={"reason": "x"})).status == 401
    assert (await api.get("/keys/ak_test_abcdef", token=None)).status == 401
    assert (await api.get("/nowhere", token=None)).status == 401
    rows = await _rows(connection)
    assert [(row["actor"], row["operation"], row["resource_id"], row["code"]) for row in rows] == [
        ("unknown", "revokeKey", "ak_test_abcdef", "credentials_missing"),
        ("unknown", "revokeKey", "ak_test_abcdef", "credentials_invalid"),
    ]
    for _ in range(60):
        assert (await api.request("POST", path, token=None, json={"reason": "x"})).status == 401
    assert len(await _rows(connection)) <= 40


def test_refusals_beyond_the_bound_are_counted_and_told_with_the_next() -> None:
    """An attack would look like its first twenty calls."""
    now = [0.0]
    bounds = RefusalBounds(lambda: now[0])
    taken = [bounds.take("user:1") for _ in range(100)]
    assert taken[:20] == [0] * 20
    assert taken[20:] == [None] * 80
    assert bounds.take("user:2") == 0, "one who is refused hides nobody else"
    now[0] += 10.0
    assert [bounds.take("user:1"), bounds.take("user:1")] == [80, None]


def test_no_number_of_principals_takes_more_memory_or_rows_than_the_bound() -> None:
    """Whoever can make accounts could fill the disk, or the memory."""
    bounds = RefusalBounds(lambda: 0.0)
    written = [bounds.take(f"user:{number}") for number in range(5_000)]
    assert sum(each is not None for each in written) == RefusalBounds.ALL_BURST
    assert len(bounds._buckets) <= RefusalBounds.PRINCIPALS_MAX


def _declared() -> tuple[Any, ...]:
    return accounts.operations(accounts.Accounts())


async def test_a_change_that_does_not_say_what_is_written_down_is_not_served(database: str) -> None:
    """The one operation that somebody forgot would be the one that is asked about."""
    pool = await open_pool(database)
    dispatcher = Dispatcher(pool=pool, matrix=MATRIX, owners=OWNERS, audit=AuditLog())
    create = _declared()[0]
    dispatcher.handler(create)
    with pytest.raises(ValueError, match="createOrganization changes something"):
        dispatcher.handler(replace(create, audited=None))
    with pytest.raises(ValueError, match="nothing gives organization_id"):
        dispatcher.handler(replace(create, audited=replace(create.audited, made_id=None)))
    with pytest.raises(ValueError, match="name would get into the audit log"):
        dispatcher.handler(replace(create, shown_once=frozenset({"name"})))
    await pool.close()


async def test_two_changes_of_one_thing_at_once_each_tell_their_own(api: Api, connection: Connection) -> None:
    """A row would tell another call's change as this one's: what it read as before was no longer so."""
    key_id = (await api.key(await api.app(), name="0"))["key_id"]

    async def rename(number: int) -> None:
        # Who waits too long for the others, on a busy machine, is told to come back.
        while (reply := await api.request("PATCH", f"/keys/{key_id}", json={"name": str(number)})).status != 200:
            assert reply.code == "database_unavailable"

    async with asyncio.timeout(120):
        await asyncio.gather(*(rename(number) for number in range(1, 9)))
    names = [(row["before"]["name"], row["after"]["name"]) for row in await _rows(connection) if row["before"]]
    assert len(names) == 8
    for (_, after), (before, _) in itertools.pairwise(names):
        assert before == after
    assert names[0][0] == "0"


@pytest.mark.parametrize(
    "statement", ["UPDATE audit_log SET actor = 'x'", "DELETE FROM audit_log", "TRUNCATE audit_log"]
)
async def test_not_even_the_owner_changes_it_by_mistake(api: Api, connection: Connection, statement: str) -> None:
    """A clean-up script of the owner's would take the log with it."""
    await api.organization()
    await connection.execute("SET session_replication_role = replica")  # a superuser's way around triggers
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
        await connection.execute(statement)
    assert len(await _rows(connection)) == 1


async def test_rows_are_found_by_who_what_when_and_outcome(api: Api, connection: Connection) -> None:
    """Row 128: in a log of a million rows, what can't be asked for is not there."""
    one, other = await api.organization("One"), await api.organization("Other")
    app_id = await api.app(one)
    await api.app(other)
    await api.post("/organizations", {"name": "x"})
    await api.request("POST", "/organizations", token=None, json={"name": "x"})

    async def found(**asked: str) -> list[str]:
        reply = await api.get("/audit", params=asked)
        assert reply.status == 200, reply.text
        assert reply.document["total"] == len(reply.document["data"])
        return [f"{row['operation']} {row['outcome']}" for row in reply.document["data"]]

    assert await found() == [
        "createOrganization refused",
        "createOrganization done",
        *(["createApp done"] * 2),
        *(["createOrganization done"] * 2),
    ]
    assert await found(actor="unknown") == ["createOrganization refused"]
    assert await found(outcome="done", operation="createApp") == ["createApp done"] * 2
    assert await found(organization_id=one) == ["createApp done", "createOrganization done"]
    assert await found(resource="app", resource_id=app_id) == ["createApp done"]
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    assert await found(since=tomorrow) == []
    assert len(await found(until=tomorrow)) == 6
    for asked, field in (
        ({"actor": "a b"}, "actor"),
        ({"outcome": "maybe"}, "outcome"),
        ({"operation": "x'; DROP TABLE audit_log--"}, "operation"),
        ({"since": "yesterday"}, "since"),
        ({"since": tomorrow, "until": tomorrow}, "since"),
        ({"organization_id": "1"}, "organization_id"),
        ({"cursor": "x"}, "cursor"),
    ):
        refused = await api.get("/audit", params=asked)
        assert (refused.status, list(refused.fields)) == (422, [field])


async def test_pages_together_are_the_log_and_the_file_is_the_same(api: Api, connection: Connection) -> None:
    """A row at a page's edge would be left out or come twice; one who takes the log away would not be in it."""
    for number in range(7):
        await api.organization(f"={number}")
    numbers: list[int] = []
    cursor = None
    while True:
        page = (await api.get("/audit", params={"limit": 3, **({"cursor": cursor} if cursor else {})})).document
        numbers += [row["number"] for row in page["data"]]
        assert page["total"] == 7
        if (cursor := page["next_cursor"]) is None:
            break
    assert numbers == list(range(7, 0, -1))
    text = (await api.get("/audit", params={"format": "csv", "actor": "operator"})).text
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [int(row["number"]) for row in rows] == numbers
    assert json.loads(rows[0]["after"])["name"] == "=6"
    exported = (await _rows(connection))[-1]
    assert (exported["operation"], exported["resource_type"]) == ("listAudit", "audit_log")
    assert exported["after"] == {"exported": {"actor": "operator"}}


async def test_the_head_is_the_last_row_and_of_an_empty_log_nothing(api: Api, connection: Connection) -> None:
    """An anchor of another row would make every later proof fail."""
    assert (await api.get("/audit/head")).document == {"number": 0, "hash": "00" * 32}
    await api.organization()
    head = (await api.get("/audit/head")).document
    (row,) = (await api.get("/audit")).document["data"]
    assert head == {"number": row["number"], "hash": row["hash"]}


@pytest.mark.parametrize(
    ("asked", "index"),
    [
        ({}, "audit_log_pkey"),
        ({"actor": "user:1"}, "audit_log_by_actor"),
        ({"organization_id": "00000000-0000-4000-8000-000000000001"}, "audit_log_by_organization"),
        ({"resource": "key", "resource_id": "ak_1"}, "audit_log_by_resource"),
        ({"operation": "createApp"}, "audit_log_by_operation"),
        ({"until": "2026-01-01T00:00:10Z"}, "audit_log_"),
    ],
)
async def test_a_page_of_the_log_is_read_along_an_index(
    connection: Connection, asked: dict[str, str], index: str
) -> None:
    """The last page of a long log would read everything before it."""
    await fill_audit_log(connection, 20_000)
    query = AuditQuery.model_validate(asked)
    statement, values = page_statement(query, organization_id=query.organization_id, after=15_000, limit=50)
    plan = "\n".join(line[0] for line in await connection.fetch(f"EXPLAIN {statement}", *values))
    assert index in plan
    assert "Seq Scan" not in plan


async def fill_audit_log(connection: Connection, rows: int) -> None:
    """Rows of a hundred actors, five hundred organizations and a thousand keys; their chain is not one."""
    await connection.execute(
        """
        INSERT INTO audit_log SELECT n, '2026-01-01'::timestamptz + n * interval '1 s', 'user:' || n % 100, 'u', '127.0.0.1',
            'r' || n, CASE n % 1000 WHEN 0 THEN 'createApp' ELSE 'amendKey' END, 'key', 'ak_' || n % 1000,
            ('00000000-0000-4000-8000-' || lpad((n % 500)::text, 12, '0'))::uuid, 'done', NULL, '{}', '{"name": "a key"}',
            sha256('a'), sha256('b')
        FROM generate_series(1, $1::integer) n
        """,
        rows,
    )
    await connection.execute("VACUUM ANALYZE audit_log")


async def test_an_organization_s_admins_see_its_rows_and_nobody_else_s(database: str, api: Api) -> None:
    """Row 126: one customer would read what another does."""
    own, foreign = await api.organization("Own"), await api.organization("Foreign")
    await api.app(foreign)
    path = f"/organizations/{own}/audit"
    shown = (await api.get(path)).document
    assert [row["operation"] for row in shown["data"]] == ["createOrganization"]
    assert shown["total"] == 1
    assert (await api.get("/organizations/00000000-0000-4000-8000-000000000000/audit")).status == 404
    auditor = Actor("user:2", "a", PlatformRole.AUDITOR)
    async with serving_for(database, auditor) as theirs:
        for readable in (path, "/audit", "/audit/head"):
            assert (await theirs.get(readable, token="t")).status == 200
    for role, status in ((Role.DEVELOPER, 403), (Role.ADMIN, 200), (Role.OWNER, 200)):
        async with serving_for(database, Actor("user:1", "u", None, {own: role})) as theirs:
            reply = await theirs.get(path, token="t")
            assert reply.status == status
            if status == 200:
                assert {row["organization_id"] for row in reply.document["data"]} == {own}
            assert (await theirs.get(f"/organizations/{foreign}/audit", token="t")).status == 404
            for closed in ("/audit", "/audit/head", f"/audit?organization_id={own}"):
                assert (await theirs.get(closed, token="t")).status == 403
