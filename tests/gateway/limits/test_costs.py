"""Invariant: a call takes what it costs of every limit, and what it turns out to cost is settled with whoever decided it."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest
import redis

from ostiary.core.model import Cost, LimitBy, Overage, Period, Plan, Quota, Rate, RouteLimit, StoreFailure, Window
from ostiary.demo.stores import EmbeddedValkey
from ostiary.gateway.limits import Decision, Limiter, LimitPolicy, Outcome
from tests.gateway.edge.serving import served
from tests.gateway.limits.support import Observed, Proxy, decided, policy, running, until_state
from tests.support.origin import Answer, answer_with
from tests.support.waiting import until

TOLD = Cost(default=5, response_header="x-cost", at_most=100)


@pytest.fixture
def database(valkey_server: EmbeddedValkey) -> str:
    url = valkey_server.url(database=4)
    redis.Redis.from_url(url).flushdb()
    return url


async def settled(limiter: Limiter, limits: LimitPolicy, cost: int) -> Decision:
    """A call that is admitted and turns out to cost this."""
    decision = await decided(limiter, limits)
    assert decision.outcome is Outcome.ALLOWED
    assert decision.charge is not None
    limiter.settle(decision.charge, cost)
    return decision


def remaining(decision: Decision) -> int:
    return int(decision.headers.partition(b"r=")[2].partition(b";")[0])


@pytest.mark.parametrize(
    "plan",
    [
        Plan("p", rate=Rate(1, 3600, 12)),
        Plan("p", windows=(Window(12, 3600),)),
        Plan("p", quotas=(Quota(12, Period.MONTH),)),
    ],
)
async def test_a_call_takes_its_cost_of_every_kind_of_limit(database: str, plan: Plan) -> None:
    """Dear calls would be as cheap as others, by Redis or without it."""
    limits = policy(plan, cost=Cost(1, {"POST": 5}))
    for url in (database, None):
        async with running(url) as limiter:
            post = limits.by_method[b"POST"]
            assert [remaining(await decided(limiter, post)) for _ in range(2)] == [7, 2]
            refused = await decided(limiter, post)
            assert refused.outcome in (Outcome.RATE_LIMITED, Outcome.QUOTA_EXCEEDED)
            assert remaining(refused) == 2  # and cheaper calls have these two
            assert [remaining(await decided(limiter, limits)) for _ in range(2)] == [1, 0]


async def test_a_dear_call_is_one_call_under_way(database: str) -> None:
    """Concurrency counts connections to something weak, not work."""
    limits = policy(Plan("p", concurrency=2), cost=Cost(50))
    async with running(database) as limiter:
        assert [(await decided(limiter, limits)).outcome for _ in range(3)] == [
            Outcome.ALLOWED,
            Outcome.ALLOWED,
            Outcome.TOO_MANY_CONCURRENT,
        ]


@pytest.mark.parametrize("store", [True, False])
async def test_a_call_that_turns_out_dearer_leaves_its_limits_in_debt(database: str, store: bool) -> None:
    """Calls whose cost is known afterwards would be charged a guess."""
    observed = Observed()
    limits = policy(
        Plan("p", rate=Rate(1, 3600, 50), windows=(Window(50, 3600),), quotas=(Quota(50, Period.MONTH),)), cost=TOLD
    )
    async with running(database if store else None, observe=observed) as limiter:
        await settled(limiter, limits, 80)
        refused = await decided(limiter, limits)
        assert refused.outcome is not Outcome.ALLOWED
        assert remaining(refused) == 0
        assert observed.settlements == ["more"]


@pytest.mark.parametrize("store", [True, False])
async def test_a_call_that_turns_out_cheaper_gets_the_rest_back(database: str, store: bool) -> None:
    """An upstream that answers from its cache would cost its callers as much as one that works."""
    observed = Observed()
    limits = policy(
        Plan("p", rate=Rate(1, 3600, 5), windows=(Window(5, 3600),), quotas=(Quota(5, Period.MONTH),)), cost=TOLD
    )
    async with running(database if store else None, observe=observed) as limiter:
        for _ in range(4):
            assert remaining(await settled(limiter, limits, 0)) == 0
        await settled(limiter, limits, 5)
        assert (await decided(limiter, limits)).outcome is not Outcome.ALLOWED
        assert observed.settlements == ["less"] * 4 + ["same"]


async def test_what_redis_could_not_be_told_is_counted_as_lost(database: str) -> None:
    """A gateway that charges guesses because Redis is away would look as if it charged what calls cost."""
    observed = Observed()
    limits = policy(Plan("p", windows=(Window(50, 3600),)), cost=TOLD)
    server, _, number = database.rpartition("/")
    async with AsyncExitStack() as redis_there:
        proxy = await redis_there.enter_async_context(Proxy(int(server.rpartition(":")[2])))
        async with running(f"redis://127.0.0.1:{proxy.port}/{number}", observe=observed) as limiter:
            decision = await decided(limiter, limits)
            assert decision.charge is not None
            await redis_there.aclose()
            await until_state(limiter, "away")
            limiter.settle(decision.charge, 7)
            await until(lambda: observed.settlements == ["more", "lost"], "both are told")


async def test_settlements_of_one_tick_go_in_one_command_with_its_calls(database: str) -> None:
    """A command a settlement would double what Redis has to do."""
    limits = policy(Plan("p", windows=(Window(1000, 3600),)), cost=TOLD)
    async with running(database) as limiter:
        charges = [(await decided(limiter, limits)).charge for _ in range(20)]
        before = limiter.status()["batches"]
        for charge in charges:
            assert charge is not None
            limiter.settle(charge, 1)
        decision = await decided(limiter, limits)
        assert limiter.status()["batches"] == int(str(before)) + 1
        assert remaining(decision) == 1000 - 20 - 5


async def test_a_worker_by_itself_lets_in_the_dearest_call_whatever_its_share(database: str) -> None:
    """With eight workers a call that costs 50 of 100 would be refused for as long as Redis is away."""
    limits = policy(
        Plan("p", windows=(Window(100, 3600),), overage=Overage.BLOCK),
        RouteLimit(Window(100, 60), LimitBy.IP),
        cost=Cost(50),
    )
    async with running(None, workers=8) as limiter:
        outcomes = [(await decided(limiter, limits, on_failure=StoreFailure.LOCAL)).outcome for _ in range(2)]
        assert outcomes == [Outcome.ALLOWED, Outcome.RATE_LIMITED]


ROUTES = """
- name: all
  match: {path: "/**"}
  upstream: origin
  auth: {schemes: [anonymous]}
  limits: [{requests: 1000, per: hour, by: ip}]
  cost: {default: 5, methods: {DELETE: 0}, response_header: X-Cost, at_most: 60}
"""


def saying(*lines: bytes) -> Answer:
    return answer_with(b"\r\n".join((b"HTTP/1.1 200 OK", *lines, b"Content-Length: 2", b"", b"ok")))


@pytest.mark.parametrize(
    ("answer", "left"),
    [
        (saying(b"X-Cost: 12"), 983),
        (saying(b"x-cost:0"), 995),
        (saying(b"X-Cost: -3"), 995),
        (saying(b"X-Cost: 1000000"), 935),
        (saying(b"X-Cost: 1.5"), 990),
        (saying(b"X-Cost: many"), 990),
        (saying(b"X-Cost: 7", b"X-Cost: 9"), 990),
        (saying(), 990),
    ],
)
async def test_the_upstream_says_what_a_call_cost_within_its_bounds(answer: Answer, left: int) -> None:
    """An upstream's mistake would take all of a caller's quota, or give it another one."""
    async with served(ROUTES, answer=answer) as site:
        first = await site.ask("/")
        assert first.one("X-RateLimit-Remaining") == "995"  # what is known when the head is written
        second = await site.ask("/")
        assert second.one("X-RateLimit-Remaining") == str(left)
        assert (await site.ask("/", method="DELETE")).status == 200
