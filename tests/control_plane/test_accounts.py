"""Organizations and apps, over the API."""

from __future__ import annotations

from datetime import datetime
from uuid import uuid4

import pytest

from tests.control_plane.support import Api


async def test_a_created_organization_is_read_back_as_it_was_answered(api: Api) -> None:
    """Location, answer and later reads would tell different stories."""
    created = await api.post("/organizations", {"name": "Çelik & Söhne 株式会社"})
    assert created.status == 201
    assert created.document["name"] == "Çelik & Söhne 株式会社"
    assert datetime.fromisoformat(created.document["created_at"]).tzinfo is not None
    assert created.headers["Location"] == f"/api/v1/organizations/{created.document['id']}"
    assert (await api.get(created.headers["Location"])).document == created.document


async def test_names_are_unique_where_they_must_be_and_only_there(api: Api) -> None:
    """Two apps of one name in an organization could not be told apart; in two organizations they can."""
    first, second = await api.organization("first"), await api.organization("second")
    again = await api.post("/organizations", {"name": "first"})
    assert (again.status, again.code) == (409, "conflict")
    await api.app(first, "Shop")
    await api.app(second, "Shop")
    again = await api.post("/apps", {"organization_id": first, "name": "Shop"})
    assert (again.status, again.code) == (409, "conflict")


async def test_an_app_of_no_organization_is_refused_by_field(api: Api) -> None:
    """The caller would have to guess which of the ids was wrong."""
    reply = await api.post("/apps", {"organization_id": str(uuid4()), "name": "Shop"})
    assert (reply.status, reply.fields) == (422, {"organization_id": "there is no such organization"})


async def test_apps_are_listed_of_one_organization_or_all(api: Api) -> None:
    """The filter would leak other organizations' apps, or the total would count them."""
    first, second = await api.organization("first"), await api.organization("second")
    mine = await api.app(first, "mine")
    other = await api.app(second, "other")
    of_first = (await api.get("/apps", params={"organization_id": first})).document
    assert ([app["id"] for app in of_first["data"]], of_first["total"]) == ([mine], 1)
    everyone = (await api.get("/apps")).document
    assert ([app["id"] for app in everyone["data"]], everyone["total"]) == ([other, mine], 2)


NOBODY = "0b9e6a6c-5d0e-4c8a-9a67-8c4b1a3f7d2e"


@pytest.mark.parametrize(
    "path",
    ["/organizations/{}", "/apps/{}", "/apps/{}/keys", "/apps/{}/usage"],
)
@pytest.mark.parametrize("identifier", [NOBODY, "1", "' OR 1=1 --", "%00", "..%2f..", NOBODY.upper()])
async def test_an_id_that_nothing_has_is_not_found(refusing_api: Api, path: str, identifier: str) -> None:
    """A malformed id would reach Postgres and come back as a fault."""
    reply = await refusing_api.get(path.format(identifier))
    assert (reply.status, reply.code) == (404, "not_found")
