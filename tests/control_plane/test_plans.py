"""Plans of the configuration, over the API."""

from __future__ import annotations

from dataclasses import replace

from ostiary.core.model import Overage, Period, Plan, Quota, Rate, Window
from tests.control_plane.support import configuration_for, serving


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
