"""Invariant: no request names one state twice, whoever calls and whatever the route and the plan are called."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import ResponseError

from ostiary.core import keyspace
from ostiary.core.model import Concurrency, Environment, LimitBy, Overage, Plan, RouteLimit, Window
from ostiary.demo.stores import EmbeddedValkey
from ostiary.gateway.limits import LimitPolicy, compile_policy
from ostiary.gateway.limits import script as lua
from tests.gateway.limits.support import Asked, Script, policy, route

# What other names are made of, so that a name in the wrong place would look like one of them.
WORDS = ("plan", "leases", "nonce", "ip", "key", "leases-ip", "app", "plan:gold", "header-x-tenant", "k", "a:b")

callers = st.fixed_dictionaries(
    {
        "key_id": st.sampled_from([None, "ak_1", "plan"]),
        "app_id": st.sampled_from([None, "ak_1", "app"]),
        "organization_id": st.sampled_from([None, "ak_1", "organization"]),
        "ip": st.sampled_from(["192.0.2.1", "2001:db8::1"]),
        "headers": st.sampled_from([{}, {b"x-tenant": b"ak_1"}, {b"x-tenant": b"ak_1", b"x-user": b"ak_1"}]),
    }
)
measures = st.sampled_from(
    [
        *((by, None) for by in LimitBy if by is not LimitBy.HEADER),
        (LimitBy.HEADER, "x-tenant"),
        (LimitBy.HEADER, "x-user"),
    ]
)
bounds = st.sampled_from([Window(5, 60), Window(9, 3600), Concurrency(2)])


@given(
    st.sampled_from(WORDS),
    st.sampled_from(WORDS),
    st.sampled_from([LimitBy.KEY, LimitBy.APP, LimitBy.ORGANIZATION]),
    st.lists(st.tuples(bounds, measures), max_size=12),
    callers,
)
def test_all_names_of_a_request_differ(
    route_name: str, plan_name: str, plan_by: LimitBy, limits: list[Any], caller: dict[str, Any]
) -> None:
    """Two parts would count in one state, and read each other's numbers as their own."""
    plan = Plan(plan_name, windows=(Window(5, 60),), concurrency=3, by=plan_by)
    limits_of_route = [RouteLimit(limit, by, header) for limit, (by, header) in limits]
    made = compile_policy(plan, route(*limits_of_route, name=route_name))
    holder = caller["key_id"] or caller["ip"]
    names = [*made.names(**caller), keyspace.nonce(holder, "n" * 16)]
    assert len(set(names)) == len(names)


def test_a_policy_with_two_parts_for_one_state_can_not_be_made() -> None:
    """Whoever adds a kind of part would find out at 3 a.m., from a Redis that hangs."""
    one = policy(None, RouteLimit(Window(5, 60), LimitBy.IP)).parts[0]
    other = policy(None, RouteLimit(Window(9, 3600), LimitBy.IP)).parts[0]
    with pytest.raises(ValueError, match="in the same state: ip"):
        LimitPolicy((one, other), route(), Overage.BLOCK, cost=1, environment=Environment.LIVE)


@pytest.fixture
def script(valkey_server: EmbeddedValkey) -> Iterator[Script]:
    script = Script(valkey_server.url(9))
    script.redis.flushdb()
    yield script
    script.redis.flushdb()
    script.redis.close()


def test_redis_refuses_a_request_that_names_a_state_twice_and_counts_nothing(script: Script) -> None:
    """It would take times for counts, and may search slots that have no end: Redis would hang for everybody."""
    limits = policy(Plan("p", windows=(Window(5, 60),)), RouteLimit(Window(9, 3600), LimitBy.IP))
    good = Asked(limits.specification(0), ["ost:{k:a}:plan", "ost:{i:a}:ip:r"], None)
    twice = Asked(limits.specification(0), ["ost:{k:a}:plan", "ost:{k:a}:plan"], None)
    with pytest.raises(ResponseError, match="TWICE"):
        script.redis.eval(lua.DECIDE, *cast(Any, lua.arguments([good, twice], "test:1")))
    assert script.redis.keys("*") == []
    both = [good, Asked(limits.specification(0), ["ost:{k:a}:plan", "ost:{i:b}:ip:r"], None)]
    reply = script.redis.eval(lua.DECIDE, *cast(Any, lua.arguments(both, "test:2")))
    assert isinstance(reply, bytes)
    assert [answer[0] for answer in lua.answers(reply, 2)] == [lua.ALLOWED, lua.ALLOWED]
