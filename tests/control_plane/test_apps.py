"""Apps: described, changed, approved of by the platform, deleted."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest

from ostiary.control_plane.accounts.model import NewApp
from ostiary.control_plane.accounts.service import Accounts
from ostiary.control_plane.http.access import Actor, PlatformRole, Role
from ostiary.core.model import AppApproval
from tests.control_plane.support import Api

DESCRIBED = {
    "description": "sells",
    "website": "https://shop.example.com/",
    "redirect_uris": ["https://shop.example.com/callback?x=1", "http://localhost:8400/cb", "com.example.shop:/cb"],
}


async def _decide(api: Api, app_id: str, approval: str, reason: str = "checked") -> Any:
    return await api.post(f"/apps/{app_id}/approval", {"approval": approval, "reason": reason})


async def _revisions(connection: asyncpg.Connection) -> dict[str, int]:
    return {row["id"]: row["revision"] for row in await connection.fetch("SELECT id, revision FROM api_keys")}


async def test_an_app_is_described_and_changed(api: Api) -> None:
    organization_id = await api.organization()
    made = await api.post("/apps", {"organization_id": organization_id, "name": "Shop", **DESCRIBED})
    assert made.status == 201
    app = made.document
    assert {name: app[name] for name in DESCRIBED} == DESCRIBED
    assert (app["environment"], app["approval"], app["approval_by"]) == ("live", "approved", None)
    path = f"/apps/{app['id']}"
    changed = await api.request("PATCH", path, json={"name": "Store", "website": None})
    assert (changed.status, changed.document) == (200, {**app, "name": "Store", "website": None})
    emptied = await api.request("PATCH", path, json={"redirect_uris": [], "description": ""})
    assert (emptied.document["redirect_uris"], emptied.document["name"]) == ([], "Store")
    assert (await api.get(path)).document == emptied.document
    await api.app(organization_id, "Other")
    taken = await api.request("PATCH", path, json={"name": "Other"})
    assert (taken.status, taken.code) == (409, "conflict")
    assert (await api.request("PATCH", path, json={})).status == 422
    tag = (await api.get(path)).headers["ETag"]
    assert (await api.request("PATCH", path, json={"name": "A"}, headers={"If-Match": tag})).status == 200
    assert (await api.request("DELETE", path, headers={"If-Match": tag})).status == 412


@pytest.mark.parametrize(
    "uri",
    ["http://shop.example.com/cb", "https://shop.example.com/#part", "javascript:alert(1)", "https://a b/", "data:,x", "//x",
     "", "https://user@example.com/", "http://localhost.example.com/cb", "com.example.shop:/cb#x", "https://x/\n"],
)  # fmt: skip
async def test_a_redirect_uri_that_could_lead_elsewhere_is_refused(refusing_api: Api, uri: str) -> None:
    """A code of a customer's user would be sent to whoever reads along."""
    organization_id = "0b6e8f0e-4c55-4b53-9d0a-2f6f1f0a7c11"
    reply = await refusing_api.post("/apps", {"organization_id": organization_id, "name": "x", "redirect_uris": [uri]})
    assert reply.status == 422
    assert list(reply.fields) == ["redirect_uris.0"]


async def test_the_platform_decides_and_the_last_decision_is_told(api: Api) -> None:
    app_id = await api.app()
    suspended = await _decide(api, app_id, "suspended", "complaints")
    assert suspended.status == 200
    document = suspended.document
    assert (document["approval"], document["approval_reason"], document["approval_by"]) == (
        "suspended", "complaints", "operator",
    )  # fmt: skip
    again = await _decide(api, app_id, "suspended", "again")
    assert again.document == document, "what is decided stays as it was"
    listed = await api.get("/apps?approval=suspended")
    assert ([app["id"] for app in listed.document["data"]], listed.document["total"]) == ([app_id], 1)
    assert (await api.get("/apps?approval=pending")).document["total"] == 0
    assert (await _decide(api, app_id, "approved")).document["approval"] == "approved"
    assert (await _decide(api, app_id, "pending")).status == 422
    assert (await _decide(api, "0b6e8f0e-4c55-4b53-9d0a-2f6f1f0a7c11", "approved")).status == 404


async def test_a_decision_is_told_of_each_key_that_could_work(api: Api, connection: asyncpg.Connection) -> None:
    """Gateways would let in the keys of an app that is suspended until they forget them."""
    app_id = await api.app()
    keys = [(await api.key(app_id))["key_id"] for _ in range(3)]
    other = (await api.key(await api.app((await api.get(f"/apps/{app_id}")).document["organization_id"], "Other")))[
        "key_id"
    ]
    revisions = await _revisions(connection)
    heard: list[Any] = []
    await connection.add_listener("ostiary_keys", lambda *told: heard.append(told[3]))
    await _decide(api, app_id, "suspended")
    after = await _revisions(connection)
    assert all(after[key] > max(revisions.values()) for key in keys)
    assert after[other] == revisions[other]
    assert sorted(heard) == sorted(keys)


async def test_an_app_for_tests_has_test_keys_alone(api: Api) -> None:
    sent = {"organization_id": await api.organization(), "name": "Try", "environment": "test"}
    app_id = (await api.post("/apps", sent)).document["id"]
    refused = await api.post(f"/apps/{app_id}/keys", {"name": "x", "environment": "live"})
    assert (refused.status, list(refused.fields)) == (422, ["environment"])
    assert (await api.post(f"/apps/{app_id}/keys", {"name": "x", "environment": "test"})).status == 201


async def test_apps_of_members_wait_where_the_setting_says_so(api: Api, connection: asyncpg.Connection) -> None:
    """Anybody who signs up would call what is live."""
    organization_id = await api.organization()
    member = Actor("user:1", "u", None, {organization_id: Role.DEVELOPER})
    operator = Actor("operator", "o", PlatformRole.OPERATOR)
    for number, (approval, by, expected) in enumerate(
        (
            (AppApproval.AUTOMATIC, member, "approved"),
            (AppApproval.MANUAL, member, "pending"),
            (AppApproval.MANUAL, operator, "approved"),
        )
    ):
        new = NewApp(organization_id=organization_id, name=f"app {number}")
        assert (await Accounts(approval=approval).create_app(connection, new, by=by)).approval == expected


async def test_an_app_is_deleted_with_its_keys_once_none_is_in_force(api: Api, connection: asyncpg.Connection) -> None:
    """A slip would end what a customer runs."""
    app_id = await api.app()
    key_id = (await api.key(app_id))["key_id"]
    refused = await api.request("DELETE", f"/apps/{app_id}")
    assert (refused.status, refused.code) == (409, "conflict")
    assert (await api.get(f"/keys/{key_id}")).status == 200
    await api.post(f"/keys/{key_id}/revoke", {"reason": "the end"})
    deleted = await api.request("DELETE", f"/apps/{app_id}")
    assert (deleted.status, deleted.document["id"]) == (200, app_id)
    for path in (f"/apps/{app_id}", f"/keys/{key_id}"):
        assert (await api.get(path)).status == 404
    assert (await api.request("DELETE", f"/apps/{app_id}")).status == 404
