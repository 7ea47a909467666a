"""Versions of resources: what was read is not written over by who did not see it, and is not sent again unchanged."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from tests.control_plane.people import invited, person
from tests.control_plane.support import OPERATOR_TOKEN, Api
from tests.support.waiting import SECONDS_MAX


async def _key(api: Api) -> tuple[str, str]:
    """A key's path, and its tag."""
    path = f"/keys/{(await api.key(await api.app()))['key_id']}"
    return path, (await api.get(path)).headers["ETag"]


async def test_a_change_by_who_did_not_see_the_last_one_is_refused(api: Api) -> None:
    """Of two people who edit a key, the slower would undo what the faster did, and neither would know."""
    path, tag = await _key(api)
    faster = await api.request("PATCH", path, json={"name": "faster"}, headers={"If-Match": tag})
    assert faster.status == 200
    slower = await api.request("PATCH", path, json={"name": "slower"}, headers={"If-Match": tag})
    assert (slower.status, slower.code) == (412, "precondition_failed")
    read = await api.get(path)
    assert read.document["name"] == "faster"
    assert read.headers["ETag"] == faster.headers["ETag"] != tag
    again = await api.request(
        "PATCH", path, json={"name": "slower"}, headers={"If-Match": f'"other", {faster.headers["ETag"]}'}
    )
    assert again.status == 200
    assert (await api.request("PATCH", path, json={"name": "any"}, headers={"If-Match": "*"})).status == 200
    assert (await api.request("PATCH", path, json={"name": "last wins"})).status == 200


async def test_of_many_changes_at_once_from_one_version_one_is_made(api: Api) -> None:
    """The check and the change would be two moments, and two who pass the check would both write."""
    path, tag = await _key(api)
    replies = await asyncio.gather(
        *(
            api.request("PATCH", path, json={"name": f"name {number}"}, headers={"If-Match": tag})
            for number in range(12)
        )
    )
    assert sorted(reply.status for reply in replies) == [200, *[412] * 11]


# What each operation that takes If-Match is sent; those without a body have none.
BODIES: Mapping[str, object] = {
    "amendUser": {"name": "Another"},
    "amendMember": {"role": "viewer"},
    "amendOrganization": {"name": "Renamed"},
    "amendApp": {"name": "Renamed"},
    "decideApp": {"approval": "suspended", "reason": "x"},
    "amendKey": {"name": "renamed"},
    "rotateKey": {},
    "revokeKey": {"reason": "x"},
    "putKeyLimits": {"concurrency": 3, "reason": "x"},
    "replacePlan": {"concurrency": 3},
}
# Plans change where routes are published alone: test_plans.py.
NOT_HERE = {"replacePlan", "deletePlan"}


async def _things(api: Api) -> tuple[dict[str, str], str]:
    """The ids by which paths name one thing of each sort, and the access token of the user."""
    organization_id = await api.organization(f"Acme {uuid4()}")
    app_id = await api.app(organization_id)
    email = f"{uuid4().hex}@example.com"
    user = await person(api, email, organization_id=organization_id, role="developer")
    invitation = await invited(api, f"{uuid4().hex}@example.com", organization_id=organization_id, role="viewer")
    token = await api.post("/platform-tokens", {"name": "x", "platform_role": "auditor"})
    sessions = await api.get("/me/sessions", token=user.token)
    key_id = (await api.key(app_id))["key_id"]
    await api.post(f"/keys/{key_id}/rotate", {})
    return {
        "organization_id": organization_id,
        "app_id": app_id,
        "plan_name": "standard",
        "key_id": key_id,
        "number": "1",
        "user_id": user.id,
        "invitation_id": invitation.document["id"],
        "token_id": token.document["id"],
        "session_id": sessions.document["data"][0]["id"],
    }, user.token


async def _operations(api: Api) -> dict[str, tuple[str, str]]:
    """Method and path of each operation that takes If-Match, by the document."""
    document = (await api.get("/api/v1/openapi.json")).document
    return {
        operation["operationId"]: (method.upper(), path.removeprefix("/api/v1"))
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if any(each["name"] == "If-Match" for each in operation.get("parameters", ()))
    }


async def test_every_operation_that_takes_if_match_refuses_a_stale_version_and_takes_the_present_one(api: Api) -> None:
    """One that ignored it would undo what somebody else has done, and answer 200."""
    operations = await _operations(api)
    assert {"amendUser", "amendMember", "removeMember", "revokeInvitation", "revokePlatformToken", "endMySession"} <= (
        operations.keys()
    )
    assert {"rotateKey", "revokeKey", "endGeneration", "decideApp", "putKeyLimits", "deleteKeyLimits"} <= (
        operations.keys()
    )
    things, token = await _things(api)
    # What ends a thing comes last, and of these what ends the most.
    last = ("endGeneration", "revokeKey", "deleteApp", "removeMember", "endMySession", "deleteOrganization")
    for name in sorted(operations, key=lambda name: (last.index(name) if name in last else -1, name)):
        method, path = operations[name]
        path = path.format_map(things)
        options: dict[str, Any] = {"json": BODIES[name]} if name in BODIES else {}
        if name == "deleteKeyLimits":
            options["params"] = {"reason": "x"}
        if name == "endMySession":
            options["token"] = token
        stale = await api.request(method, path, headers={"If-Match": '"stale.stale"'}, **options)
        assert (stale.status, stale.code) == (412, "precondition_failed"), name
        if name in NOT_HERE:
            continue
        read = await api.get(_read_path(path), token=options.get("token", OPERATOR_TOKEN))
        assert read.status == 200, f"{name}: {read.text}"
        present = await api.request(method, path, headers={"If-Match": read.headers["ETag"]}, **options)
        assert present.status == 200, f"{name}: {present.text}"


def _read_path(path: str) -> str:
    """Where the thing is read that a call to this path changes."""
    return re.sub(r"/(approval|rotate|revoke|generations/1)$", "", path)


@pytest.mark.parametrize("name", ["amendUser", "amendMember", "decideApp", "rotateKey", "revokePlatformToken"])
async def test_of_two_changes_from_one_version_one_is_made_whatever_is_changed(api: Api, name: str) -> None:
    """The check and the change would be two moments: of two who pass the check, the slower would undo the other's."""
    method, path = (await _operations(api))[name]
    path = path.format_map((await _things(api))[0])
    tag = (await api.get(_read_path(path))).headers["ETag"]
    options: dict[str, Any] = {"json": BODIES[name]} if name in BODIES else {}
    replies = await asyncio.gather(*(api.request(method, path, headers={"If-Match": tag}, **options) for _ in range(6)))
    assert sorted(reply.status for reply in replies) == [200, *[412] * 5]


async def test_a_change_beside_the_api_waits_for_the_one_that_has_compared(
    api: Api, connection: asyncpg.Connection
) -> None:
    """An invitation that is accepted between comparing and revoking would be told to be revoked; and who got in by it would
    stay in. Nothing but the row's own lock holds both."""
    things, _ = await _things(api)
    path = f"/invitations/{things['invitation_id']}"
    tag = (await api.get(path)).headers["ETag"]
    async with connection.transaction():
        await connection.execute("UPDATE invitations SET revoked_at = now() WHERE id = $1", things["invitation_id"])
        revoking = asyncio.create_task(api.request("DELETE", path, headers={"If-Match": tag}))
        await _until_somebody_waits(connection)
        assert not revoking.done()
    assert (await revoking).status == 412, "it was not as it had been read"


async def _until_somebody_waits(connection: asyncpg.Connection) -> None:
    async with asyncio.timeout(SECONDS_MAX):
        while not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"):  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_what_opens_its_own_transactions_refuses_a_condition(api: Api) -> None:
    """It can't compare and change in one moment: a client that believes itself safe is told that it is not."""
    things, token = await _things(api)
    for path, body in (
        ("/sign-in", {"email": "a@example.com", "password": "x"}),
        ("/access-tokens", {"email": "a@example.com", "password": "x"}),
        ("/access-tokens/refresh", {"refresh_token": "x"}),
        ("/me/password", {"current_password": "x", "new_password": "seven horses in a row"}),
        (f"/me/organizations/{things['organization_id']}/leave", None),
        ("/sign-out", None),
    ):
        options = {} if body is None else {"json": body}
        refused = await api.request("POST", path, token=token, headers={"If-Match": "*"}, **options)
        assert (refused.status, refused.code) == (412, "precondition_failed"), path
    assert (await api.get("/me", token=token)).status == 200, "nothing of it was done"


async def test_limits_of_a_key_have_versions_of_their_own(api: Api) -> None:
    path, _ = await _key(api)
    tag = (await api.get(f"{path}/limits")).headers["ETag"]
    sent = {"concurrency": 3, "reason": "x"}
    assert (await api.request("PUT", f"{path}/limits", json=sent, headers={"If-Match": tag})).status == 200
    for method, options in (("PUT", {"json": sent}), ("DELETE", {"params": {"reason": "x"}})):
        refused = await api.request(method, f"{path}/limits", headers={"If-Match": tag}, **options)
        assert (refused.status, refused.code) == (412, "precondition_failed")
    assert (await api.get(f"{path}/limits")).document["concurrency"] == 3


async def test_what_a_reader_has_already_is_not_sent_again(api: Api) -> None:
    path, tag = await _key(api)
    for known in (tag, f'"x", W/{tag}', "*"):
        reply = await api.get(path, headers={"If-None-Match": known})
        assert (reply.status, reply.text, reply.headers["ETag"]) == (304, "", tag)
    assert (await api.get(path, headers={"If-None-Match": '"x"'})).status == 200
    await api.request("PATCH", path, json={"name": "another"})
    assert (await api.get(path, headers={"If-None-Match": tag})).status == 200


async def test_a_use_of_a_key_makes_a_new_answer_and_hinders_no_change(
    api: Api, connection: asyncpg.Connection
) -> None:
    """A key in use could never be changed with If-Match; or a reader would keep an old time of its last use."""
    path, tag = await _key(api)
    await connection.execute(
        "INSERT INTO key_uses (key_id, generation, last_used_at) VALUES ($1, 1, now())", path.removeprefix("/keys/")
    )
    read = await api.get(path, headers={"If-None-Match": tag})
    assert (read.status, read.headers["ETag"] != tag) == (200, True)
    assert (await api.request("PATCH", path, json={"name": "x"}, headers={"If-Match": tag})).status == 200


async def test_a_condition_that_can_not_be_checked_is_refused(api: Api) -> None:
    """A client would believe itself safe."""
    path, tag = await _key(api)
    made = await api.request("POST", "/organizations", json={"name": "New"}, headers={"If-Match": "*"})
    assert (made.status, made.code) == (412, "precondition_failed")
    for wrong in ("unquoted", '"open', "", '"a" "b"', ",".join(['"x"'] * 2000)):
        refused = await api.request("PATCH", path, json={"name": "x"}, headers={"If-Match": wrong})
        assert (refused.status, refused.code) == (400, "malformed_request"), wrong
        refused = await api.request("POST", "/organizations", json={"name": "New"}, headers={"If-Match": wrong})
        assert (refused.status, refused.code) == (400, "malformed_request"), f"{wrong}, where there is no version"
    weak = await api.request("PATCH", path, json={"name": "x"}, headers={"If-Match": f"W/{tag}"})
    assert weak.status == 412, "the comparison is the strong one"
    unless = await api.request("PATCH", path, json={"name": "x"}, headers={"If-None-Match": tag})
    assert unless.status == 412
    assert (await api.get(path)).headers["ETag"] == tag


async def test_what_is_not_there_is_not_found_whatever_the_condition(api: Api) -> None:
    refused = await api.request("PATCH", "/keys/ak_none", json={"name": "x"}, headers={"If-Match": '"x"'})
    assert refused.status == 404
