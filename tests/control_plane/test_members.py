"""Members and invitations: who may give which role, and that an organization keeps an owner."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest

from ostiary.control_plane.db import Connection
from tests.control_plane.people import Person, accepted, by_password, invited, person
from tests.control_plane.support import OPERATOR_TOKEN, Api, Reply


async def staffed(api: Api) -> tuple[str, dict[str, Person]]:
    organization_id = await api.organization()
    people = {
        role: await person(api, f"{role}@example.com", organization_id=organization_id, role=role)
        for role in ("owner", "admin", "developer")
    }
    return organization_id, people


async def set_role(api: Api, organization_id: str, of: Person, role: str, *, by: Person | None = None) -> Reply:
    token = OPERATOR_TOKEN if by is None else by.token
    path = f"/organizations/{organization_id}/members/{of.id}"
    return await api.request("PATCH", path, token=token, json={"role": role})


async def remove(api: Api, organization_id: str, of: Person, *, by: Person | None = None) -> Reply:
    token = OPERATOR_TOKEN if by is None else by.token
    return await api.request("DELETE", f"/organizations/{organization_id}/members/{of.id}", token=token)


async def test_an_invitation_is_shown_once_and_good_once(api: Api, connection: Connection) -> None:
    organization_id = await api.organization()
    made = await invited(api, "Rosa@Example.com", organization_id=organization_id, role="viewer")
    token = made.document["token"]
    assert token.startswith("it_"), "so that scanners can tell it"
    listed = (await api.get(f"/organizations/{organization_id}/invitations")).document["data"]
    assert [(each["email"], each["state"], each["invited_by"]) for each in listed] == [
        ("rosa@example.com", "pending", "operator")
    ]
    assert "token" not in listed[0]
    replies = await asyncio.gather(*(accepted(api, token) for _ in range(3)))
    assert sorted(reply.status for reply in replies)[0] == 200
    assert {reply.status for reply in replies[1:]} <= {200, 409, 422}
    assert [reply.status for reply in replies].count(200) == 1
    assert (await accepted(api, token)).status == 422
    (member,) = (await api.get(f"/organizations/{organization_id}/members")).document["data"]
    assert (member["email"], member["role"]) == ("rosa@example.com", "viewer")


@pytest.mark.parametrize("end", ["revoked", "expired", "changed"])
async def test_an_invitation_that_is_over_lets_nobody_in(api: Api, connection: Connection, end: str) -> None:
    made = await invited(api, "rosa@example.com", organization_id=await api.organization(), role="owner")
    token = made.document["token"]
    days = await connection.fetchval("SELECT expires_at - created_at FROM invitations")
    assert days.days == 7
    if end == "revoked":
        for _ in range(2):
            assert (await api.request("DELETE", f"/invitations/{made.document['id']}")).document["state"] == "revoked"
    elif end == "expired":
        await connection.execute("UPDATE invitations SET expires_at = now()")
    else:
        token = token[:-1] + ("A" if token[-1] != "A" else "B")
    assert (await accepted(api, token)).status == 422
    assert await connection.fetchval("SELECT count(*) FROM users") == 0


async def test_who_is_a_user_accepts_as_such_and_nobody_else_for_them(api: Api) -> None:
    """An invitation that could set a password of an existing user would hand their account over."""
    first, second = await api.organization("First"), await api.organization("Second")
    rosa = await person(api, "rosa@example.com", organization_id=first, role="viewer")
    paul = await person(api, "paul@example.com", organization_id=first, role="viewer")
    token = (await invited(api, "rosa@example.com", organization_id=second, role="developer")).document["token"]
    refused = await accepted(api, token, "another password of mine")
    assert (refused.status, refused.code) == (409, "conflict")
    assert (await by_password(api, "/sign-in", "rosa@example.com", "another password of mine")).status == 401
    by_paul = await api.request("POST", "/me/invitations/accept", token=paul.token, json={"token": token})
    assert by_paul.status == 409
    assert (await api.request("POST", "/me/invitations/accept", token=rosa.token, json={"token": token})).status == 200
    memberships = (await api.get("/me", token=rosa.token)).document["memberships"]
    assert [(each["organization_name"], each["role"]) for each in memberships] == [
        ("First", "viewer"),
        ("Second", "developer"),
    ]


async def test_nobody_gives_changes_or_takes_a_role_above_their_own(api: Api) -> None:
    """An admin who makes themselves, or a friend, an owner."""
    organization_id, people = await staffed(api)
    owner, admin, developer = people["owner"], people["admin"], people["developer"]
    for who, role, status in ((admin, "owner", 403), (admin, "admin", 201), (owner, "owner", 201)):
        made = await invited(
            api, f"new-{role}@example.com", token=who.token, organization_id=organization_id, role=role
        )
        assert made.status == status, made.text
    assert (
        await invited(api, "x@example.com", token=developer.token, organization_id=organization_id, role="viewer")
    ).status == 403
    assert (await set_role(api, organization_id, admin, "owner", by=admin)).status == 403
    assert (await set_role(api, organization_id, developer, "owner", by=admin)).status == 403
    assert (await set_role(api, organization_id, owner, "viewer", by=admin)).status == 403
    assert (await remove(api, organization_id, owner, by=admin)).status == 403
    assert (await set_role(api, organization_id, developer, "admin", by=admin)).status == 200
    assert (await set_role(api, organization_id, developer, "owner", by=owner)).status == 200
    assert (await remove(api, organization_id, admin, by=owner)).status == 200
    assert (await api.get(f"/organizations/{organization_id}", token=admin.token)).status == 404


async def test_an_organization_keeps_an_owner(api: Api) -> None:
    """Two owners who leave at the same moment would leave it to nobody."""
    organization_id, people = await staffed(api)
    owner, admin = people["owner"], people["admin"]
    leave = f"/me/organizations/{organization_id}/leave"
    for refused in (
        await api.request("POST", leave, token=owner.token),
        await set_role(api, organization_id, owner, "admin", by=owner),
        await remove(api, organization_id, owner),
    ):
        assert (refused.status, refused.code) == (409, "conflict")
    await set_role(api, organization_id, admin, "owner")
    replies = await asyncio.gather(*(api.request("POST", leave, token=each.token) for each in (owner, admin)))
    assert sorted(reply.status for reply in replies) == [200, 409]


@pytest.mark.parametrize("way", ["leaves", "is removed", "becomes an admin"])
async def test_an_owner_who_goes_waits_for_another_who_is_going(api: Api, connection: Connection, way: str) -> None:
    """The organization's row is held by a transaction in which the other owner goes: whoever did not wait for it would still
    see two owners, and leave nobody."""
    organization_id, people = await staffed(api)
    owner, other = people["owner"], people["admin"]
    await set_role(api, organization_id, other, "owner")
    async with connection.transaction():
        await connection.execute("SELECT FROM organizations WHERE id = $1 FOR NO KEY UPDATE", organization_id)
        await connection.execute("DELETE FROM memberships WHERE user_id = $1", other.id)
        calls = {
            "leaves": partial(api.request, "POST", f"/me/organizations/{organization_id}/leave", token=owner.token),
            "is removed": partial(remove, api, organization_id, owner),
            "becomes an admin": partial(set_role, api, organization_id, owner, "admin"),
        }
        going = asyncio.create_task(calls[way]())
        async with asyncio.timeout(60):
            while not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"):
                assert not going.done(), "it did not wait"
                await asyncio.sleep(0.01)
    reply = await going
    assert (reply.status, reply.code) == (409, "conflict")


async def test_an_invitation_changes_nothing_for_who_is_a_member(api: Api) -> None:
    organization_id, people = await staffed(api)
    token = (await invited(api, "owner@example.com", organization_id=organization_id, role="viewer")).document["token"]
    owner = people["owner"]
    assert (await api.request("POST", "/me/invitations/accept", token=owner.token, json={"token": token})).status == 200
    members = (await api.get(f"/organizations/{organization_id}/members")).document["data"]
    assert {each["email"]: each["role"] for each in members}["owner@example.com"] == "owner"


async def test_only_operators_give_roles_over_the_platform(api: Api) -> None:
    """The first operator comes about by the configuration's token; there is always that one."""
    operator = await person(api, "operator@example.com", platform_role="operator")
    auditor = await person(api, "auditor@example.com", platform_role="auditor")
    grant: dict[str, Any] = {"platform_role": "operator"}
    assert (await api.request("PATCH", f"/users/{auditor.id}", token=auditor.token, json=grant)).status == 403
    assert (await invited(api, "x@example.com", token=auditor.token, **grant)).status == 403
    own = await api.request("PATCH", f"/users/{operator.id}", token=operator.token, json={"platform_role": None})
    assert (own.status, own.code) == (409, "conflict")
    assert (await api.request("PATCH", f"/users/{auditor.id}", token=operator.token, json=grant)).status == 200
    assert (await api.request("PATCH", f"/users/{operator.id}", json={"platform_role": None})).status == 200
    assert (await api.get("/users", token=operator.token)).status == 403


async def test_an_organization_is_renamed_and_deleted_only_without_apps(api: Api, connection: Connection) -> None:
    organization_id, people = await staffed(api)
    await api.organization("Taken")
    path = f"/organizations/{organization_id}"
    owner, admin = people["owner"].token, people["admin"].token
    assert (await api.request("PATCH", path, token=admin, json={"name": "Taken"})).code == "conflict"
    assert (await api.request("PATCH", path, token=admin, json={"name": "New"})).document["name"] == "New"
    app_id = await api.app(organization_id)
    assert (await api.request("DELETE", path, token=admin)).status == 403
    assert (await api.request("DELETE", path, token=owner)).code == "conflict"
    await connection.execute("DELETE FROM apps WHERE id = $1", app_id)
    assert (await api.request("DELETE", path, token=owner)).status == 200
    assert (await api.get(path, token=owner)).status == 404
    assert await connection.fetchval("SELECT count(*) FROM memberships") == 0
