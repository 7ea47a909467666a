"""Limits of a key in place of its plan's: checked as plans are, announced, and never without who, when and why."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from ostiary.control_plane.db import Connection
from ostiary.core.model import LimitMode, LimitOverride, Overage, Period, Quota, Rate, RefusedCalls, Window
from ostiary.core.overrides import override_document, read_override
from tests.control_plane.support import Api

ALL: dict[str, Any] = {
    "rate": {"requests": 50, "per": "minute", "burst": 100},
    "limits": [
        {"requests": 10_000, "per": "hour"},
        {"requests": 5, "per": "hour", "mode": "shadow", "refused": "charged"},
    ],
    "quotas": [{"requests": 1_000_000, "per": "month"}],
    "concurrency": 20,
    "concurrency_mode": "shadow",
    "overage": "charge",
}


async def put(api: Api, key_id: str, **document: object) -> Any:
    return await api.request("PUT", f"/keys/{key_id}/limits", json={"reason": "a test", **document})


async def test_every_part_is_stored_answered_and_read_back_by_a_gateway(api: Api, connection: Connection) -> None:
    """A gateway would hold the key to something else than the operator was shown."""
    key_id = (await api.key(await api.app(), plan="standard"))["key_id"]
    reply = await put(api, key_id, **ALL)
    assert reply.status == 200, reply.text
    usual = {"mode": "enforce", "refused": "free"}
    assert {name: reply.document[name] for name in ALL} == ALL | {
        "rate": usual | {"requests": 50, "per": "minute", "burst": 100},
        "limits": [usual | limit for limit in ALL["limits"]],
        "quotas": [usual | quota for quota in ALL["quotas"]],
    }
    assert (reply.document["key_id"], reply.document["plan"]) == (key_id, "standard")
    assert (reply.document["reason"], reply.document["changed_by"]) == ("a test", "operator")
    assert (await api.get(f"/keys/{key_id}/limits")).document == reply.document
    stored = read_override(json.loads(await connection.fetchval("SELECT limits FROM api_keys WHERE id = $1", key_id)))
    assert stored == LimitOverride(
        rate=Rate(50, 60, 100),
        windows=(Window(10_000, 3600), Window(5, 3600, LimitMode.SHADOW, RefusedCalls.CHARGED)),
        quotas=(Quota(1_000_000, Period.MONTH),),
        concurrency=20,
        overage=Overage.CHARGE,
        concurrency_mode=LimitMode.SHADOW,
    )
    assert override_document(stored) == ALL


async def test_a_put_replaces_all_that_was_set_before(api: Api) -> None:
    """A part that was taken out of the request would stay in force, and nobody would see why."""
    key_id = (await api.key(await api.app()))["key_id"]
    await put(api, key_id, **ALL)
    reply = await put(api, key_id, limits=[], rate={"requests": 5, "per": "second"})
    assert reply.document["limits"] == []
    assert reply.document["rate"] == {"requests": 5, "per": "second", "burst": 5, "mode": "enforce", "refused": "free"}
    assert [reply.document[name] for name in ("quotas", "concurrency", "overage")] == [None, None, None]


async def test_every_change_is_kept_with_who_when_why_and_what_was_before(api: Api, connection: Connection) -> None:
    """Nobody could tell later why a caller had ten times its plan."""
    key_id = (await api.key(await api.app()))["key_id"]
    await put(api, key_id, concurrency=5, reason="first")
    await put(api, key_id, concurrency=7, reason="second")
    removed = await api.request("DELETE", f"/keys/{key_id}/limits?reason=third")
    assert removed.status == 200, removed.text
    assert removed.document["concurrency"] is None
    assert (removed.document["reason"], removed.document["changed_by"]) == ("third", "operator")
    again = await api.request("DELETE", f"/keys/{key_id}/limits?reason=fourth")
    assert (again.status, again.document["reason"]) == (200, "third"), "nothing was there to take away"
    rows = await connection.fetch(
        "SELECT reason, changed_by, before::text, after::text, changed_at FROM key_limit_changes"
        " WHERE key_id = $1 ORDER BY id",
        key_id,
    )
    assert [tuple(row)[:4] for row in rows] == [
        ("first", "operator", None, '{"concurrency": 5}'),
        ("second", "operator", '{"concurrency": 5}', '{"concurrency": 7}'),
        ("third", "operator", '{"concurrency": 7}', None),
    ]
    assert all(row["changed_at"] for row in rows)


async def test_a_change_raises_the_revision_and_is_announced(api: Api, connection: Connection) -> None:
    """Gateways would go on with the limits before until they forget the key."""
    key_id = (await api.key(await api.app()))["key_id"]
    before = await connection.fetchval("SELECT revision FROM api_keys WHERE id = $1", key_id)
    announced: asyncio.Queue[object] = asyncio.Queue()
    await connection.add_listener("ostiary_keys", lambda *heard: announced.put_nowait(heard[3]))
    await put(api, key_id, concurrency=5)
    assert await asyncio.wait_for(announced.get(), 5) == key_id
    assert await connection.fetchval("SELECT revision FROM api_keys WHERE id = $1", key_id) > before
    await api.request("DELETE", f"/keys/{key_id}/limits?reason=x")
    assert await asyncio.wait_for(announced.get(), 5) == key_id


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({}, ""),
        ({"reason": "", "concurrency": 1}, "reason"),
        ({"reason": "line\nfeed", "concurrency": 1}, "reason"),
        ({"concurrency": 0}, "concurrency"),
        ({"concurrency": "5"}, "concurrency"),
        ({"limits": [{"requests": 5, "per": "month"}]}, "limits.0.per"),
        ({"limits": [{"requests": 0, "per": "hour"}]}, "limits.0.requests"),
        ({"limits": [{"requests": 5, "per": "hour"}, {"requests": 6, "per": "hour"}]}, ""),
        ({"quotas": [{"requests": 5, "per": "day"}, {"requests": 6, "per": "day"}]}, ""),
        ({"quotas": [{"requests": 5, "per": "minute"}]}, "quotas.0.per"),
        ({"rate": {"requests": 5}}, "rate.per"),
        ({"rate": {"requests": 10**12 - 1, "per": "day", "burst": 10**12}}, ""),
        ({"overage": "allow"}, "overage"),
        ({"plan": "free"}, "plan"),
    ],
)
async def test_what_no_plan_may_say_is_refused_by_name(api: Api, document: dict[str, object], field: str) -> None:
    """A mistake would lift a limit, or fail in every gateway at the key's next call."""
    key_id = (await api.key(await api.app()))["key_id"]
    reply = await put(api, key_id, **document)
    assert reply.status == 422, reply.text
    assert field in reply.fields
    assert (await api.get(f"/keys/{key_id}/limits")).document["changed_at"] is None


async def test_a_key_that_is_not_there_has_no_limits(api: Api, connection: Connection) -> None:
    """A typing error would look like a change that worked."""
    assert (await api.get("/keys/ak_live_nobody/limits")).status == 404
    assert (await put(api, "ak_live_nobody", concurrency=5)).status == 404
    assert (await api.request("DELETE", "/keys/ak_live_nobody/limits?reason=x")).status == 404
    assert (await api.request("DELETE", "/keys/ak_live_nobody/limits")).status == 422
    assert await connection.fetchval("SELECT count(*) FROM key_limit_changes") == 0
