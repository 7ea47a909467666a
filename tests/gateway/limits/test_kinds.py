"""Invariant: a limit of any kind holds by any measure, in Redis and without it; in shadow it refuses nobody; and a refused
call takes what it says, and nothing else."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis.asyncio

from ostiary.core.model import (
    Concurrency,
    LimitBy,
    LimitMode,
    Overage,
    Period,
    Plan,
    Quota,
    Rate,
    RefusedCalls,
    RouteLimit,
    Window,
)
from ostiary.demo.stores import EmbeddedValkey
from ostiary.gateway.limits import Decision, Limiter, LimitPolicy, Outcome
from tests.gateway.limits.support import Observed, decided, policy, running

SHADOW, CHARGED = LimitMode.SHADOW, RefusedCalls.CHARGED

KINDS: dict[str, Rate | Window | Quota | Concurrency] = {
    "rate": Rate(1, 3600, 2),
    "window": Window(2, 3600),
    "quota": Quota(2, Period.MONTH),
    "concurrency": Concurrency(2),
}
# Callers that the measure counts together with the first one, and one that it does not.
FIRST: dict[str, Any] = {
    "key": "ak_a",
    "app": "app-1",
    "organization": "org-1",
    "ip": "192.0.2.1",
    "headers": {b"x-tenant": b"acme"},
}
MEASURES: dict[LimitBy, tuple[dict[str, Any], dict[str, Any]]] = {
    LimitBy.KEY: ({"app": "app-2", "ip": "192.0.2.2"}, {"key": "ak_b"}),
    LimitBy.APP: ({"key": "ak_b", "ip": "192.0.2.2"}, {"app": "app-2"}),
    LimitBy.ORGANIZATION: ({"key": "ak_b", "app": "app-2"}, {"organization": "org-2"}),
    LimitBy.IP: ({"key": "ak_b", "app": "app-2"}, {"ip": "192.0.2.2"}),
    LimitBy.HEADER: ({"key": "ak_b", "ip": "192.0.2.2"}, {"headers": {b"x-tenant": b"other"}}),
}


def by(measure: LimitBy, limit: Rate | Window | Quota | Concurrency) -> RouteLimit:
    return RouteLimit(limit, measure, "x-tenant" if measure is LimitBy.HEADER else None)


@pytest.fixture
async def store(valkey_server: EmbeddedValkey) -> AsyncIterator[redis.asyncio.Redis]:
    client = redis.asyncio.Redis.from_url(valkey_server.url(database=1))
    await client.flushdb()
    yield client
    await client.aclose()


@pytest.fixture
def observed() -> Observed:
    return Observed()


@pytest.fixture(params=["redis", "local"])
async def limiter(
    request: pytest.FixtureRequest, valkey_server: EmbeddedValkey, store: redis.asyncio.Redis, observed: Observed
) -> AsyncIterator[Limiter]:
    """Both ways of deciding: what holds in Redis holds in the memory of a worker."""
    url = valkey_server.url(database=1) if request.param == "redis" else None
    async with running(url, observe=observed) as limiter:
        yield limiter


async def calls(limiter: Limiter, limits: LimitPolicy, count: int, **request: object) -> list[Decision]:
    return [await decided(limiter, limits, **request) for _ in range(count)]


def let_in(decisions: list[Decision]) -> int:
    return sum(decision.outcome is Outcome.ALLOWED for decision in decisions)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("measure", MEASURES, ids=lambda measure: measure.value)
async def test_a_route_limit_of_any_kind_holds_by_any_measure(limiter: Limiter, kind: str, measure: LimitBy) -> None:
    """Whoever shares the measure would each get the whole limit; or strangers would share one."""
    limits = policy(None, by(measure, KINDS[kind]))
    together, apart = MEASURES[measure]
    first = await calls(limiter, limits, 3, **FIRST)
    assert let_in(first) == 2
    assert first[2].limit == kind
    assert let_in(await calls(limiter, limits, 1, **FIRST | together)) == 0
    assert let_in(await calls(limiter, limits, 1, **FIRST | apart)) == 1
    told = (
        "rate" if kind == "rate" else kind if kind == "concurrency" else "hour" if kind == "window" else "month-quota"
    )
    measured = "header-x-tenant" if measure is LimitBy.HEADER else measure.value
    assert f'RateLimit: "{told}-by-{measured}";r=0'.encode() in first[2].headers


async def test_a_call_counts_in_each_bound_on_calls_under_way_and_leaves_all_when_it_ends(limiter: Limiter) -> None:
    """Row 84: a place that is not given back is one less for ever; one that was not taken bounds nothing."""
    limits = policy(
        Plan("p", concurrency=3), RouteLimit(Concurrency(2), LimitBy.IP), RouteLimit(Concurrency(1), LimitBy.APP)
    )
    first, second = [await decided(limiter, limits, key="ak_a", app=app, ip="192.0.2.1") for app in ("app-1", "app-2")]
    assert let_in([first, second]) == 2
    by_ip = await decided(limiter, limits, key="ak_b", app="app-3", ip="192.0.2.1")
    assert (by_ip.outcome, by_ip.limit) == (Outcome.TOO_MANY_CONCURRENT, "concurrency")
    assert b'RateLimit: "concurrency-by-ip";r=0' in by_ip.headers
    by_app = await decided(limiter, limits, key="ak_b", app="app-1", ip="192.0.2.2")
    assert b'RateLimit: "concurrency-by-app";r=0' in by_app.headers
    limiter.release(first.lease)
    limiter.release(second.lease)
    again = [await decided(limiter, limits, key="ak_a", app=app, ip="192.0.2.1") for app in ("app-1", "app-2")]
    assert let_in(again) == 2


# --- by header --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [None, {}, {b"x-tenant": b""}, {b"x-tenant": b"a" * 257}])
async def test_a_call_without_a_usable_header_counts_by_its_key(
    limiter: Limiter, headers: dict[bytes, bytes] | None
) -> None:
    """Leaving the header out, or stuffing it, would be the way around the limit."""
    limits = policy(None, by(LimitBy.HEADER, Window(1, 60)))
    assert let_in(await calls(limiter, limits, 2, key="ak_a", headers=headers)) == 1
    assert let_in(await calls(limiter, limits, 1, key="ak_a", headers=None)) == 0
    assert let_in(await calls(limiter, limits, 2, key=None, ip="192.0.2.9", headers=headers)) == 1
    assert let_in(await calls(limiter, limits, 1, key="ak_a", headers={b"x-tenant": b"a" * 256})) == 1


async def test_the_value_of_a_header_stands_in_no_name_in_redis(
    valkey_server: EmbeddedValkey, store: redis.asyncio.Redis
) -> None:
    """What clients send there may be a token, and whoever may list names would read it; and names would be of any length."""
    async with running(valkey_server.url(database=1)) as limiter:
        limits = policy(None, by(LimitBy.HEADER, Window(5, 60)), by(LimitBy.HEADER, Concurrency(5)))
        await decided(limiter, limits, headers={b"x-tenant": b"very-secret-token" * 10})
        names = [name async for name in store.scan_iter() if b"probe" not in name and b"nodes" not in name]
    assert len(names) == 2
    assert all(b"secret" not in name and len(name) < 100 for name in names), names


# --- plans by app -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
async def test_a_plan_counts_the_keys_of_an_app_together_where_it_says_so(limiter: Limiter, kind: str) -> None:
    """A customer would get its plan once more with each key that it creates."""
    plan = Plan(
        "p",
        rate=Rate(1, 3600, 2) if kind == "rate" else None,
        windows=(Window(2, 3600),) if kind == "window" else (),
        quotas=(Quota(2, Period.MONTH),) if kind == "quota" else (),
        concurrency=2 if kind == "concurrency" else None,
        by=LimitBy.APP,
    )
    limits = policy(plan)
    assert let_in([await decided(limiter, limits, key=f"ak_{n}", app="app-1") for n in range(4)]) == 2
    assert let_in(await calls(limiter, limits, 1, key="ak_9", app="app-2")) == 1
    # Keys without an app count by themselves.
    assert let_in([await decided(limiter, limits, key=f"ak_{n}") for n in range(3)]) == 3


async def test_keys_of_one_app_with_two_plans_keep_the_counts_of_both(limiter: Limiter) -> None:
    """Each call by the one plan would forget what the other has counted."""
    one = policy(Plan("one", windows=(Window(2, 60),), by=LimitBy.APP))
    other = policy(Plan("other", windows=(Window(3, 3600),), by=LimitBy.APP))
    decisions = []
    for _ in range(4):
        decisions += await calls(limiter, one, 1, key="ak_a", app="app-1")
        decisions += await calls(limiter, other, 1, key="ak_b", app="app-1")
    assert (let_in(decisions[::2]), let_in(decisions[1::2])) == (2, 3)


# --- refused calls ----------------------------------------------------------------------------------------------------


async def test_a_refused_call_is_charged_to_the_limits_that_say_so_and_to_no_other(limiter: Limiter) -> None:
    """Whoever goes on calling at its limit would be let in as soon as one call leaves the window; or be charged twice."""
    limits = policy(
        Plan("p", windows=(Window(2, 60),), quotas=(Quota(5, Period.MONTH, refused=CHARGED), Quota(9, Period.DAY))),
    )
    assert let_in(await calls(limiter, limits, 5)) == 2
    other = policy(Plan("p", windows=(Window(100, 60),), quotas=(Quota(5, Period.MONTH), Quota(9, Period.DAY))))
    refused = await decided(limiter, other)
    assert (refused.outcome, refused.limit) == (Outcome.QUOTA_EXCEEDED, "quota"), "two let in, three refused"
    free = policy(Plan("p", windows=(Window(100, 60),), quotas=(Quota(9, Period.DAY),)))
    assert let_in(await calls(limiter, free, 9)) == 7, "the day's quota has the two that were let in"


async def test_refused_calls_of_a_bucket_owe_at_most_its_burst(limiter: Limiter) -> None:
    """A client in a tight loop would shut itself out for weeks; and what it is told to wait must suffice."""
    limits = policy(Plan("p", rate=Rate(1, 1, 5, refused=CHARGED)))
    decisions = await calls(limiter, limits, 400)
    assert let_in(decisions) == 5
    assert 5 <= decisions[-1].retry_after_seconds <= 6, "the burst that is owed, and one call"


# --- shadow -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
async def test_a_limit_in_shadow_refuses_nobody_and_tells_whom_it_would_have_refused(
    limiter: Limiter, observed: Observed, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A limit that is tried out would cut customers off, or the trial would show nothing."""
    of_kind: dict[str, Rate | Window | Quota | Concurrency] = {
        "rate": Rate(1, 3600, 2, SHADOW),
        "window": Window(2, 3600, SHADOW),
        "quota": Quota(2, Period.MONTH, SHADOW, overage=Overage.BLOCK),
        "concurrency": Concurrency(2, SHADOW),
    }
    limits = policy(Plan("p", windows=(Window(100, 60),)), RouteLimit(of_kind[kind], LimitBy.IP))
    with caplog.at_level(logging.INFO, "ostiary.gateway.limits"):
        decisions = await calls(limiter, limits, 6)
    assert let_in(decisions) == 6
    name = limits.labels[1].name
    assert [decision.would_refuse for decision in decisions] == [()] * 2 + [(name,)] * 4
    assert observed.decisions.count((kind, "would_refuse")) == 4
    assert limiter.status()["would_refuse"] == [{"route": "clients", "limit": name, "calls": 4}]
    assert [record.message for record in caplog.records].count("limit_would_refuse") == 1, "one line for all"
    assert all(b"by-ip" not in decision.headers for decision in decisions), "clients are told nothing of it"
    assert all(not decision.overage for decision in decisions)
    for decision in decisions:
        limiter.release(decision.lease)


async def test_a_limit_in_shadow_counts_what_it_would_have_let_in(limiter: Limiter) -> None:
    """Counting all would show, for a caller that is always a little above it, nothing but refusals."""
    limits = policy(Plan("p", windows=(Window(3, 3600), Window(2, 1, SHADOW))))
    decisions = await calls(limiter, limits, 5)
    assert let_in(decisions) == 3
    assert [len(decision.would_refuse) for decision in decisions] == [0, 0, 1, 0, 0], (
        "a refused call would not get so far"
    )
    assert b'"hour";q=3;w=3600\r\n' in decisions[0].headers
    tried = policy(Plan("q", windows=(Window(2, 3600, SHADOW),)))
    assert let_in(await calls(limiter, tried, 6, key="ak_b")) == 6
    enforced = policy(Plan("q", windows=(Window(3, 3600),)))
    assert let_in(await calls(limiter, enforced, 2, key="ak_b")) == 1, "two of six count"


async def test_a_limit_that_comes_out_of_shadow_keeps_its_count(limiter: Limiter) -> None:
    """On the day that it is enforced everybody would get it once more."""
    tried = policy(Plan("p", windows=(Window(3, 3600, SHADOW),), quotas=(Quota(3, Period.MONTH, SHADOW),)))
    enforced = policy(Plan("p", windows=(Window(3, 3600),), quotas=(Quota(3, Period.MONTH),)))
    assert let_in(await calls(limiter, tried, 2)) == 2
    assert let_in(await calls(limiter, enforced, 3)) == 1
