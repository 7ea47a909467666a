"""Invariant: over the slots of a Redis Cluster limits of every kind hold as on one Redis: all or nothing, leases are given
back, and a refused call takes what it says."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from ostiary.core import keyspace
from ostiary.core.model import (
    Concurrency,
    LimitBy,
    LimitMode,
    Period,
    Plan,
    Quota,
    Rate,
    RefusedCalls,
    RouteLimit,
    StoreFailure,
    Window,
)
from ostiary.gateway.limits import Decision, Limiter, LimitPolicy, Outcome
from ostiary.gateway.limits.slots import slot_of
from tests.gateway.limits.support import Observed, decided, policy, running
from tests.support.redis_servers import RedisCluster
from tests.support.waiting import until

pytestmark = pytest.mark.full

CLOSED, CHARGED, SHADOW = StoreFailure.CLOSED, RefusedCalls.CHARGED, LimitMode.SHADOW
KINDS: dict[str, Rate | Window | Quota | Concurrency] = {
    "rate": Rate(1, 3600, 3),
    "window": Window(3, 3600),
    "quota": Quota(3, Period.MONTH),
    "concurrency": Concurrency(3),
}
_numbers = itertools.count()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    with RedisCluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
def observed() -> Observed:
    return Observed()


@pytest.fixture
async def limiter(cluster: RedisCluster, observed: Observed) -> AsyncIterator[Limiter]:
    async with running(cluster.urls()[:1], deadline_seconds=0.5, observe=observed) as limiter:
        await until(lambda: limiter.status()["state"] == "connected", "connected")
        yield limiter


class Caller:
    """A key, an address and an app that nobody has used, of three slots on different masters."""

    def __init__(self, cluster: RedisCluster) -> None:
        self.key = self._at(cluster, 0, "ak_{}", keyspace.plan_state)
        self.app = self._at(cluster, 1, "app-{}", lambda app: f"{{a:{app}}}")
        self.ip = self._at(cluster, 2, "2001:db8::{:x}", lambda ip: f"{{i:{ip}}}")

    @staticmethod
    def _at(cluster: RedisCluster, master: int, form: str, name: Callable[[str], str]) -> str:
        names = (form.format(number) for number in _numbers)
        return next(one for one in names if cluster.owner(slot_of(name(one))) is cluster.servers[master])


@pytest.fixture
def caller(cluster: RedisCluster) -> Caller:
    return Caller(cluster)


async def calls(limiter: Limiter, limits: LimitPolicy, count: int, who: Caller, **request: object) -> list[Decision]:
    asked: dict[str, object] = {"key": who.key, "app": who.app, "ip": who.ip, "on_failure": CLOSED, **request}
    return [await decided(limiter, limits, **asked) for _ in range(count)]


def let_in(decisions: list[Decision]) -> int:
    return sum(decision.outcome is Outcome.ALLOWED for decision in decisions)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_limit_of_any_kind_holds_in_another_slot(limiter: Limiter, caller: Caller, kind: str) -> None:
    """What is asked before the plan was windows alone: others would pass uncounted."""
    limits = policy(Plan("p", windows=(Window(100, 60),)), RouteLimit(KINDS[kind], LimitBy.IP))
    decisions = await calls(limiter, limits, 5, caller)
    assert let_in(decisions) == 3
    assert decisions[-1].limit == kind
    assert b"-by-ip" in decisions[-1].headers
    if kind == "concurrency":
        for decision in decisions[:2]:
            limiter.release(decision.lease)
        assert let_in(await calls(limiter, limits, 3, caller)) == 2


@pytest.mark.parametrize("kind", KINDS)
async def test_a_call_that_the_plan_refuses_takes_nothing_of_the_limits_before_it(
    limiter: Limiter, caller: Caller, kind: str
) -> None:
    """A caller at its plan's limit would use up what it shares with others; a lease that stays is a place that is gone."""
    refusing = policy(Plan("p", windows=(Window(1, 3600),)), RouteLimit(KINDS[kind], LimitBy.IP))
    decisions = await calls(limiter, refusing, 20, caller)
    assert let_in(decisions) == 1
    assert {decision.limit for decision in decisions[1:]} == {"window"}
    alone = policy(None, RouteLimit(KINDS[kind], LimitBy.IP))

    async def left() -> int:
        return let_in(await calls(limiter, alone, 3, caller))

    assert await left() == 2


async def test_refused_calls_are_charged_in_the_slots_that_say_so_asked_or_not(
    limiter: Limiter, caller: Caller
) -> None:
    """What comes after the slot that refuses is never asked: it would count the less, the earlier a call is refused."""
    limits = policy(
        Plan("p", quotas=(Quota(1000, Period.MONTH, refused=CHARGED), Quota(1000, Period.DAY))),
        RouteLimit(Window(200, 60, refused=CHARGED), LimitBy.IP),
        RouteLimit(Window(2, 60), LimitBy.APP),
        RouteLimit(Window(300, 60, refused=CHARGED), LimitBy.ORGANIZATION),
    )
    assert let_in(await calls(limiter, limits, 10, caller, organization=caller.app)) == 2
    behind = policy(None, RouteLimit(Window(300, 60), LimitBy.ORGANIZATION))
    (asked,) = await calls(limiter, behind, 1, caller, organization=caller.app)
    assert b"r=289" in asked.headers, "all ten, though it was asked for two"
    by_ip = policy(None, RouteLimit(Window(200, 60), LimitBy.IP))
    (asked,) = await calls(limiter, by_ip, 1, caller)
    assert b"r=189" in asked.headers, "all ten, and this one"
    month = policy(Plan("p", quotas=(Quota(1000, Period.MONTH),)))
    (asked,) = await calls(limiter, month, 1, caller)
    assert b"r=989" in asked.headers, "all ten, though it was asked for two"


async def test_a_plan_by_app_gives_a_replayed_call_back(
    cluster: RedisCluster, limiter: Limiter, caller: Caller
) -> None:
    """Row 84: the nonce is the key's, and comes last there: whoever records a call could use up the app's plan with it."""
    plan = Plan("p", Rate(1, 3600, 5), (Window(5, 3600),), (Quota(5, Period.MONTH),), concurrency=5, by=LimitBy.APP)
    limits = policy(plan)
    nonce = f"nonce-{next(_numbers):016}"
    first = await calls(limiter, limits, 1, caller, nonce=nonce, write=True)
    # Another worker, which does not know the nonce itself.
    async with running(cluster.urls()[:1], deadline_seconds=0.5) as other:
        await until(lambda: other.status()["state"] == "connected", "connected")
        replays = await calls(other, limits, 8, caller, nonce=nonce, write=True)
    assert [decision.outcome for decision in first + replays] == [Outcome.ALLOWED] + [Outcome.NONCE_REPLAYED] * 8
    assert let_in(await calls(limiter, limits, 6, caller)) == 4


async def test_shadows_and_shares_of_quotas_are_told_from_every_slot(
    limiter: Limiter, observed: Observed, caller: Caller
) -> None:
    """What lies in another slot than the plan would be tried out in vain."""
    limits = policy(
        Plan("p", windows=(Window(100, 60),)),
        RouteLimit(Window(1, 60, SHADOW), LimitBy.IP),
        RouteLimit(Concurrency(1, SHADOW), LimitBy.IP),
        RouteLimit(Quota(4, Period.MONTH), LimitBy.APP),
    )
    decisions = await calls(limiter, limits, 3, caller)
    assert let_in(decisions) == 3
    assert [decision.would_refuse for decision in decisions] == [
        (),
        ("minute-by-ip", "concurrency-by-ip"),
        ("minute-by-ip", "concurrency-by-ip"),
    ]
    assert observed.decisions.count(("window", "would_refuse")) == 2
    (half, again) = limiter.quota_events.take(10)
    assert (half.subject, half.quota, half.percent, again.percent) == (
        f"a:{caller.app}",
        "clients/month-quota-by-app",
        50,
        50,
    )
