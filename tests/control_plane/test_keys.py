"""Keys, over the API: made once, shown once, revoked for ever."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from ostiary.control_plane.db import Connection
from ostiary.control_plane.log import JsonFormatter
from ostiary.core.credentials import checksum_holds, is_key_id, secret_sha256
from ostiary.core.encryption import Envelope
from tests.control_plane.support import KEY_ENCRYPTION_KEY, OPERATOR_TOKEN, Api, configuration_for, serving


async def test_a_created_key_is_stored_as_hash_and_sealed_so_that_a_gateway_can_use_it(
    api: Api, connection: Connection
) -> None:
    """The gateway would refuse a key that the control plane gave out."""
    created = await api.key(await api.app(), environment="live", plan="standard", scopes=["clients:read"])
    assert is_key_id(created["key_id"])
    assert created["key_id"].startswith("ak_live_")
    assert created["secret"].startswith("sk_live_")
    assert checksum_holds(created["secret"])
    row = await connection.fetchrow("SELECT * FROM api_keys WHERE id = $1", created["key_id"])
    assert row is not None
    assert row["secret_sha256"] == secret_sha256(created["secret"].encode())
    opened = Envelope(KEY_ENCRYPTION_KEY).open(row["secret_sealed"], row["data_key_wrapped"], key_id=created["key_id"])
    assert opened == created["secret"].encode()
    assert (row["plan"], row["scopes"], row["environment"]) == ("standard", ["clients:read"], "live")


async def test_the_operator_s_prefix_stands_in_front_of_id_and_secret(database: str) -> None:
    """Secret scanners could not tell this operator's keys."""
    async with serving(configuration_for(database, key_prefix="bi")) as api:
        created = await api.key(await api.app())
    assert created["key_id"].startswith("bi_ak_test_")
    assert created["secret"].startswith("bi_sk_test_")


async def test_a_secret_is_in_the_one_answer_and_in_no_table_log_or_later_answer(
    api: Api, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """Row 132: a canary secret anywhere else is a leak."""
    caplog.set_level(logging.DEBUG)
    app_id = await api.app()
    reply = await api.post(f"/apps/{app_id}/keys", {"name": "canary"}, idempotency_key="canary-1")
    created = reply.document
    later = [
        await api.get(f"/apps/{app_id}/keys"),
        await api.get(f"/keys/{created['key_id']}"),
        await api.post(f"/apps/{app_id}/keys", {"name": "canary"}, idempotency_key="canary-1"),
        await api.post(f"/keys/{created['key_id']}/revoke", {"reason": "test"}),
    ]
    dump = await _all_tables(connection)
    log = "\n".join(JsonFormatter().format(record) for record in caplog.records)
    assert '"call"' in log
    assert created["key_id"] in dump, "the dump is not a dump"
    for canary in (created["secret"], created["secret"][8:51], OPERATOR_TOKEN, created["secret"].encode().hex()):
        assert canary not in dump
        assert canary not in log + caplog.text
        assert not [answer for answer in later if canary in answer.text or canary in str(answer.headers)]
    assert "secret" not in (await api.get(f"/keys/{created['key_id']}")).document


async def _all_tables(connection: Connection) -> str:
    """Every row of every table as text, bytea in hex."""
    tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    rows: list[str] = []
    for table in tables:
        query = f'SELECT t::text FROM "{table["tablename"]}" t'  # noqa: S608  a name from the catalogue
        rows += [row[0] for row in await connection.fetch(query)]
    return "\n".join(rows)


async def test_a_key_that_expires_says_when(api: Api) -> None:
    """A gateway would take a key past the day it was promised to end."""
    app_id = await api.app()
    at = datetime.now(UTC) + timedelta(days=3)
    by_time = await api.key(app_id, expires_at=at.astimezone().isoformat())
    assert datetime.fromisoformat(by_time["expires_at"]) == at
    by_days = await api.key(app_id, expires_in_days=3)
    assert abs(datetime.fromisoformat(by_days["expires_at"]) - at) < timedelta(minutes=1)
    assert (await api.key(app_id))["expires_at"] is None


async def test_restrictions_are_kept_in_their_plain_form(api: Api) -> None:
    """What the gateway compares would not be what the caller meant."""
    created = await api.key(
        await api.app(),
        allowed_ips=["203.0.113.7", "2001:DB8::/32"],
        allowed_origins=["https://app.example.com", "http://localhost:3000"],
    )
    assert created["allowed_ips"] == ["203.0.113.7/32", "2001:db8::/32"]
    assert created["allowed_origins"] == ["https://app.example.com", "http://localhost:3000"]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"plan": "gold"}, "plan"),
        ({"environment": "production"}, "environment"),
        ({"scopes": ["clients:read "]}, "scopes.0"),
        ({"scopes": ["x" * 65]}, "scopes.0"),
        ({"scopes": ["a"] * 65}, "scopes"),
        ({"scopes": "clients:read"}, "scopes"),
        ({"expires_in_days": 0}, "expires_in_days"),
        ({"expires_in_days": "3"}, "expires_in_days"),
        ({"expires_in_days": 3651}, "expires_in_days"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"expires_at": "9999-12-31T23:59:59-23:59"}, "expires_at"),
        ({"expires_at": "2100-01-01"}, "expires_at"),
        ({"expires_at": 4102444800}, "expires_at"),
        ({"expires_at": "2030-01-01T00:00:00Z", "expires_in_days": 3}, ""),
        ({"allowed_ips": ["10.0.0.1/8"]}, "allowed_ips.0"),
        ({"allowed_ips": ["example.com"]}, "allowed_ips.0"),
        ({"allowed_ips": ["::1%eth0"]}, "allowed_ips.0"),
        ({"allowed_origins": ["https://example.com/"]}, "allowed_origins.0"),
        ({"allowed_origins": ["javascript://x"]}, "allowed_origins.0"),
        ({"name": ""}, "name"),
        ({"name": " x"}, "name"),
        ({"name": "x" * 201}, "name"),
        ({"name": "a\u0007b"}, "name"),
        ({"name": None}, "name"),
        ({"secret": "sk_test_" + "a" * 49}, "secret"),
        ({"key_id": "ak_test_mine"}, "key_id"),
        ({"organization_id": str(uuid4())}, "organization_id"),
        ({"revoked_at": None}, "revoked_at"),
    ],
)
async def test_a_wrong_field_is_named(refusing_api: Api, fields: dict[str, Any], field: str) -> None:
    """Row 128: a field that clients may not set would be set, or a wrong value would be a fault."""
    reply = await refusing_api.post(f"/apps/{uuid4()}/keys", {"name": "a key", **fields})
    assert (reply.status, reply.code, list(reply.fields)) == (422, "invalid_fields", [field])


async def test_all_wrong_fields_are_named_at_once_and_their_values_never(api: Api) -> None:
    """The caller would mend one, send again, and find the next; or read a misplaced secret in an error."""
    misplaced = "sk_live_misplaced"
    reply = await api.post(f"/apps/{await api.app()}/keys", {"name": "", "scopes": ["UPPER"], misplaced: 1})
    assert set(reply.fields) >= {"name", "scopes.0"}
    reply = await api.post(
        f"/apps/{await api.app(name='other', organization_id=await api.organization('b'))}/keys",
        {
            "name": "ok",
            "environment": misplaced,
            "plan": misplaced,
        },
    )
    assert misplaced not in reply.text


async def test_a_revoked_key_stays_revoked_with_its_first_reason(api: Api) -> None:
    """A second revocation would rewrite why and when."""
    created = await api.key(await api.app())
    first = await api.post(f"/keys/{created['key_id']}/revoke", {"reason": "leaked"})
    assert (first.status, first.document["state"], first.document["revoked_reason"]) == (200, "revoked", "leaked")
    second = await api.post(f"/keys/{created['key_id']}/revoke", {"reason": "tidying"})
    assert second.document == first.document


async def test_a_revocation_is_announced_when_it_is_committed(api: Api, connection: Connection) -> None:
    """Gateways would take the key until their next poll."""
    announced: asyncio.Queue[str] = asyncio.Queue()
    created = await api.key(await api.app())
    await connection.add_listener("ostiary_keys", lambda _c, _p, _n, payload: announced.put_nowait(str(payload)))
    await api.post(f"/keys/{created['key_id']}/revoke", {"reason": "leaked"})
    assert await asyncio.wait_for(announced.get(), timeout=5) == created["key_id"]
    assert await connection.fetchval("SELECT revoked_at <= now() FROM api_keys WHERE id = $1", created["key_id"])


async def test_revoking_needs_a_reason_and_a_key(api: Api) -> None:
    """Nobody could say later why a customer was cut off."""
    created = await api.key(await api.app())
    reply = await api.post(f"/keys/{created['key_id']}/revoke", {})
    assert (reply.status, reply.fields) == (422, {"reason": "is required"})
    for key_id in ("ak_test_unknown", "x", "a" * 65, "a-b-c"):
        assert (await api.post(f"/keys/{key_id}/revoke", {"reason": "x"})).status == 404
        assert (await api.get(f"/keys/{key_id}")).status == 404


async def test_a_key_for_no_app_is_not_made(api: Api) -> None:
    """A key without an owner would be metered to nobody."""
    reply = await api.post(f"/apps/{uuid4()}/keys", {"name": "orphan"})
    assert (reply.status, reply.code) == (404, "not_found")


async def test_an_expired_key_says_so(api: Api, connection: Connection) -> None:
    """The list would show a key as usable that every gateway refuses."""
    created = await api.key(await api.app(), expires_in_days=1)
    assert created["state"] == "active"
    await connection.execute("UPDATE api_keys SET expires_at = now()")
    assert (await api.get(f"/keys/{created['key_id']}")).document["state"] == "expired"
