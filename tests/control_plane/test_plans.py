"""Plans of the configuration and of published routes, over the API."""

from __future__ import annotations

from dataclasses import replace

from ostiary.control_plane.db import Connection
from ostiary.core.model import Configuration, Overage, Period, Plan, Quota, Rate, Window
from ostiary.core.published import PublishedRoutes
from tests.control_plane.support import SERVICE_ROLE, Api, configuration_for, serving, url_for


async def test_plans_are_told_as_the_configuration_has_them(database: str) -> None:
    """A portal would show a customer limits that do not hold."""
    standard = Plan(
        "standard",
        rate=Rate(100, 60, 600),
        windows=(Window(10_000, 3600),),
        quotas=(Quota(1_000_000, Period.DAY),),
        concurrency=50,
        overage=Overage.WARN,
    )
    configuration = replace(configuration_for(database), plans={"standard": standard, "free": Plan("free")})
    async with serving(configuration) as api:
        listed = (await api.get("/plans")).document
        assert ([plan["name"] for plan in listed["data"]], listed["total"]) == (["free", "standard"], 2)
        read = await api.get("/plans/standard")
        assert read.document == listed["data"][1]
        terms = {"mode": "enforce", "refused": "free", "counting": "exact"}
        assert read.document == {
            "name": "standard",
            "rate": {"requests": 100, "per": "minute", "burst": 600, **terms},
            "limits": [{"requests": 10_000, "per": "hour", **terms}],
            "quotas": [{"requests": 1_000_000, "per": "day", **terms}],
            "concurrency": 50,
            "concurrency_mode": "enforce",
            "overage": "warn",
            "by": "key",
        }
        assert (await api.get("/plans/standard", headers={"If-None-Match": read.headers["ETag"]})).status == 304
        assert [(await api.get(f"/plans/{name}")).status for name in ("none", "a b", "x" * 65)] == [404, 404, 404]


DOCUMENT = """\
version: 1
plans:
  gold: {limits: [{requests: 5, per: minute}]}
  silver: {quotas: [{requests: 7, per: day}]}
upstreams: {origin: {targets: [{url: "http://10.0.0.1:9000"}]}}
routes: [{name: clients, match: {path: /clients, methods: [GET]}, upstream: origin, auth: {schemes: [bearer]}}]
"""


def _publishing(database: str) -> Configuration:
    """With a plan in the file, which no gateway goes by."""
    return replace(configuration_for(url_for(SERVICE_ROLE, database)), published=PublishedRoutes())


async def _apply(api: Api, document: str, base: int) -> None:
    reply = await api.post("/routes/versions", {"document": document, "base": base})
    assert reply.status == 201, reply.text


async def _limits(api: Api) -> dict[str, int]:
    listed = (await api.get("/plans")).document
    assert listed["total"] == len(listed["data"])
    return {plan["name"]: (plan["limits"] or plan["quotas"])[0]["requests"] for plan in listed["data"]}


async def test_where_routes_are_published_the_plans_are_those_of_the_version_in_force(database: str) -> None:
    """A portal would show limits of a file that no gateway goes by, and not the plans that keys are given. Also where another
    control plane has published them."""
    async with serving(_publishing(database)) as api, serving(_publishing(database)) as other:
        assert await _limits(api) == await _limits(other) == {}
        assert (await api.get("/plans/standard")).status == 404
        await _apply(api, DOCUMENT, 0)
        assert await _limits(api) == await _limits(other) == {"gold": 5, "silver": 7}
        before = (await other.get("/plans/gold")).headers["ETag"]
        await _apply(api, DOCUMENT.replace("requests: 5", "requests: 6").replace("silver", "bronze"), 1)
        assert await _limits(api) == await _limits(other) == {"bronze": 7, "gold": 6}
        changed = await other.get("/plans/gold", headers={"If-None-Match": before})
        assert (changed.status, changed.document["limits"][0]["requests"]) == (200, 6)
        assert (await other.get("/plans/silver")).status == 404


async def test_plans_of_a_version_that_this_release_does_not_take_are_refused(
    database: str, connection: Connection
) -> None:
    """Something half read, or nothing at all, would be shown as what holds."""
    async with serving(_publishing(database)) as api:
        await connection.execute(
            "INSERT INTO route_versions (number, document, sha256, normal_form, author) "
            "VALUES (1, 'version: 99', repeat('0', 64), '{\"routes\": [], \"plans\": {\"x\": {}}}', 'x')"
        )
        for path in ("/plans", "/plans/x"):
            reply = await api.get(path)
            assert (reply.status, reply.code) == (409, "conflict")
