"""The table of who may do what, held against a real control plane whose callers have the roles."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from ostiary.control_plane import accounts, audit, keys
from ostiary.control_plane.audit import AuditLog
from ostiary.control_plane.authorization import MATRIX
from ostiary.control_plane.db import open_pool
from ostiary.control_plane.http.access import Access, Actor, PlatformRole, Role, members
from ostiary.control_plane.http.dispatch import Dispatcher
from ostiary.control_plane.http.edge import Edge
from ostiary.control_plane.http.operations import BASE
from ostiary.core.encryption import Envelope
from tests.control_plane.support import OPERATOR_TOKEN, Api

OWNERS = {
    "organization_id": accounts.organization_itself,
    "app_id": accounts.organization_of_app,
    "key_id": keys.organization_of_key,
}


@asynccontextmanager
async def serving_for(database: str, actor: Actor) -> AsyncIterator[Api]:
    """Accounts, keys and audit, where any token but the operator's is `actor`'s."""

    async def authenticate(_: str) -> Actor:
        return actor

    pool = await open_pool(database)
    app = web.Application(middlewares=[Edge(operator_token=OPERATOR_TOKEN, authenticators=[authenticate]).middleware()])
    dispatcher = Dispatcher(pool=pool, matrix=MATRIX, owners=OWNERS, audit=AuditLog())
    directory = accounts.Accounts()
    for operation in (
        *accounts.operations(directory),
        *keys.operations(keys.Keys(plans=keys.the_plans(()), envelope=Envelope(bytes(32)), key_prefix="")),
        *audit.operations(audit.Audit(accounts=directory)),
    ):
        app.router.add_route(operation.method, BASE + operation.path, dispatcher.handler(operation))
    async with TestClient(TestServer(app)) as client:
        yield Api(client)
    await pool.close()


async def test_a_member_s_role_opens_what_is_theirs_and_nothing_of_others_is_there(database: str, api: Api) -> None:
    """Row 126: one customer would read, or learn of, another's apps."""
    own, foreign = await api.organization("Own"), await api.organization("Foreign")
    own_app, foreign_app = await api.app(own), await api.app(foreign)
    absent = "00000000-0000-4000-8000-000000000000"
    for role, may_create in ((Role.VIEWER, False), (Role.DEVELOPER, True), (Role.ADMIN, True), (Role.OWNER, True)):
        async with serving_for(database, Actor("user:1", "u", None, {own: role})) as theirs:
            assert (await theirs.get(f"/apps/{own_app}", token="t")).status == 200
            replies = [await theirs.get(f"/apps/{app}", token="t") for app in (foreign_app, absent)]
            documents = [{**reply.document, "request_id": ""} for reply in replies]
            assert [reply.status for reply in replies] == [404, 404]
            assert documents[0] == documents[1], "what is another's looks as what is not there"
            made = await theirs.request("POST", "/apps", token="t", json={"organization_id": own, "name": role})
            assert made.status == (201 if may_create else 403), made.text
            for organization in (foreign, absent):
                sent = {"organization_id": organization, "name": "x"}
                refused = await theirs.request("POST", "/apps", token="t", json=sent)
                assert (refused.status, refused.fields) == (422, {"organization_id": "there is nothing of this id"})
            refused = await theirs.request("POST", "/organizations", token="t", json={"name": "Mine"})
            assert (refused.status, refused.code) == (403, "role_missing")


async def test_an_auditor_reads_everything_and_changes_nothing(database: str, api: Api) -> None:
    """Row 126."""
    organization_id = await api.organization()
    app_id = await api.app(organization_id)
    async with serving_for(database, Actor("user:2", "a", PlatformRole.AUDITOR)) as auditor:
        for path in ("/apps", "/organizations", f"/apps/{app_id}", f"/organizations/{organization_id}"):
            assert (await auditor.get(path, token="t")).status == 200
        for path, sent in (
            ("/apps", {"organization_id": organization_id, "name": "x"}),
            ("/organizations", {"name": "x"}),
        ):
            refused = await auditor.request("POST", path, token="t", json=sent)
            assert (refused.status, refused.code) == (403, "role_missing")


async def test_an_operation_that_is_not_in_the_table_is_not_served(database: str) -> None:
    """One that somebody forgot to write down would be open."""
    pool = await open_pool(database)
    declared = accounts.operations(accounts.Accounts())
    with pytest.raises(KeyError):
        Dispatcher(pool=pool, matrix={}, owners=OWNERS, audit=AuditLog()).handler(declared[0])
    matrix: dict[str, Access] = {declared[0].id: members(Role.VIEWER, "widget_id")}
    with pytest.raises(KeyError):
        Dispatcher(pool=pool, matrix=matrix, owners=OWNERS, audit=AuditLog()).handler(declared[0])
    await pool.close()


def test_each_role_reaches_those_before_it() -> None:
    """A role that stood in the wrong place would give rights away."""
    reached = {role: [least for least in Role if role.reaches(least)] for role in Role}
    assert reached == {
        Role.VIEWER: [Role.VIEWER],
        Role.DEVELOPER: [Role.VIEWER, Role.DEVELOPER],
        Role.ADMIN: [Role.VIEWER, Role.DEVELOPER, Role.ADMIN],
        Role.OWNER: list(Role),
    }
