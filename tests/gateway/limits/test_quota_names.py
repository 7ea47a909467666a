"""What the control plane calls a quota, and where it looks for its count, is what the gateway calls it and counts under."""

from __future__ import annotations

import itertools
from typing import Any

from ostiary.core import keyspace
from ostiary.core.model import Environment, LimitBy, LimitMode, Period, Plan, Quota, RouteLimit, Window
from ostiary.core.quota_state import quota_name, route_quota_name
from tests.gateway.limits.support import policy

SHADOW = LimitMode.SHADOW


def test_quotas_have_one_name_in_both_planes() -> None:
    """A customer would hear that 80 % of a quota are used that no list of their quotas has."""
    windows = (Window(5, 3600), Window(5, 86_400, SHADOW), Window(5, 60))
    quotas = [Quota(9, period, mode) for period in Period for mode in (LimitMode.ENFORCE, SHADOW)]
    for name, of_windows, of_quotas in itertools.product(
        ("standard", ""), itertools.combinations(windows, 2), itertools.combinations(quotas, 3)
    ):
        plan = Plan(name, windows=of_windows, quotas=of_quotas)
        told = [label.name for label in policy(plan).labels if label.kind == "quota"]
        assert sorted(told) == sorted(quota_name(plan, quota) for quota in plan.quotas), plan
    of_route = policy(
        None, RouteLimit(Quota(9, Period.DAY), LimitBy.APP), RouteLimit(Quota(9, Period.HOUR), LimitBy.KEY)
    )
    names = {of_route.quota_at(place)[0] for place in range(of_route.limits_n)}
    assert names == {
        route_quota_name("clients", "app", Quota(9, Period.DAY)),
        route_quota_name("clients", "key", Quota(9, Period.HOUR)),
    }


def test_counts_stand_under_the_names_that_are_looked_at() -> None:
    """Every quota would look unused."""
    ids: dict[str, Any] = {"key_id": "ak_1", "app_id": "a-1", "organization_id": "o-1"}
    for by in (LimitBy.KEY, LimitBy.APP, LimitBy.ORGANIZATION):
        who = keyspace.subject(by, environment=Environment.LIVE, route="clients", ip="192.0.2.1", **ids)
        of_plan = policy(Plan("p", quotas=(Quota(9, Period.DAY),), by=by)).names(**ids, ip="192.0.2.1")
        shared = keyspace.shared_plan_state(who, "p")
        assert of_plan == [keyspace.plan_state("ak_1") if by is LimitBy.KEY else shared]
        of_route = policy(None, RouteLimit(Quota(9, Period.DAY), by)).names(**ids, ip="192.0.2.1")
        assert of_route == [keyspace.route_state("clients", by.value, who)]
