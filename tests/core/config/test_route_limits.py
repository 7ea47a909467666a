"""Limits of routes and terms of limits in the file: every form that is read, and every one that is refused."""

from __future__ import annotations

import pytest

from ostiary.core.config import explanation, words
from ostiary.core.model import (
    Concurrency,
    LimitBy,
    LimitMode,
    Overage,
    Period,
    Quota,
    Rate,
    RefusedCalls,
    RouteLimit,
    Window,
)
from tests.core.config.loading import load, only_problem, varied

SHADOW, CHARGED = LimitMode.SHADOW, RefusedCalls.CHARGED


def with_limit(limit: str) -> str:
    return varied("    upstream: {live: live", f"    limits: [{limit}]\n    upstream: {{live: live")


def with_plan(plan: str) -> str:
    return varied("{limits: [{requests: 100, per: minute}]}", plan)


@pytest.mark.parametrize(
    ("written", "read", "said"),
    [
        ("requests: 50, per: second, by: ip", RouteLimit(Window(50, 1), LimitBy.IP), "50 in any second by ip"),
        (
            "rate: {requests: 5, per: minute, burst: 9}, by: app",
            RouteLimit(Rate(5, 60, 9), LimitBy.APP),
            "5 per minute, 9 at once by app",
        ),
        (
            "quota: {requests: 9, per: month}, by: organization, overage: warn",
            RouteLimit(Quota(9, Period.MONTH, overage=Overage.WARN), LimitBy.ORGANIZATION),
            "9 per month (UTC), then warn by organization",
        ),
        ("concurrency: 3, by: route", RouteLimit(Concurrency(3), LimitBy.ROUTE), "3 under way at once by route"),
        (
            "requests: 9, per: hour, by: header, header: X-Tenant, mode: shadow, refused: charged",
            RouteLimit(Window(9, 3600, SHADOW, CHARGED), LimitBy.HEADER, "x-tenant"),
            "9 in any hour, refused calls charged, in shadow by x-tenant",
        ),
        (
            "concurrency: 3, by: key, mode: shadow",
            RouteLimit(Concurrency(3, SHADOW), LimitBy.KEY),
            "3 under way at once, in shadow by key",
        ),
    ],
)
def test_a_route_takes_limits_of_every_kind(written: str, read: RouteLimit, said: str) -> None:
    """What is written would not be what holds; what `explain` says neither."""
    configuration = load(with_limit("{" + written + "}"))
    assert configuration.routes[0].limits == (read,)
    assert words.route_limit(read) == said
    explained = explanation.explain(configuration, "GET", "/v1/clients/1", {})
    assert explained.facts["limits of the route"] == said


@pytest.mark.parametrize(
    ("limit", "path", "message"),
    [
        ("{by: ip}", "", "limits nothing (give one of requests and per, rate, quota, or concurrency)"),
        ("{requests: 5, by: ip}", "", "the field 'per' is missing (the span)"),
        ("{per: second, by: ip}", "", "the field 'requests' is missing (how many calls)"),
        ("{requests: 5, per: hour}", "", "the field 'by' is missing (Whose calls are counted together.)"),
        (
            "{requests: 5, per: hour, concurrency: 2, by: ip}",
            "",
            "is several limits in one (give one of requests and per, rate, quota, or concurrency, and another limit)",
        ),
        (
            "{rate: {requests: 5, per: hour}, per: hour, by: ip}",
            "",
            "is several limits in one (give one of requests and per, rate, quota, or concurrency, and another limit)",
        ),
        (
            "{requests: 5, per: hour, by: header}",
            ".by",
            "counts by a header, and does not say which (add header: X-Tenant)",
        ),
        (
            "{requests: 5, per: hour, by: ip, header: X-Tenant}",
            ".header",
            "means nothing with by: ip (say by: header, or remove it)",
        ),
        (
            "{requests: 5, per: hour, by: header, header: Authorization}",
            ".header",
            "Authorization is the gateway's own to set or to remove (leave it out)",
        ),
        (
            "{requests: 5, per: hour, by: ip, overage: warn}",
            ".overage",
            "says what happens past a quota, and this is none (remove it)",
        ),
        (
            "{concurrency: 5, by: ip, refused: charged}",
            ".refused",
            "means nothing here: a refused call is not under way (remove it)",
        ),
        (
            "{quota: {requests: 5, per: day}, by: ip, overage: charge, mode: shadow}",
            ".mode",
            "tells what would have been refused, and overage: charge refuses nothing (remove one)",
        ),
        (
            "{rate: {requests: 999999999999, per: day, burst: 1000000000000}, by: ip}",
            "",
            "a burst of 1000000000000 is too large to be counted exactly at a refill of 999999999999 in 86400 s "
            "(make the numbers smaller or rounder)",
        ),
    ],
)
def test_a_mistake_in_a_route_limit_is_named_with_its_mend(limit: str, path: str, message: str) -> None:
    """An operator would guess which of eight fields is meant."""
    problem = only_problem(with_limit(limit))
    assert problem.path == f"routes[0].limits[0]{path}"
    assert str(problem).partition(f"{problem.path}: ")[2] == message


@pytest.mark.parametrize(
    ("one", "other", "what"),
    [
        ("rate: {requests: 5, per: hour}", "rate: {requests: 9, per: second}", "rates"),
        ("quota: {requests: 5, per: day}", "quota: {requests: 9, per: day}", "quotas per day"),
        ("concurrency: 5", "concurrency: 6, mode: shadow", "bounds on calls under way"),
    ],
)
def test_twins_that_count_the_same_calls_are_refused(one: str, other: str, what: str) -> None:
    """One of the two would silently never hold."""
    problem = only_problem(with_limit(f"{{{one}, by: ip}}, {{{other}, by: ip}}"))
    assert problem.message == f"two {what} count by ip"
    load(with_limit(f"{{{one}, by: ip}}, {{{other}, by: key}}"))


def test_a_limit_in_shadow_may_stand_beside_the_one_in_force() -> None:
    """Nobody could try a tighter limit before it is in force."""
    both = "[{requests: 100, per: minute}, {requests: 50, per: minute, mode: shadow}]"
    plan = load(with_plan(f"{{limits: {both}}}")).plans["standard"]
    assert plan.windows == (Window(100, 60), Window(50, 60, SHADOW))
    assert "two limits have the same span" in str(
        only_problem(with_plan(f"{{limits: {both.replace('shadow', 'enforce')}}}"))
    )


def test_terms_of_a_plan_are_read_and_contradictions_refused() -> None:
    """A plan by app that is read as one by key gives each key the whole of it."""
    text = (
        "{rate: {requests: 5, per: second, refused: charged}, quotas: [{requests: 9, per: day, mode: shadow}], "
        "concurrency: 4, concurrency_mode: shadow, by: app}"
    )
    plan = load(with_plan(text)).plans["standard"]
    assert plan.rate == Rate(5, 1, 5, refused=CHARGED)
    assert plan.quotas == (Quota(9, Period.DAY, SHADOW),)
    assert (plan.concurrency_mode, plan.by) == (SHADOW, LimitBy.APP)
    assert words.plan(plan).endswith("4 under way at once, in shadow; of all keys of an app together")
    assert only_problem(with_plan("{concurrency: 4, by: ip}")).path == "plans.standard.by"
    assert "overage: warn refuses nothing" in str(
        only_problem(with_plan("{quotas: [{requests: 9, per: day, mode: shadow}], overage: warn}"))
    )
    assert "there is none" in str(only_problem(with_plan("{concurrency_mode: shadow}")))


def test_a_key_s_own_limits_have_terms_and_count_it_by_itself() -> None:
    """A key that got more than its app would be held to what the app has left."""
    text = with_plan(
        "{limits: [{requests: 100, per: minute}], concurrency: 9, concurrency_mode: shadow, by: app}"
    ).replace(
        "plan: standard,",
        "plan: standard, limits: {limits: [{requests: 9, per: hour, mode: shadow, refused: charged}]},",
    )
    configuration = load(text)
    limits = configuration.keys["ak_test_1"].limits
    assert limits is not None
    plan = limits.applied_to(configuration.plans["standard"])
    assert (plan.windows, plan.by) == ((Window(9, 3600, SHADOW, CHARGED),), LimitBy.KEY)
    assert (plan.concurrency, plan.concurrency_mode) == (9, SHADOW)
