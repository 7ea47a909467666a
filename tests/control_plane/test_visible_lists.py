"""Row 126: lists, filters and exports show a member what is theirs; what is another's is as what is not there."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from ostiary.control_plane.db import Connection
from tests.control_plane.people import Person, person
from tests.control_plane.support import OPERATOR_TOKEN, Api
from tests.control_plane.test_usage import TODAY, _record

ABSENT = "00000000-0000-4000-8000-000000000000"
ABSENT_KEY = "ak_live_0000000000000000000000"
QUESTIONS = ("summary", "daily", "endpoints", "errors", "overage", "shadow", "quota-events", "logs")
LISTS = ("daily", "endpoints", "errors", "overage", "shadow", "quota-events", "logs")


class Two:
    """An organization with a viewer, another one, and usage of both."""

    def __init__(self, own: dict[str, str], other: dict[str, str], viewer: Person, nowhere: Person) -> None:
        self.own, self.other, self.viewer, self.nowhere = own, other, viewer, nowhere


@pytest.fixture
async def two(api: Api, connection: Connection) -> Two:
    places: list[dict[str, str]] = []
    for number, name in enumerate(("own", "other")):
        organization_id = await api.organization(name)
        app_id = await api.app(organization_id)
        key_id = (await api.key(app_id))["key_id"]
        ids = {"organization_id": organization_id, "app_id": app_id, "key_id": key_id}
        marks = {"route": name, "overage": True, "would_refuse": f"{name}:limit", "status": 429}
        await _record(connection, *([{**ids, **marks, "at": TODAY - timedelta(days=1)}] * (number + 2)))
        for subject in (f"o:{organization_id}", f"test:a:{app_id}", f"k:{key_id}"):
            await connection.execute(
                "INSERT INTO quota_events VALUES ($1, 'standard:day', $2, 80, 1000, $3)",
                subject,
                TODAY - timedelta(days=2),
                TODAY - timedelta(days=1),
            )
        places.append(ids)
    own, other = places
    viewer = await person(api, "viewer@example.com", organization_id=own["organization_id"], role="viewer")
    return Two(own, other, viewer, await person(api, "nowhere@example.com"))


async def asked(api: Api, question: str, token: str, **filters: str) -> Any:
    day = TODAY.replace(hour=0)
    span = {"since": (day - timedelta(days=3)).isoformat(), "until": (day + timedelta(days=1)).isoformat()}
    reply = await api.get(f"/usage/{question}", token=token, params={**span, **filters})
    assert reply.status == 200, reply.text
    return reply.text if filters.get("format") == "csv" else reply.document


@pytest.mark.parametrize("question", QUESTIONS)
async def test_usage_is_that_of_the_callers_organizations(api: Api, two: Two, question: str) -> None:
    """A customer who sees what another one sells, and how much of it."""
    theirs = await asked(api, question, two.viewer.token)
    if question != "quota-events":
        assert theirs == await asked(api, question, OPERATOR_TOKEN, organization_id=two.own["organization_id"])
    nothing = await asked(api, question, two.viewer.token, organization_id=ABSENT)
    assert theirs != nothing
    assert theirs != await asked(api, question, OPERATOR_TOKEN), "the other's is there"
    for name, absent in (("organization_id", ABSENT), ("app_id", ABSENT), ("key_id", ABSENT_KEY)):
        foreign = await asked(api, question, two.viewer.token, **{name: two.other[name]})
        assert foreign == await asked(api, question, two.viewer.token, **{name: absent}), name
    assert await asked(api, question, two.nowhere.token) == nothing
    assert not [each for each in two.other.values() if each in str(theirs)]


@pytest.mark.parametrize("question", LISTS)
async def test_an_export_has_no_more_than_the_list(api: Api, two: Two, question: str) -> None:
    exported = await asked(api, question, two.viewer.token, format="csv")
    assert not [each for each in (*two.other.values(), "other") if each in exported]
    foreign = await asked(api, question, two.viewer.token, format="csv", app_id=two.other["app_id"])
    assert foreign == await asked(api, question, two.viewer.token, format="csv", app_id=ABSENT)


async def test_organizations_and_apps_are_those_of_the_caller(api: Api, two: Two) -> None:
    for person_, own in ((two.viewer, True), (two.nowhere, False)):
        organizations = (await api.get("/organizations", token=person_.token)).document
        apps = (await api.get("/apps", token=person_.token)).document
        assert [each["id"] for each in organizations["data"]] == ([two.own["organization_id"]] if own else [])
        assert [each["id"] for each in apps["data"]] == ([two.own["app_id"]] if own else [])
        assert (organizations["total"], apps["total"]) == ((1, 1) if own else (0, 0))
        for foreign in (two.other["organization_id"], ABSENT):
            listed = await api.get(f"/apps?organization_id={foreign}", token=person_.token)
            assert listed.document == {"data": [], "next_cursor": None, "total": 0}
    assert (await api.get("/organizations")).document["total"] == 2


async def test_apps_of_several_organizations_come_in_pages_none_twice(
    api: Api, two: Two, connection: Connection
) -> None:
    await connection.execute(
        "INSERT INTO memberships (organization_id, user_id, role) VALUES ($1, $2, 'viewer')",
        two.other["organization_id"],
        two.viewer.id,
    )
    wanted = {two.own["app_id"], two.other["app_id"]}
    for number in range(3):
        for place in (two.own, two.other):
            wanted.add(await api.app(place["organization_id"], f"app {number}"))
    seen: list[str] = []
    cursor = ""
    while True:
        page = (await api.get(f"/apps?limit=3{cursor}", token=two.viewer.token)).document
        seen += [each["id"] for each in page["data"]]
        assert page["total"] == len(wanted)
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert len(seen) == len(set(seen))
    assert set(seen) == wanted
