"""Compiled limits are shared by the keys that have the same, and bounded in number."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ostiary.core.model import Concurrency, Environment, LimitBy, LimitOverride, Plan, RouteLimit, Window
from ostiary.gateway import snapshot as snapshot_module
from ostiary.gateway.keys import KnownKey
from ostiary.gateway.limits import LimitPolicy
from ostiary.gateway.snapshot import CompiledRoute
from tests.support.gateway import configuration, key, route, running_gateway, upstream

PLANS = {"standard": Plan("standard", windows=(Window(100, 60),), concurrency=5)}


def policy_of(compiled: CompiledRoute, number: int, limits: LimitOverride | None) -> LimitPolicy:
    made = replace(key(f"key_{number}", plan="standard"), limits=limits)
    return compiled.admission(KnownKey(made, signer=None, revision=1, epoch=0)).policy


async def test_keys_with_the_same_plan_and_override_share_one_policy() -> None:
    """A million keys of one plan would be a million policies of 3 KB each."""
    async with running_gateway(configuration([upstream(9)], [route()], plans=PLANS)) as running:
        compiled = running.gateway.snapshot.routes[0]
        plain = policy_of(compiled, 1, None)
        own = policy_of(compiled, 2, LimitOverride(concurrency=9))
        assert policy_of(compiled, 3, None) is plain
        assert policy_of(compiled, 4, LimitOverride(concurrency=9)) is own
    assert (plain.parts[0].concurrency, own.parts[0].concurrency) == (Concurrency(5), Concurrency(9))
    assert plain.parts[0].sources == own.parts[0].sources, "the rest is the plan's"


@pytest.mark.parametrize(
    ("limit", "is_kept"),
    [(None, True), (LimitBy.ROUTE, True), (LimitBy.APP, True), (LimitBy.IP, False), (LimitBy.HEADER, False)],
)
async def test_names_that_depend_on_the_key_alone_are_kept_with_it_and_others_are_not(
    limit: LimitBy | None, is_kept: bool
) -> None:
    """All addresses from which a key calls would be held to one address's limit."""
    header = "x-tenant" if limit is LimitBy.HEADER else None
    limits = () if limit is None else (RouteLimit(Window(6, 60), limit, header),)
    async with running_gateway(configuration([upstream(9)], [route(limits=limits)], plans=PLANS)) as running:
        made = key("key_1", plan="standard")
        admission = running.gateway.snapshot.routes[0].admission(KnownKey(made, signer=None, revision=1, epoch=0))
    expected = admission.policy.names(made.id, made.app_id, made.organization_id, "192.0.2.1", {b"x-tenant": b"a"})
    assert admission.limit_names == (expected if is_kept else None)


async def test_overrides_that_are_all_different_take_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Callers with limits of their own would fill the worker's memory, one policy each and route."""
    monkeypatch.setattr(snapshot_module, "_POLICIES_MAX", 8)
    async with running_gateway(configuration([upstream(9)], [route()], plans=PLANS)) as running:
        compiled = running.gateway.snapshot.routes[0]
        for number in range(1, 50):
            policy = policy_of(compiled, number, LimitOverride(concurrency=number))
            assert policy.parts[0].concurrency == Concurrency(number)
            assert len(compiled._policies) <= 8


async def test_what_stands_for_everyone_is_one_object_on_open_routes_without_limits() -> None:
    """Ten thousand open routes would be ten thousand of it, none of them in a cache; or one route's limit would be lost."""
    limited = (RouteLimit(Window(6, 60), LimitBy.IP),)
    routes = [
        route("a", "/a"),
        route("b", "/b"),
        route("limited", "/limited", limits=limited),
        route("c", "/c", upstreams={Environment.LIVE: "other"}),
    ]
    async with running_gateway(configuration([upstream(9), upstream(9, name="other")], routes)) as running:
        first, second, third, fourth = (each.everyone for each in running.gateway.snapshot.routes)
    assert first is second
    assert not third.unlimited
    assert fourth.group is not first.group
