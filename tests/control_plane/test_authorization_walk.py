"""Row 126: every operation by every role, on what is theirs, what is another's and what is not there. The expectation comes
from the table alone (`MATRIX`), the operations from the app as it is served: one that is added is walked without a word here,
unless it is about a new kind of thing."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
from aiohttp import DummyCookieJar
from aiohttp.test_utils import TestClient
from pydantic import create_model

from ostiary.control_plane.app import build_app
from ostiary.control_plane.authorization import MATRIX
from ostiary.control_plane.db import Connection
from ostiary.control_plane.http import AnyOperation, NoBody, NoParameters, Problem, ProblemCode, Request
from ostiary.control_plane.http.access import Access, PlatformRole, Role
from ostiary.core.model import Configuration
from tests.control_plane.people import invited, person
from tests.control_plane.support import Api, ListeningServer, Reply
from tests.support import authorization_page

ABSENT = "00000000-0000-4000-8000-000000000000"
# What stands in a path besides what it is about. Nothing of it is looked at before the caller is let through.
OTHERS = {"user_id": ABSENT, "session_id": ABSENT, "token_id": ABSENT, "number": "1"}


async def reached(_: object) -> Any:
    raise Problem(ProblemCode.CONFLICT, "reached")


class Walk:
    """Operations as declared, but for what they do and what they ask for besides the thing that they are about."""

    def __init__(self) -> None:
        self.operations: list[AnyOperation] = []

    def served(self, operation: AnyOperation) -> AnyOperation:
        self.operations.append(operation)
        access = MATRIX[operation.id]
        body: type[Request] = NoBody
        if access.whose is not None and access.whose not in operation.path_model.model_fields:
            field = {access.whose: (str, ...)}
            body = create_model("About", __base__=Request, **field)  # type: ignore[call-overload]  # named at run time
        return replace(
            operation,
            handler=reached,
            body_model=body,
            query_model=NoParameters,
            csv=None,
        )


@dataclass(frozen=True, slots=True)
class Someone:
    """`gone`: was a user, and is disabled or deleted."""

    token: str | None
    platform_role: PlatformRole | None = None
    role: Role | None = None
    gone: bool = False


@dataclass(frozen=True, slots=True)
class World:
    """Who there is, and by kind of place (`own`, `other`, `absent`) the ids of the things there."""

    people: Mapping[str, Someone]
    things: Mapping[str, Mapping[str, str]]


async def things_of(api: Api, name: str) -> dict[str, str]:
    organization_id = await api.organization(name)
    app_id = await api.app(organization_id)
    invitation = await invited(api, f"{name}@example.com", organization_id=organization_id, role="viewer")
    return {
        "organization_id": organization_id,
        "app_id": app_id,
        "key_id": (await api.key(app_id))["key_id"],
        "invitation_id": invitation.document["id"],
    }


@pytest.fixture
async def world(api: Api, connection: Connection) -> World:
    own, other = await things_of(api, "own"), await things_of(api, "other")
    people: dict[str, Someone] = {"unknown": Someone(None)}
    for platform_role in PlatformRole:
        user = await person(api, f"{platform_role}@example.com", platform_role=platform_role)
        people[platform_role] = Someone(user.token, platform_role=platform_role)
    for role in Role:
        user = await person(api, f"{role}@example.com", organization_id=own["organization_id"], role=role)
        people[role] = Someone(user.token, role=role)
    people["no organization"] = Someone((await person(api, "nowhere@example.com")).token)
    for gone in ("disabled", "deleted"):
        user = await person(api, f"{gone}@example.com", organization_id=own["organization_id"], role="owner")
        people[gone] = Someone(user.token, role=Role.OWNER, gone=True)
    await connection.execute("UPDATE users SET disabled_at = now() WHERE email = 'disabled@example.com'")
    await connection.execute("DELETE FROM users WHERE email = 'deleted@example.com'")
    absent = {**dict.fromkeys(own, ABSENT), "key_id": "ak_live_0000000000000000000000"}
    return World(people, {"own": own, "other": other, "absent": absent})


@pytest.fixture
async def walk() -> Walk:
    return Walk()


@pytest.fixture
async def gate(configuration: Configuration, walk: Walk) -> AsyncIterator[Api]:
    """The control plane, whose operations say that they were reached, and do nothing."""
    app = await build_app(configuration, served=walk.served)
    async with TestClient(ListeningServer(app), cookie_jar=DummyCookieJar()) as client:
        yield Api(client)


def expected(access: Access, who: Someone, place: str, *, in_path: bool) -> tuple[int, str]:
    """Status and code, by the table."""
    if access.unknown:
        return 409, "conflict"
    if who.token is None:
        return 401, "credentials_missing"
    if who.gone:
        return 401, "credentials_invalid"
    if access.anyone or who.platform_role in access.platform:
        return 409, "conflict"
    if access.least is None:
        return 403, "role_missing"
    if place == "own" and who.role is not None:
        return (409, "conflict") if who.role.reaches(access.least) else (403, "role_missing")
    if who.platform_role is not None:  # they see everything, and may not change it
        return 403, "role_missing"
    return (404, "not_found") if in_path else (422, "invalid_fields")


def address(operation: AnyOperation, things: Mapping[str, str]) -> str:
    """Its path, with the ids of these things."""
    known = {**OTHERS, **things}

    def segment(match: re.Match[str]) -> str:
        return known.get(match[1], ABSENT)

    return re.sub(r"\{(\w+)\}", segment, operation.path)


async def answered(
    gate: Api, method: str, path: str, token: str | None, options: Mapping[str, Any], *, tries: int = 5
) -> Reply:
    """What is decided, and not that a busy machine's Postgres took too long: that passes."""
    for _ in range(tries):
        reply = await gate.request(method, path, token=token, **options)
        if reply.status != 503:
            break
    return reply


async def test_every_operation_by_every_role_on_own_other_and_nothing(gate: Api, walk: Walk, world: World) -> None:
    """Row 126: also of users who are disabled or deleted, and of who is not known at all."""
    assert {operation.id for operation in walk.operations} == set(MATRIX), (
        "the table is of what is served, and of no more"
    )
    walked, statuses, wrong = 0, set(), []
    for operation in walk.operations:
        access = MATRIX[operation.id]
        whose = access.whose
        in_path = whose is None or whose in operation.path_model.model_fields
        assert whose is None or whose in world.things["own"], f"{operation.id}: say in `things_of` what a {whose} is"
        for name, who in world.people.items():
            told: dict[str, dict[str, Any]] = {}
            for place in ("own",) if whose is None else ("own", "other", "absent"):
                things = world.things[place]
                options = {} if in_path or whose is None else {"json": {whose: things[whose]}}
                reply = await answered(gate, operation.method, address(operation, things), who.token, options)
                wanted = expected(access, who, place, in_path=in_path)
                walked += 1
                statuses.add(reply.status)
                told[place] = {**reply.document, "request_id": ""}
                if (reply.status, reply.code) != wanted:
                    wrong.append(f"{operation.id}, {name}, {place}: {reply.status} {reply.code}, not {wanted}")
            if told["own"]["status"] != 409 or who.platform_role is None:
                assert told.get("other") == told.get("absent"), "what is another's looks as what is not there"
    assert wrong == []
    assert walked > 500, "the walk is short"
    assert statuses == {401, 403, 404, 409, 422}


def test_the_page_says_what_the_table_says() -> None:
    """People read the page; what holds is the table."""
    assert authorization_page.path().read_text(encoding="utf-8") == authorization_page.page(), (
        "run: .venv/bin/python -m tests.support.authorization_page"
    )
