"""Invariant: on a Redis Cluster a call is counted by everything that limits it, or by nothing, whatever the cluster does.

The servers are Debian's, started once for the module; each test has keys and addresses of its own."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from ostiary.core import keyspace
from ostiary.core.model import Cost, LimitBy, Plan, Rate, RouteLimit, StoreFailure, Window
from ostiary.gateway.limits import Limiter, LimitPolicy, Outcome
from ostiary.gateway.limits.slots import slot_of
from tests.gateway.limits.leasing import leased_window
from tests.gateway.limits.steady import counted as steady_counted
from tests.gateway.limits.support import Observed, ask, decided, policy, running, settled
from tests.support.redis_servers import RedisCluster, Server
from tests.support.waiting import MACHINE_SECONDS, until

pytestmark = pytest.mark.full

CLOSED = StoreFailure.CLOSED
PLENTY = policy(Plan("p", windows=(Window(1_000_000, 60),)))
NOT_AWAY_FOR_SECONDS = 2.0

_names = (f"ak_cluster_{number}" for number in itertools.count())


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


def key_at(cluster: RedisCluster, master: Server) -> str:
    """A key that nobody has used, whose names lie on that master."""
    return next(key for key in _names if cluster.owner(slot_of(keyspace.plan_state(key))) is master)


def address_at(cluster: RedisCluster, master: Server, *, n: int = 0) -> str:
    addresses = (f"198.51.{n}.{last}" for last in range(256))
    return next(one for one in addresses if cluster.owner(slot_of(f"{{i:{one}}}")) is master)


async def outcomes(limiter: Limiter, limits: object, count: int, **request: object) -> list[Outcome]:
    return [(await decided(limiter, limits, **request)).outcome for _ in range(count)]  # type: ignore[arg-type]


# --- one slot ---------------------------------------------------------------------------------------------------------


async def test_calls_of_one_tick_go_to_the_masters_of_their_keys(
    cluster: RedisCluster, limiter: Limiter, observed: Observed
) -> None:
    """One command for keys of several slots is refused by a cluster: no call would be decided by Redis."""
    limits = policy(Plan("p", windows=(Window(3, 60),), rate=Rate(60, 60, 10), concurrency=4))
    keys = [next(_names) for _ in range(40)]
    asked = [
        (key, ask(limiter, limits, key=key, nonce=f"nonce-{n:011}", on_failure=CLOSED))
        for n in range(4)
        for key in keys
    ]
    allowed = dict.fromkeys(keys, 0)
    for key, signal in asked:
        decision = await settled(signal)
        allowed[key] += decision.outcome is Outcome.ALLOWED
    assert set(allowed.values()) == {3}
    assert (observed.failures, limiter.status()["decided_without_store"]) == ([], 0)
    assert limiter.status()["slots_served"] == 16384


async def test_slices_are_taken_and_given_back_where_their_callers_are(
    cluster: RedisCluster, limiter: Limiter, observed: Observed
) -> None:
    """A slice of another master would be no part of the limit; what is not given back, a part that nobody has."""
    limits = policy(Plan("p", windows=(leased_window(1_000_000, 86_400),)))
    keys = [key_at(cluster, master) for master in cluster.servers[: cluster.masters_n]]
    made = dict.fromkeys(keys, 0)

    def spent() -> int:
        return int(str(limiter.status()["decided_from_slices"]))

    async with asyncio.timeout(10):
        while spent() < 100:
            for key in keys:
                assert (await decided(limiter, limits, key=key, on_failure=CLOSED)).outcome is Outcome.ALLOWED
                made[key] += 1
            await asyncio.sleep(0.002)

    def counted() -> dict[str, int]:
        return {key: steady_counted(cluster.owner(slot_of(keyspace.plan_state(key))), key) for key in keys}

    await until(lambda: counted() == made, "all is counted where it belongs, and no more")
    assert set(observed.slices) == {"taken"}
    assert observed.failures == []


async def test_calls_over_several_slots_are_counted_one_by_one(cluster: RedisCluster, limiter: Limiter) -> None:
    """No one command could take a slice of both."""
    limits = policy(
        Plan("p", windows=(leased_window(1_000_000, 86_400),)),
        RouteLimit(leased_window(1_000_000, 86_400), LimitBy.IP),
    )
    key, address = key_at(cluster, cluster.servers[0]), address_at(cluster, cluster.servers[1], n=77)
    for _ in range(200):
        assert (await decided(limiter, limits, key=key, ip=address, on_failure=CLOSED)).outcome is Outcome.ALLOWED
        await asyncio.sleep(0.001)
    assert limiter.status()["decided_from_slices"] == 0
    assert steady_counted(cluster.owner(slot_of(keyspace.plan_state(key))), key) == 200


async def test_a_flushed_script_is_loaded_again_on_each_master(
    cluster: RedisCluster, limiter: Limiter, observed: Observed
) -> None:
    """Row 77: every failover to a replica without the script would be a burst of errors."""
    for server in cluster.servers[:3]:
        server.ask("SCRIPT", "FLUSH")
    asked = []
    for number in range(30):
        asked.append(ask(limiter, PLENTY, key=f"ak_flush_{number}", on_failure=CLOSED))
        await asyncio.sleep(0)
    assert {(await settled(signal)).outcome for signal in asked} == {Outcome.ALLOWED}
    assert observed.failures == []


async def test_leases_are_renewed_and_released_where_they_are(cluster: RedisCluster, limiter: Limiter) -> None:
    """Row 84: a call would count until its lease ends, and a long one would not count to its end."""
    limits = policy(Plan("p", concurrency=1))
    held = {}
    for master in cluster.servers[:3]:
        key = key_at(cluster, master)
        held[key] = (await decided(limiter, limits, key=key, on_failure=CLOSED)).lease
        master.ask("PEXPIRE", keyspace.leases(key), 30_000)
    assert limiter._leases is not None
    limiter._leases.renew()
    for master, key in zip(cluster.servers, held, strict=False):
        await until(lambda m=master, k=key: int(str(m.ask("PTTL", keyspace.leases(k)))) > 40_000, "renewed")  # type: ignore[misc]
        assert await outcomes(limiter, limits, 1, key=key, on_failure=CLOSED) == [Outcome.TOO_MANY_CONCURRENT]
        limiter.release(held[key])
        assert await outcomes(limiter, limits, 1, key=key, on_failure=CLOSED) == [Outcome.ALLOWED]


# --- several slots ----------------------------------------------------------------------------------------------------


async def test_a_call_that_one_slot_refuses_costs_nothing_in_the_others(
    cluster: RedisCluster, limiter: Limiter
) -> None:
    """A caller at its plan's limit would use up the limit of an address or route that it shares with others."""
    key, other = key_at(cluster, cluster.servers[0]), key_at(cluster, cluster.servers[1])
    ip = address_at(cluster, cluster.servers[2])
    limits = policy(
        Plan("p", windows=(Window(2, 60),)),
        RouteLimit(Window(5, 60), LimitBy.IP),
        RouteLimit(Window(500, 60), LimitBy.IP),
    )
    assert (
        await outcomes(limiter, limits, 30, key=key, ip=ip, on_failure=CLOSED)
        == [Outcome.ALLOWED] * 2 + [Outcome.RATE_LIMITED] * 28
    )
    roomy = policy(
        Plan("p", windows=(Window(50, 60),)),
        RouteLimit(Window(5, 60), LimitBy.IP),
        RouteLimit(Window(500, 60), LimitBy.IP),
    )
    answers = [await decided(limiter, roomy, key=other, ip=ip, on_failure=CLOSED) for _ in range(4)]
    assert [answer.outcome for answer in answers] == [Outcome.ALLOWED] * 3 + [Outcome.RATE_LIMITED]
    assert b'RateLimit: "minute-by-ip";r=2;' in answers[0].headers, "the limit nearest to running out, of all slots"
    # And what the address refuses takes nothing of the plan: 3 of its 50 are used, and this one.
    elsewhere = await decided(limiter, policy(Plan("p", windows=(Window(50, 60),))), key=other, on_failure=CLOSED)
    assert b'RateLimit: "minute";r=46;' in elsewhere.headers


async def test_what_a_call_turns_out_to_cost_is_settled_in_every_slot(cluster: RedisCluster, limiter: Limiter) -> None:
    """Settled in one slot alone, a dear call would be cheap for the address it came from. A refused one gives all back."""
    key, ip = key_at(cluster, cluster.servers[0]), address_at(cluster, cluster.servers[2], n=4)
    told = Cost(default=5, response_header="x-cost", at_most=100)
    limits = policy(Plan("p", windows=(Window(200, 60),)), RouteLimit(Window(300, 60), LimitBy.IP), cost=told)
    who = {"key": key, "ip": ip, "on_failure": CLOSED}
    spent = 0
    for number, cost in enumerate((60, 0, 30)):
        decision = await decided(limiter, limits, **who)
        assert decision.charge is not None
        limiter.settle(decision.charge, cost)
        spent += cost
        await asyncio.sleep(0.05)  # two commands on two connections; what follows must see both
        of_address = await left(limiter, policy(None, RouteLimit(Window(300, 60), LimitBy.IP)), key, ip)
        of_plan = await left(limiter, policy(Plan("p", windows=(Window(200, 60),))), key, ip)
        # Each look is a call as well, and takes one.
        assert (of_address, of_plan) == (300 - spent - number - 1, 200 - spent - number - 1)
    # What the plan refuses is given back in full: 107 are left of the plan, 207 of the address; 8 times 13 are let in.
    dear = policy(Plan("p", windows=(Window(200, 60),)), RouteLimit(Window(300, 60), LimitBy.IP), cost=Cost(13))
    assert await outcomes(limiter, dear, 12, **who) == [Outcome.ALLOWED] * 8 + [Outcome.RATE_LIMITED] * 4
    await asyncio.sleep(0.05)
    assert await left(limiter, policy(None, RouteLimit(Window(300, 60), LimitBy.IP)), key, ip) == 207 - 8 * 13 - 1


async def left(limiter: Limiter, limits: LimitPolicy, key: str, ip: str) -> int:
    """The calls that are left after one more."""
    headers = (await decided(limiter, limits, key=key, ip=ip, on_failure=CLOSED)).headers
    return int(headers.partition(b"r=")[2].partition(b";")[0])


async def test_a_replayed_nonce_costs_nothing_in_any_slot(cluster: RedisCluster, limiter: Limiter) -> None:
    """Whoever has seen a signed call could use up its caller's limits by repeating it."""
    key, ip = key_at(cluster, cluster.servers[0]), address_at(cluster, cluster.servers[1], n=1)
    limits = policy(Plan("p", windows=(Window(50, 60),)), RouteLimit(Window(3, 60), LimitBy.IP))
    once = {"key": key, "ip": ip, "nonce": "nonce-once-xxxxxx", "on_failure": CLOSED}
    assert await outcomes(limiter, limits, 1, **once) == [Outcome.ALLOWED]
    async with running(cluster.urls(), deadline_seconds=0.5) as other_worker:
        assert await outcomes(other_worker, limits, 9, **once) == [Outcome.NONCE_REPLAYED] * 9
    assert await outcomes(limiter, limits, 3, key=key, ip=ip, on_failure=CLOSED) == [
        Outcome.ALLOWED,
        Outcome.ALLOWED,
        Outcome.RATE_LIMITED,
    ]


async def test_a_nonce_of_a_call_that_was_refused_is_still_good(cluster: RedisCluster, limiter: Limiter) -> None:
    """A client that waits as it was told, and sends the same signed call again, would be taken for a replay."""
    key, ip = key_at(cluster, cluster.servers[0]), address_at(cluster, cluster.servers[1], n=2)
    limits = policy(Plan("p", windows=(Window(50, 60),)), RouteLimit(Window(1, 1), LimitBy.IP))
    assert await outcomes(limiter, limits, 1, key=key, ip=ip, on_failure=CLOSED) == [Outcome.ALLOWED]
    again = {"key": key, "ip": ip, "nonce": "nonce-again-xxxxx", "on_failure": CLOSED}
    refused = await decided(limiter, limits, **again)
    assert refused.outcome is Outcome.RATE_LIMITED
    await asyncio.sleep(refused.retry_after_seconds)  # the guarantee is about this very time
    assert await outcomes(limiter, limits, 2, **again) == [Outcome.ALLOWED, Outcome.NONCE_REPLAYED]


async def test_many_at_once_over_several_slots_get_each_limit_whole_and_no_more(
    cluster: RedisCluster, limiter: Limiter, observed: Observed
) -> None:
    """Row 71: of calls that cross each other in several slots, all could be let in, or none."""
    route_limits = (RouteLimit(Window(40, 60), LimitBy.IP), RouteLimit(Window(100, 60), LimitBy.ROUTE))
    limits = policy(Plan("p", windows=(Window(30, 60),)), *route_limits)
    keys = [key_at(cluster, cluster.servers[number % 3]) for number in range(6)]
    ips = [address_at(cluster, cluster.servers[number], n=3) for number in range(3)]
    admitted: list[tuple[str, str]] = []

    async def caller(number: int, limiter: Limiter) -> None:
        key, ip = keys[number % 6], ips[number // 2 % 3]
        answers = await outcomes(limiter, limits, 25, key=key, ip=ip, on_failure=CLOSED)
        admitted.extend([(key, ip)] * answers.count(Outcome.ALLOWED))

    async with running(cluster.urls(), deadline_seconds=2) as second:
        await asyncio.gather(*(caller(number, (limiter, second)[number % 2]) for number in range(24)))
        # What was refused and given back leaves room: whoever asks now gets it, up to the limit.
        for key, ip in itertools.product(keys, ips):
            while (await decided(limiter, limits, key=key, ip=ip, on_failure=CLOSED)).outcome is Outcome.ALLOWED:
                admitted.append((key, ip))
    assert len(admitted) == 100
    assert all(sum(who == key for who, _ in admitted) <= 30 for key in keys)
    assert all(sum(where == ip for _, where in admitted) <= 40 for ip in ips)
    assert set(observed.failures) == set()


async def test_decisions_over_several_slots_are_observed_once(
    cluster: RedisCluster, limiter: Limiter, observed: Observed
) -> None:
    """A dashboard would show more calls than there were."""
    limits = policy(Plan("p", windows=(Window(2, 60),)), RouteLimit(Window(50, 60), LimitBy.IP))
    key, ip = key_at(cluster, cluster.servers[0]), address_at(cluster, cluster.servers[1], n=4)
    await outcomes(limiter, limits, 3, key=key, ip=ip)
    assert observed.decisions == [("none", "allowed")] * 2 + [("window", "rate_limited")]


# --- when something is away -------------------------------------------------------------------------------------------


async def test_a_frozen_master_stops_no_decision_of_the_others(cluster: RedisCluster) -> None:
    """One master that hangs would cost every call its deadline, or open the breaker for all."""
    frozen, healthy = cluster.servers[2], cluster.servers[0]
    near, far, ip = key_at(cluster, healthy), key_at(cluster, frozen), address_at(cluster, frozen, n=5)
    crossing_key = key_at(cluster, healthy)
    crossing = policy(Plan("p", windows=(Window(3, 60),)), RouteLimit(Window(50, 60), LimitBy.IP))
    cluster.replica_of(frozen).ask("CONFIG", "SET", "cluster-replica-no-failover", "yes")
    async with running(cluster.urls()[:2], deadline_seconds=0.1) as limiter:
        await until(lambda: limiter.status()["state"] == "connected", "connected")
        with frozen.stopped():
            while limiter.status()["state"] == "connected":
                await decided(limiter, PLENTY, key=far)
                assert await outcomes(limiter, PLENTY, 1, key=near, on_failure=CLOSED) == [Outcome.ALLOWED]
            assert limiter.status()["state"] == "partly"
            assert ask(limiter, PLENTY, key=far).done, "decided at once"
            assert await outcomes(limiter, PLENTY, 1, key=far, on_failure=CLOSED) == [Outcome.UNAVAILABLE]
            # The master that answers still holds its limits, beside what is decided without the other.
            assert await outcomes(limiter, crossing, 4, key=crossing_key, ip=ip) == [Outcome.ALLOWED] * 3 + [
                Outcome.RATE_LIMITED
            ]
            assert await outcomes(limiter, crossing, 1, key=crossing_key, ip=ip, on_failure=CLOSED) == [
                Outcome.UNAVAILABLE
            ]
        began = time.monotonic()
        await until(lambda: limiter.status()["state"] == "connected", "all masters are back")
        assert time.monotonic() - began < NOT_AWAY_FOR_SECONDS + MACHINE_SECONDS
    cluster.replica_of(frozen).ask("CONFIG", "SET", "cluster-replica-no-failover", "no")


async def test_a_single_redis_is_told_from_a_cluster(own_valkey: object, caplog: pytest.LogCaptureFixture) -> None:
    """An operator who wrote a list for one Redis would find limits that are never counted, and no reason."""
    url = own_valkey.url()  # type: ignore[attr-defined]  # an EmbeddedValkey
    with caplog.at_level(logging.WARNING):
        async with running((url,)) as limiter:
            assert limiter.status()["state"] == "away"
            assert "no Redis Cluster" in str(limiter.status()["last_failure"])
            assert await outcomes(limiter, PLENTY, 1) == [Outcome.ALLOWED]
            assert await outcomes(limiter, PLENTY, 1, on_failure=CLOSED) == [Outcome.UNAVAILABLE]
    assert "no Redis Cluster" in str([getattr(record, "fields", "") for record in caplog.records])


PASSWORD = "canary-91bd"
# What docs/configuration.md says that a user needs.
RIGHTS = "~ost:* -@all +@scripting +@read +@write +auth +select +ping +time +info +cluster|slots +asking"


async def test_each_node_lets_the_user_of_its_url_in_with_no_more_rights_than_documented(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A node that is learnt from another one would be asked without a password, or with rights that nobody gave."""
    user = f"user gate on >{PASSWORD} {RIGHTS}"
    (tmp_path / "users.acl").write_text(f"user default on nopass ~* &* +@all\n{user}\n")
    with RedisCluster(tmp_path, masters_n=1, options=("--aclfile", str(tmp_path / "users.acl"))) as cluster:
        url = f"redis://gate:{PASSWORD}@{cluster.servers[0].place}"
        limits = policy(
            Plan("p", Rate(60, 60, 3), (Window(3, 60),), concurrency=9), RouteLimit(Window(2, 60), LimitBy.IP)
        )
        async with running((url,), deadline_seconds=0.5) as limiter:
            assert limiter.status()["state"] == "connected", limiter.status()
            held = [await decided(limiter, limits, nonce=f"nonce-{n:011}", on_failure=CLOSED) for n in range(3)]
            assert [one.outcome for one in held] == [Outcome.ALLOWED, Outcome.ALLOWED, Outcome.RATE_LIMITED]
            assert limiter._leases is not None
            limiter._leases.renew()
            for one in held[:2]:
                limiter.release(one.lease)
            server = cluster.servers[0]
            await until(lambda: server.ask("ZCARD", keyspace.leases("ak_test_1")) == 0, "released")
            assert PASSWORD not in str(limiter.status()) + caplog.text
            # The replica takes over with the same user, though no URL named it.
            replica = cluster.servers[1]
            await asyncio.to_thread(replica.ask, "CLUSTER", "FAILOVER", "TAKEOVER")
            await until(lambda: server.role() == b"slave", "the old one knows")
            await decided(limiter, limits, on_failure=CLOSED)  # MOVED tells
            await until(lambda: str(replica.port) in str(limiter.status()["masters"]), "it is known")
            await until(lambda: limiter.status()["state"] == "connected", "it is in use")
            assert await outcomes(limiter, limits, 1, on_failure=CLOSED) == [Outcome.RATE_LIMITED]
        assert server.ask("ACL", "LOG") == []
        wrong = f"redis://gate:wrong@{replica.place}"
        async with running((wrong,)) as limiter:
            assert limiter.status()["state"] == "away"
            assert "WRONGPASS" in str(limiter.status()["last_failure"])
