"""Rotation over the API: a new secret for the same key, at most two in force, and who still uses which."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ostiary.control_plane.db import Connection
from ostiary.core.credentials import checksum_holds, secret_sha256
from ostiary.core.encryption import Envelope
from tests.control_plane.support import KEY_ENCRYPTION_KEY, Api, Reply

WEEK = timedelta(days=7)
USED = """
    INSERT INTO key_uses VALUES ($1, $2, now(), '192.0.2.7', 'curl/8')
"""


async def rotate(api: Api, key_id: str, **rotation: int) -> dict[str, Any]:
    reply = await api.post(f"/keys/{key_id}/rotate", rotation)
    assert reply.status == 200, reply.text
    document: dict[str, Any] = reply.document
    return document


async def end(api: Api, key_id: str, number: object) -> Reply:
    return await api.request("DELETE", f"/keys/{key_id}/generations/{number}")


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


async def test_a_rotated_key_has_two_secrets_for_a_week(api: Api, connection: Connection) -> None:
    """Row 66: whoever rotates would cut off every program that has the old secret still, or never be rid of it."""
    created = await api.key(await api.app(), environment="live", scopes=["clients:read"])
    rotated = await rotate(api, created["key_id"])
    assert (rotated["key_id"], rotated["state"], rotated["scopes"]) == (created["key_id"], "rotating", ["clients:read"])
    assert checksum_holds(rotated["secret"])
    assert rotated["secret"].startswith("sk_live_")
    present, before = rotated["generations"]
    assert (present["number"], present["secret_hint"], present["ends_at"]) == (2, rotated["secret"][-4:], None)
    assert (before["number"], before["secret_hint"]) == (1, created["secret"][-4:])
    assert before["created_at"] == created["created_at"] < present["created_at"]
    assert abs(moment(before["ends_at"]) - datetime.now(UTC) - WEEK) < timedelta(minutes=1)
    row = await connection.fetchrow("SELECT * FROM api_keys WHERE id = $1", created["key_id"])
    assert row is not None
    envelope = Envelope(KEY_ENCRYPTION_KEY)
    for prefix, secret in (("", rotated["secret"]), ("previous_", created["secret"])):
        assert row[f"{prefix}secret_sha256"] == secret_sha256(secret.encode())
        sealed, wrapped = row[f"{prefix}secret_sealed"], row[f"{prefix}data_key_wrapped"]
        assert envelope.open(sealed, wrapped, key_id=created["key_id"]) == secret.encode()
    assert {name: value for name, value in rotated.items() if name != "secret"} == (
        await api.get(f"/keys/{created['key_id']}")
    ).document


async def test_rotating_again_ends_the_oldest_and_a_grace_of_nothing_the_present(
    api: Api, connection: Connection
) -> None:
    """A third secret would be in force that nobody remembers."""
    key_id = (await api.key(await api.app()))["key_id"]
    second = await rotate(api, key_id)
    third = await rotate(api, key_id, grace_seconds=60)
    assert [each["number"] for each in third["generations"]] == [3, 2]
    assert third["generations"][1]["secret_hint"] == second["secret"][-4:]
    fourth = await rotate(api, key_id, grace_seconds=0)
    assert fourth["state"] == "active"
    assert [each["number"] for each in fourth["generations"]] == [4, 3]
    assert moment(fourth["generations"][1]["ends_at"]) <= datetime.now(UTC)
    kept = "SELECT previous_secret_sha256, previous_secret_sealed, previous_data_key_wrapped FROM api_keys"
    assert set(await connection.fetchrow(kept) or ()) == {None}, "nothing is left of a secret that has ended"


async def test_a_grace_never_outlives_the_key(api: Api) -> None:
    """A secret would work past the day on which its holder was promised an end."""
    created = await api.key(await api.app(), expires_in_days=2)
    rotated = await rotate(api, created["key_id"])
    assert rotated["generations"][1]["ends_at"] == created["expires_at"] == rotated["expires_at"]


async def test_a_generation_is_ended_ahead_of_its_time_once(api: Api, connection: Connection) -> None:
    """Row 66: the operator who saw that nobody uses a leaked secret any more would have to wait for the week to pass."""
    key_id = (await api.key(await api.app()))["key_id"]
    await rotate(api, key_id)
    ended = await end(api, key_id, 1)
    assert (ended.status, ended.document["state"]) == (200, "active")
    assert moment(ended.document["generations"][1]["ends_at"]) <= datetime.now(UTC)
    assert (await end(api, key_id, 1)).document == ended.document
    assert await connection.fetchval("SELECT previous_secret_sealed FROM api_keys") is None
    assert ((await end(api, key_id, 2)).status, (await end(api, key_id, 3)).status) == (409, 404)
    assert [(await end(api, key_id, number)).status for number in ("0", "x", "-1", "1_0")] == [404] * 4
    assert (await end(api, "ak_test_nobody", 1)).status == 404


async def test_a_key_that_is_not_in_force_is_not_rotated(api: Api, connection: Connection) -> None:
    """A revoked key would get a secret, and its holder believe that it works."""
    app_id = await api.app()
    revoked, expired = await api.key(app_id), await api.key(app_id, expires_in_days=1)
    await api.post(f"/keys/{revoked['key_id']}/revoke", {"reason": "leaked"})
    await connection.execute("UPDATE api_keys SET expires_at = now() WHERE id = $1", expired["key_id"])
    for key, state in ((revoked, "revoked"), (expired, "expired")):
        reply = await api.post(f"/keys/{key['key_id']}/rotate", {})
        assert (reply.status, reply.code) == (409, "conflict")
        assert state in reply.document["detail"]
    assert (await api.post("/keys/ak_test_nobody/rotate", {})).status == 404
    assert await connection.fetchval("SELECT max(generation) FROM api_keys") == 1


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({"grace_seconds": -1}, "grace_seconds"),
        ({"grace_seconds": 90 * 86_400 + 1}, "grace_seconds"),
        ({"grace_seconds": "7d"}, "grace_seconds"),
        ({"grace_seconds": 1.5}, "grace_seconds"),
        ({"secret": "sk_test_mine"}, "secret"),
    ],
)
async def test_a_wrong_rotation_is_refused_by_name(api: Api, document: dict[str, object], field: str) -> None:
    """Row 128: a secret of the caller's own choosing, or a grace without end."""
    key_id = (await api.key(await api.app()))["key_id"]
    reply = await api.post(f"/keys/{key_id}/rotate", document)
    assert (reply.status, list(reply.fields)) == (422, [field])


async def test_a_rotation_that_is_repeated_is_done_once_and_gives_its_secret_once(
    api: Api, connection: Connection
) -> None:
    """A client that repeats a call whose answer was lost would end the secret that its other programs use."""
    key_id = (await api.key(await api.app()))["key_id"]
    first = await api.post(f"/keys/{key_id}/rotate", {}, idempotency_key="one")
    again = await api.post(f"/keys/{key_id}/rotate", {}, idempotency_key="one")
    assert (first.status, again.status, again.code) == (200, 409, "secret_already_shown")
    assert first.document["secret"] not in again.text
    assert await connection.fetchval("SELECT generation FROM api_keys") == 2
    stored = await connection.fetchval("SELECT answer::text FROM idempotency_keys")
    assert first.document["secret"] not in stored


async def test_two_rotations_at_once_leave_two_secrets(api: Api, connection: Connection) -> None:
    """The first of the two would be lost, or three secrets be in force."""
    key_id = (await api.key(await api.app()))["key_id"]
    both = await asyncio.gather(rotate(api, key_id), rotate(api, key_id))
    row = await connection.fetchrow("SELECT generation, secret_sha256, previous_secret_sha256 FROM api_keys")
    assert row is not None
    assert row["generation"] == 3
    assert {row["secret_sha256"], row["previous_secret_sha256"]} == {
        secret_sha256(each["secret"].encode()) for each in both
    }


async def test_every_change_of_generations_is_announced(api: Api, connection: Connection) -> None:
    """Row 66: gateways would refuse the new secret, or take the ended one, until their next poll."""
    key_id = (await api.key(await api.app()))["key_id"]
    announced: asyncio.Queue[object] = asyncio.Queue()
    await connection.add_listener("ostiary_keys", lambda *heard: announced.put_nowait(heard[3]))
    await rotate(api, key_id)
    assert await asyncio.wait_for(announced.get(), 5) == key_id
    await end(api, key_id, 1)
    assert await asyncio.wait_for(announced.get(), 5) == key_id


async def test_a_key_shows_who_still_uses_which_generation(api: Api, connection: Connection) -> None:
    """Nobody could tell whether the old secret may be ended."""
    app_id = await api.app()
    key_id = (await api.key(app_id))["key_id"]
    nothing = await rotate(api, key_id)
    assert nothing["last_used_at"] is None
    assert [each["last_used_at"] for each in nothing["generations"]] == [None, None]
    await connection.execute(USED, key_id, 1)
    (listed,) = (await api.get(f"/apps/{app_id}/keys")).document["data"]
    assert listed == (await api.get(f"/keys/{key_id}")).document
    present, before = listed["generations"]
    assert (present["last_used_ip"], before["last_used_ip"]) == (None, "192.0.2.7")
    assert before["last_used_user_agent"] == "curl/8"
    assert listed["last_used_at"] == before["last_used_at"] is not None
    again = await rotate(api, key_id)
    assert [each["last_used_at"] for each in again["generations"]] == [None, None]
    assert await connection.fetchval("SELECT count(*) FROM key_uses") == 0, "of the generation that is gone"


# --- what can be changed about a key ----------------------------------------------------------------------------------


async def amend(api: Api, key_id: str, **changes: object) -> Reply:
    return await api.request("PATCH", f"/keys/{key_id}", json=changes)


async def test_what_is_given_changes_and_the_rest_stays(api: Api, connection: Connection) -> None:
    """A caller that gets a scope would lose its network, its plan or its secret."""
    created = await api.key(await api.app(), plan="standard", scopes=["a"], allowed_ips=["203.0.113.0/24"])
    key_id = created["key_id"]
    before = (await api.get(f"/keys/{key_id}")).document
    announced: asyncio.Queue[object] = asyncio.Queue()
    await connection.add_listener("ostiary_keys", lambda *heard: announced.put_nowait(heard[3]))
    reply = await amend(api, key_id, scopes=["a", "b"], name="nightly")
    assert (reply.status, reply.document) == (200, before | {"scopes": ["a", "b"], "name": "nightly"})
    assert await asyncio.wait_for(announced.get(), 5) == key_id
    reply = await amend(api, key_id, plan=None, allowed_ips=[], allowed_origins=["https://app.example.com"])
    assert reply.document == before | {
        "scopes": ["a", "b"],
        "name": "nightly",
        "plan": None,
        "allowed_ips": [],
        "allowed_origins": ["https://app.example.com"],
    }
    assert (await amend(api, key_id, plan="free")).document["plan"] == "free"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({}, ""),
        ({"name": None}, "name"),
        ({"scopes": None}, "scopes"),
        ({"scopes": ["UPPER"]}, "scopes.0"),
        ({"plan": "gold"}, "plan"),
        ({"allowed_ips": ["10.0.0.1/8"]}, "allowed_ips.0"),
        ({"allowed_origins": ["https://example.com/"]}, "allowed_origins.0"),
        ({"environment": "live"}, "environment"),
        ({"expires_at": "2030-01-01T00:00:00Z"}, "expires_at"),
        ({"secret": "x"}, "secret"),
        ({"revoked_at": None}, "revoked_at"),
        ({"app_id": "x"}, "app_id"),
    ],
)
async def test_a_wrong_change_is_refused_by_name(api: Api, changes: dict[str, object], field: str) -> None:
    """Row 128: a test key would become a live one, or a revoked one come back."""
    key_id = (await api.key(await api.app()))["key_id"]
    before = (await api.get(f"/keys/{key_id}")).document
    reply = await amend(api, key_id, **changes)
    assert (reply.status, list(reply.fields)) == (422, [field])
    assert (await api.get(f"/keys/{key_id}")).document == before


async def test_a_revoked_key_does_not_change_any_more(api: Api) -> None:
    """What was known of it when it was revoked would be rewritten."""
    key_id = (await api.key(await api.app()))["key_id"]
    await api.post(f"/keys/{key_id}/revoke", {"reason": "leaked"})
    before = (await api.get(f"/keys/{key_id}")).document
    assert (await amend(api, key_id, name="other")).status == 409
    assert (await api.get(f"/keys/{key_id}")).document == before
    assert (await amend(api, "ak_test_nobody", name="other")).status == 404
