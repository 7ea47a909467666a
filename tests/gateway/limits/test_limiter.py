"""Invariant: a request is counted once and by everything that limits it, or not at all, and is told the truth about it."""

from __future__ import annotations

import asyncio
import gc
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import http_sf
import pytest
import redis.asyncio

from ostiary.core import keyspace
from ostiary.core.limiting import LimitOutOfRange
from ostiary.core.model import LimitBy, Overage, Period, Plan, Quota, Rate, RouteLimit, Window
from ostiary.demo.stores import EmbeddedValkey
from ostiary.gateway.limits import Limiter, Outcome, compile_policy
from ostiary.gateway.limits.limiter import BATCH_MAX
from ostiary.gateway.signal import Drive
from tests.gateway.limits.support import Observed, ask, decided, policy, route, running, settled

STANDARD = Plan(
    "standard",
    rate=Rate(100, 60, 600),
    windows=(Window(10_000, 3600),),
    quotas=(Quota(1_000_000, Period.DAY),),
)


@pytest.fixture
async def store(valkey_server: EmbeddedValkey) -> AsyncIterator[redis.asyncio.Redis]:
    client = redis.asyncio.Redis.from_url(valkey_server.url(database=1))
    await client.flushdb()
    yield client
    await client.aclose()


@pytest.fixture
async def limiter(valkey_server: EmbeddedValkey, store: redis.asyncio.Redis) -> AsyncIterator[Limiter]:
    async with running(valkey_server.url(database=1)) as limiter:
        yield limiter


async def scripts_run(store: redis.asyncio.Redis) -> int:
    statistics = await store.info("commandstats")
    return int(statistics.get("cmdstat_evalsha", {}).get("calls", 0))


# --- all or nothing ---------------------------------------------------------------------------------------------------


async def test_a_refused_call_takes_nothing_of_any_limit_and_leaves_its_nonce_unused(
    limiter: Limiter, store: redis.asyncio.Redis
) -> None:
    """A client that is over one limit would use up the others, and could not repeat its signed call."""
    limits = policy(Plan("p", rate=Rate(1, 3600, 50), windows=(Window(2, 60),), quotas=(Quota(50, Period.DAY),)))
    for nonce in ("nonce-1-xxxxxxxxxx", "nonce-2-xxxxxxxxxx"):
        assert (await decided(limiter, limits, nonce=nonce)).outcome is Outcome.ALLOWED
    before = await store.get(keyspace.plan_state("ak_test_1"))
    for _ in range(3):
        refused = await decided(limiter, limits, nonce="nonce-3-xxxxxxxxxx")
        assert (refused.outcome, refused.limit) == (Outcome.RATE_LIMITED, "window")
    assert await store.get(keyspace.plan_state("ak_test_1")) == before
    assert not await store.exists(keyspace.nonce("ak_test_1", "nonce-3-xxxxxxxxxx"))
    # The same nonce, by a key with room: it was never used.
    roomier = policy(Plan("p", windows=(Window(50, 60),)))
    assert (await decided(limiter, roomier, nonce="nonce-3-xxxxxxxxxx")).outcome is Outcome.ALLOWED


async def test_a_replayed_nonce_takes_nothing_of_any_limit(
    valkey_server: EmbeddedValkey, limiter: Limiter, store: redis.asyncio.Redis
) -> None:
    """Whoever records one call of a customer could use up the customer's quota with it."""
    limits = policy(STANDARD)
    assert (await decided(limiter, limits, nonce="nonce-1-xxxxxxxxxx")).outcome is Outcome.ALLOWED
    before = await store.get(keyspace.plan_state("ak_test_1"))
    async with running(valkey_server.url(database=1)) as another:
        for worker in (limiter, another):
            replayed = await decided(worker, limits, nonce="nonce-1-xxxxxxxxxx", write=True)
            assert (replayed.outcome, replayed.limit) == (Outcome.NONCE_REPLAYED, "nonce")
    assert await store.get(keyspace.plan_state("ak_test_1")) == before


async def test_every_limit_of_plan_and_route_must_hold(limiter: Limiter) -> None:
    """A route that protects something weak would be flooded by callers with large plans."""
    limits = policy(
        Plan("p", windows=(Window(5, 60), Window(100, 3600))),
        RouteLimit(Window(3, 60), LimitBy.IP),
        RouteLimit(Window(4, 60), LimitBy.ROUTE),
    )
    outcomes = [(await decided(limiter, limits, ip="192.0.2.1")).outcome for _ in range(4)]
    assert outcomes == [Outcome.ALLOWED] * 3 + [Outcome.RATE_LIMITED]
    by_route = [(await decided(limiter, limits, ip="192.0.2.2")).outcome for _ in range(2)]
    assert by_route == [Outcome.ALLOWED, Outcome.RATE_LIMITED]
    assert (await decided(limiter, limits, ip="192.0.2.2")).headers.count(b'RateLimit: "minute-by-route";r=0') == 1


@pytest.mark.parametrize("by", [LimitBy.APP, LimitBy.ORGANIZATION, LimitBy.KEY])
async def test_a_limit_by_something_the_caller_lacks_goes_by_its_key_or_address(limiter: Limiter, by: LimitBy) -> None:
    """A key without an app, or an anonymous caller, would have no limit at all."""
    limits = policy(None, RouteLimit(Window(1, 60), by))
    assert (await decided(limiter, limits, key="ak_a")).outcome is Outcome.ALLOWED
    assert (await decided(limiter, limits, key="ak_a")).outcome is Outcome.RATE_LIMITED
    assert (await decided(limiter, limits, key="ak_b")).outcome is Outcome.ALLOWED
    assert (await decided(limiter, limits, key=None, ip="192.0.2.9")).outcome is Outcome.ALLOWED
    assert (await decided(limiter, limits, key=None, ip="192.0.2.9")).outcome is Outcome.RATE_LIMITED


async def test_keys_of_one_app_share_what_goes_by_app(limiter: Limiter) -> None:
    """An app would multiply its limit by making keys."""
    limits = policy(None, RouteLimit(Window(2, 60), LimitBy.APP))
    outcomes = [(await decided(limiter, limits, key=f"ak_{n}", app="app_1")).outcome for n in range(3)]
    assert outcomes == [Outcome.ALLOWED, Outcome.ALLOWED, Outcome.RATE_LIMITED]


@pytest.mark.parametrize(
    ("overage", "outcome"), [(Overage.WARN, Outcome.ALLOWED), (Overage.BLOCK, Outcome.QUOTA_EXCEEDED)]
)
async def test_past_its_quota_a_call_is_refused_or_flagged(
    limiter: Limiter, overage: Overage, outcome: Outcome
) -> None:
    """Overage would go unmetered, or a hard quota would not be one."""
    limits = policy(Plan("p", quotas=(Quota(2, Period.MONTH),), overage=overage))
    for _ in range(2):
        within = await decided(limiter, limits)
        assert (within.outcome, within.overage) == (Outcome.ALLOWED, False)
    past = await decided(limiter, limits)
    assert (past.outcome, past.overage) == (outcome, overage is Overage.WARN)
    assert past.limit == ("quota" if overage is Overage.BLOCK else "none")


# --- batches ----------------------------------------------------------------------------------------------------------


async def test_calls_of_one_tick_are_decided_in_order_by_one_command(
    limiter: Limiter, store: redis.asyncio.Redis
) -> None:
    """One command a call costs Redis four times as much; out of order, a later call would take an earlier one's place."""
    limits = policy(Plan("p", windows=(Window(5, 60),)))
    before = await scripts_run(store)
    signals = [ask(limiter, limits, nonce=f"nonce-{n}-xxxxxxxxx") for n in range(8)]
    outcomes = [(await settled(signal)).outcome for signal in signals]
    assert outcomes == [Outcome.ALLOWED] * 5 + [Outcome.RATE_LIMITED] * 3
    assert await scripts_run(store) == before + 1


async def test_a_batch_is_bounded(limiter: Limiter, store: redis.asyncio.Redis) -> None:
    """A burst would hold Redis up for everyone else."""
    limits = policy(Plan("p", windows=(Window(10_000, 60),)))
    before = await scripts_run(store)
    signals = [ask(limiter, limits, key=f"ak_{n}") for n in range(2 * BATCH_MAX + 1)]
    assert {(await settled(signal)).outcome for signal in signals} == {Outcome.ALLOWED}
    assert await scripts_run(store) == before + 3


async def test_requests_of_every_kind_share_a_batch(limiter: Limiter) -> None:
    """Mixed up arguments would decide one caller's request by another's limits."""
    plans = [
        None,
        Plan("a", windows=(Window(1, 60),)),
        Plan("b", rate=Rate(1, 60, 2), concurrency=1),
        Plan("c", concurrency=0),
        STANDARD,
    ]
    routes = [(), (RouteLimit(Window(1, 60), LimitBy.KEY),)]
    asked = [
        (policy(plan, *limits), f"ak_{p}_{r}_{bool(nonce)}", nonce)
        for p, plan in enumerate(plans)
        for r, limits in enumerate(routes)
        for nonce in (None, "nonce-1-xxxxxxxxxx")
    ]
    for turn in ("first", "second"):
        signals = [ask(limiter, limits, key=key, nonce=nonce) for limits, key, nonce in asked]
        for (limits, key, nonce), signal in zip(asked, signals, strict=True):
            outcome = (await settled(signal)).outcome
            if key.startswith("ak_3"):
                assert outcome is Outcome.TOO_MANY_CONCURRENT
            elif turn == "first":
                assert outcome is Outcome.ALLOWED
            elif nonce is not None:
                assert outcome is Outcome.NONCE_REPLAYED
            elif "_1_" in key or key.startswith("ak_1"):
                assert outcome is Outcome.RATE_LIMITED
            else:
                assert outcome is Outcome.ALLOWED or limits.leased


async def test_nothing_to_decide_asks_nobody(limiter: Limiter) -> None:
    """Anonymous routes without limits would pay for Redis."""
    signal = ask(limiter, policy(None))
    assert signal.done
    assert (await settled(signal)).headers == b""
    assert limiter.status()["batches"] == 0


async def test_a_request_that_fails_on_its_decision_fails_alone(limiter: Limiter) -> None:
    """The other requests of its batch would wait for ever."""
    limits = policy(STANDARD)
    broken, after = ask(limiter, limits), ask(limiter, limits)

    async def wait() -> None:
        await broken
        raise RuntimeError("on purpose")

    def fail(error: BaseException) -> None:
        raise error

    Drive(wait(), fail)
    assert (await settled(after)).outcome is Outcome.ALLOWED


# A request that failed while it was given its answer, and is kept by the cycle that its traceback makes.
COLLECTED = """
import gc
from ostiary.gateway.limits import script

def fail(answers):
    kept = [answers, next(answers)]
    kept.append(kept)

fail(script.answers(bytes(1000), 2))
gc.collect()
"""


def test_what_a_failed_request_leaves_behind_is_collected_in_peace() -> None:
    """CPython before 3.13 dies of an `iter_unpack` over a memoryview that is collected in a cycle: a defect that costs one
    request would cost the worker, and all of its calls."""
    ran = subprocess.run([sys.executable, "-c", COLLECTED], capture_output=True, text=True, timeout=30, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")


# --- calls under way --------------------------------------------------------------------------------------------------


async def test_calls_under_way_are_bounded_and_a_released_one_makes_room(limiter: Limiter) -> None:
    """Slow calls of one key would take all connections of its upstream; without release it would be locked out."""
    limits = policy(Plan("p", concurrency=2))
    first, second, third = [await decided(limiter, limits) for _ in range(3)]
    assert [d.outcome for d in (first, second, third)] == [
        Outcome.ALLOWED,
        Outcome.ALLOWED,
        Outcome.TOO_MANY_CONCURRENT,
    ]
    assert (third.limit, third.retry_after_seconds, third.lease) == ("concurrency", 1, None)
    limiter.release(first.lease)
    limiter.release(first.lease)
    assert (await decided(limiter, limits)).outcome is Outcome.ALLOWED
    assert (await decided(limiter, limits)).outcome is Outcome.TOO_MANY_CONCURRENT


async def ends_of(store: redis.asyncio.Redis, name: str) -> dict[bytes, float]:
    pairs: Any = await store.zrange(name, 0, -1, withscores=True)
    return dict(pairs)


async def test_a_lease_is_renewed_while_its_call_lasts_and_not_when_it_was_dropped(
    limiter: Limiter, store: redis.asyncio.Redis
) -> None:
    """Row 84: a call of two minutes would stop counting after one; the lease of a client that left would count for ever."""
    limits = policy(Plan("p", concurrency=5))
    kept, dropped = await decided(limiter, limits), await decided(limiter, limits)
    name = keyspace.leases("ak_test_1")
    before = await ends_of(store, name)
    assert 0 < await store.ttl(name) <= keyspace.LEASE_SECONDS
    member = str(getattr(dropped.lease, "member", "")).encode()
    del dropped
    gc.collect()
    assert limiter._leases is not None
    limiter._leases.renew()
    await decided(limiter, policy(STANDARD))  # behind the renewal on the same connection
    after = await ends_of(store, name)
    assert after[member] == before[member]
    assert all(after[other] > before[other] for other in before if other != member)
    limiter.release(kept.lease)


# --- what the client is told ------------------------------------------------------------------------------------------


def fields(headers: bytes) -> dict[str, str]:
    assert headers.endswith(b"\r\n")
    return dict(line.split(": ", 1) for line in headers.decode("ascii").split("\r\n")[:-1])


async def test_rate_limit_fields_are_structured_fields_and_agree_with_each_other(limiter: Limiter) -> None:
    """Row 82: a client library would fail on them, or slow down for the wrong limit."""
    decision = await decided(limiter, policy(STANDARD))
    told = fields(decision.headers)
    assert list(told) == [
        "RateLimit-Policy",
        "RateLimit",
        "X-RateLimit-Limit",
        "X-RateLimit-Remaining",
        "X-RateLimit-Reset",
    ]
    limits = http_sf.parse(told["RateLimit-Policy"].encode(), tltype="list")
    assert limits == [
        ("rate", {"q": 100, "w": 60, "burst": 600}),
        ("hour", {"q": 10_000, "w": 3600}),
        ("day", {"q": 1_000_000, "w": 86_400}),
    ]
    assert http_sf.parse(told["RateLimit"].encode(), tltype="list") == [("rate", {"r": 599, "t": 1})]
    assert (told["X-RateLimit-Limit"], told["X-RateLimit-Remaining"], told["X-RateLimit-Reset"]) == ("600", "599", "1")


async def test_the_limit_nearest_to_running_out_is_told(limiter: Limiter) -> None:
    """A client with one call left of its hour would be told of the million left of its day."""
    limits = policy(Plan("p", windows=(Window(3, 3600),), quotas=(Quota(1000, Period.HOUR), Quota(5000, Period.DAY))))
    headers = [(await decided(limiter, limits)).headers for _ in range(4)]
    remaining = [re.findall(rb'RateLimit: "([^"]+)";r=(\d+);t=(\d+)', head)[0] for head in headers]
    assert [(name, int(left)) for name, left, _ in remaining] == [
        (b"hour", 2),
        (b"hour", 1),
        (b"hour", 0),
        (b"hour", 0),
    ]
    assert all(3595 <= int(reset) <= 3601 for _, _, reset in remaining)
    assert b'"hour-quota";q=1000;w=3600' in headers[0]


async def test_a_concurrency_limit_is_told_as_such(limiter: Limiter) -> None:
    """A client would wait for a window to pass where it has to end a call."""
    limits = policy(Plan("p", windows=(Window(10, 60),), concurrency=1))
    first = await decided(limiter, limits)
    refused = await decided(limiter, limits)
    assert http_sf.parse(fields(refused.headers)["RateLimit-Policy"].encode(), tltype="list") == [
        ("minute", {"q": 10, "w": 60}),
        ("concurrency", {"q": 1, "qu": "concurrent-requests"}),
    ]
    assert http_sf.parse(fields(refused.headers)["RateLimit"].encode(), tltype="list") == [
        ("concurrency", {"r": 0, "t": 1})
    ]
    limiter.release(first.lease)


@pytest.mark.parametrize(
    "plan",
    [
        Plan("window", windows=(Window(3, 1),)),
        Plan("slots", windows=(Window(200, 2),)),
        Plan("bucket", rate=Rate(2, 1, 3)),
        Plan("both", rate=Rate(2, 1, 3), windows=(Window(3, 2),)),
    ],
    ids=lambda plan: plan.name,
)
async def test_a_call_made_after_retry_after_is_let_in(limiter: Limiter, plan: Plan) -> None:
    """Row 82: clients that obey Retry-After would be refused again."""
    limits = policy(plan)
    decision = await decided(limiter, limits)
    while decision.outcome is Outcome.ALLOWED:
        assert decision.retry_after_seconds == 0
        decision = await decided(limiter, limits)
    assert decision.outcome is Outcome.RATE_LIMITED
    assert 1 <= decision.retry_after_seconds <= 3
    await asyncio.sleep(decision.retry_after_seconds)  # the guarantee is about this very time
    assert (await decided(limiter, limits)).outcome is Outcome.ALLOWED


async def test_a_lowered_limit_holds_at_once_and_leaves_nothing_negative(limiter: Limiter) -> None:
    """Row 81: a caller would keep what its old plan gave it, or be told that it has minus five calls left."""
    roomy, tight = policy(Plan("p", windows=(Window(500, 60),))), policy(Plan("p", windows=(Window(5, 60),)))
    for _ in range(10):
        await decided(limiter, roomy)
    refused = await decided(limiter, tight)
    assert refused.outcome is Outcome.RATE_LIMITED
    assert b'"minute";r=0;' in refused.headers
    assert (await decided(limiter, roomy)).outcome is Outcome.ALLOWED


async def test_decisions_are_observed_with_bounded_labels(valkey_server: EmbeddedValkey, store: object) -> None:
    """A dashboard could not tell a full quota from a full bucket."""
    observed = Observed()
    async with running(valkey_server.url(database=1), observe=observed) as limiter:
        limits = policy(Plan("p", quotas=(Quota(1, Period.DAY),)))
        await decided(limiter, limits, nonce="nonce-1-xxxxxxxxxx")
        await decided(limiter, limits, nonce="nonce-2-xxxxxxxxxx")
        await decided(limiter, limits, nonce="nonce-1-xxxxxxxxxx")
    assert observed.decisions == [("none", "allowed"), ("quota", "quota_exceeded"), ("nonce", "nonce_replayed")]
    assert len(observed.round_trips) == 2
    assert observed.failures == []


# --- memory of Redis --------------------------------------------------------------------------------------------------


async def test_everything_that_is_written_has_its_time_to_live(limiter: Limiter, store: redis.asyncio.Redis) -> None:
    """A million callers that never come back would fill Redis."""
    limits = policy(
        Plan("p", Rate(1, 1, 5), (Window(5, 60),), (Quota(9, Period.DAY),), concurrency=5),
        RouteLimit(Window(50, 1), LimitBy.IP),
    )
    decision = await decided(limiter, limits, nonce="nonce-1-xxxxxxxxxx")
    lives = {name: await store.pttl(name) for name in await store.keys("ost:{[ki]:*")}
    assert len(lives) == 4
    assert 0 < lives[b"ost:{k:ak_test_1}:nonce:nonce-1-xxxxxxxxxx"] <= 600_000
    assert 0 < lives[b"ost:{k:ak_test_1}:leases"] <= 60_000
    assert 86_000_000 < lives[b"ost:{k:ak_test_1}:plan"] <= 86_401_000
    assert 1000 < lives[b"ost:{i:192.0.2.1}:ip:clients"] <= 3000
    limiter.release(decision.lease)


def test_more_limits_than_a_specification_holds_are_refused_at_load() -> None:
    """A reload would succeed and every request of the plan fail."""
    windows = tuple(Window(10, seconds) for seconds in range(10_000, 10_060))
    with pytest.raises(LimitOutOfRange):
        compile_policy(Plan("p", windows=windows), route())
