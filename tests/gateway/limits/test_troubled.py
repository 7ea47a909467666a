"""Invariant: a Redis that runs and can't decide - it loads, is out of memory, hangs in a script, has lost its master or its
cluster - costs nobody more than the deadline; each route gets what it chose; nothing is counted twice; and within 2 s after
it can decide again it does, with the calls under way and the costs of the time between.

The replies are those of real servers (Debian's), which really are in that state."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from redis.exceptions import RedisError

from ostiary.core import keyspace
from ostiary.core.model import Cost, Plan, RedisLocation, RedisSentinels, StoreFailure, Window
from ostiary.gateway.limits import Limiter, Outcome
from ostiary.gateway.limits.slots import slot_of
from tests.gateway.limits.steady import Log, counted, steady
from tests.gateway.limits.support import Observed, decided, policy, running
from tests.support.ports import free_port
from tests.support.redis_servers import RedisCluster, Server, server, wait_until
from tests.support.waiting import MACHINE_SECONDS, until

# Three answers that are late by 200 ms, and a master is given up: what other tests compute must not look like that.
pytestmark = [pytest.mark.full, pytest.mark.alone]

CLOSED, LOCAL = StoreFailure.CLOSED, StoreFailure.LOCAL
DEADLINE_SECONDS = 0.2
UNDECIDED_SECONDS_MAX = 2.0

COUNTED = policy(Plan("p", windows=(Window(1_000_000, 3600),)))
UNDER_WAY = policy(Plan("p", windows=(Window(1_000_000, 3600),), concurrency=3))
TOLD = policy(Plan("p", windows=(Window(1_000_000, 3600),)), cost=Cost(response_header="x-cost"))

# DEBUG RELOAD saves, forgets and loads: with so many keys at so many µs, it says LOADING for as long as the test says.
FILLERS = 2000
OPTIONS = ("--enable-debug-command", "yes", "--busy-reply-threshold", "50")

_names = (f"ak_troubled_{number}" for number in itertools.count())


# --- the troubles ---------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def in_thread(context: AbstractContextManager[None]) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """`context`, while the loop goes on. Gives what ends it before the block does."""
    await asyncio.to_thread(context.__enter__)
    ended = False

    async def end() -> None:
        nonlocal ended
        if not ended:
            ended = True
            await asyncio.to_thread(context.__exit__, None, None, None)

    try:
        yield end
    finally:
        await end()


@contextmanager
def loading(one: Server) -> Iterator[None]:
    one.ask("CONFIG", "SET", "loading-process-events-interval-bytes", 1024)
    one.ask("DEBUG", "POPULATE", FILLERS, "filler", 100)
    one.ask("CONFIG", "SET", "key-load-delay", 400)
    loader = threading.Thread(target=_unheard, args=(one, "DEBUG", "RELOAD"))
    loader.start()
    yield
    loader.join()


@contextmanager
def out_of_memory(one: Server) -> Iterator[None]:
    one.ask("CONFIG", "SET", "maxmemory", "1mb")
    yield
    one.ask("CONFIG", "SET", "maxmemory", 0)


@contextmanager
def busy(one: Server) -> Iterator[None]:
    script = threading.Thread(target=_unheard, args=(one, "EVAL", "while true do end", 0))
    script.start()
    yield
    one.ask("SCRIPT", "KILL")
    script.join()


@contextmanager
def without_master(one: Server) -> Iterator[None]:
    one.ask("CONFIG", "SET", "replica-serve-stale-data", "no")
    one.ask("REPLICAOF", "127.0.0.1", 1)
    yield
    one.ask("REPLICAOF", "NO", "ONE")


@contextmanager
def demoted(one: Server) -> Iterator[None]:
    one.ask("CONFIG", "SET", "replica-serve-stale-data", "yes")
    one.ask("REPLICAOF", "127.0.0.1", 1)
    yield
    one.ask("REPLICAOF", "NO", "ONE")


def _unheard(one: Server, *command: str | int) -> None:
    client = one.client
    try:
        client.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py's
    except RedisError:
        pass
    finally:
        client.close()


Trouble = Callable[[Server], AbstractContextManager[None]]
ANYWHERE: dict[str, Trouble] = {"LOADING": loading, "OOM": out_of_memory, "BUSY": busy}
REPLICAS: dict[str, Trouble] = {"MASTERDOWN": without_master, "READONLY": demoted}


# --- where ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Site:
    """`troubled` is the server that a caller of `key()` is counted by; `bystander` is one of another server, if there is."""

    location: RedisLocation
    troubled: Server
    cluster: RedisCluster | None = None

    def key(self) -> str:
        if self.cluster is None:
            return next(_names)
        return next(key for key in _names if self.cluster.owner(slot_of(keyspace.plan_state(key))) is self.troubled)

    def bystander(self) -> str | None:
        if self.cluster is None:
            return None
        return next(key for key in _names if self.cluster.owner(slot_of(keyspace.plan_state(key))) is not self.troubled)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    one = server(tmp_path_factory.mktemp("alone"), *OPTIONS)
    wait_until(one.client.ping, "it answers")
    yield Site(f"redis://{one.place}", one)
    one.close()


@pytest.fixture(scope="module")
def sentinel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A master without a replica, so there is nobody to fail over to: it has to be waited for."""
    one = server(tmp_path_factory.mktemp("master"), *OPTIONS)
    wait_until(one.client.ping, "it answers")
    directory: Path = tmp_path_factory.mktemp("sentinel")
    (directory / "sentinel.conf").write_text(f"sentinel monitor mymaster 127.0.0.1 {one.port} 1\n")
    watching = Server(directory, free_port(), [str(directory / "sentinel.conf"), "--sentinel", "--bind", "127.0.0.1"])
    watching.start()
    wait_until(lambda: watching.client.sentinel_master("mymaster"), "the Sentinel answers")
    yield Site(RedisSentinels((f"redis://{watching.place}",), "mymaster", "redis://mymaster/0"), one)
    watching.close()
    one.close()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    # Long enough that none of them is replaced; there are no replicas anyway.
    with RedisCluster(
        tmp_path_factory.mktemp("cluster"), options=OPTIONS, replicas=False, node_timeout_ms=5000
    ) as cluster:
        yield Site(cluster.urls(), cluster.servers[0], cluster)


# --- what holds in each of them -------------------------------------------------------------------------------------------


@asynccontextmanager
async def watched(site: Site, observed: Observed, *, bystander: str | None) -> AsyncIterator[tuple[Limiter, Log, str]]:
    """A steady load by one caller, in whose log is what its `closed` route has decided; and by one of another master."""
    key = site.key()
    async with running(site.location, deadline_seconds=DEADLINE_SECONDS, observe=observed) as limiter:
        await until(lambda: limiter.status()["state"] == "connected", "connected")
        keys = [key] if bystander is None else [key, bystander]
        async with steady([limiter], COUNTED, keys, callers=4) as log:
            await until(lambda: len(log.admitted(key)) > 20, "the load runs")
            yield limiter, log, key


async def holds_through(site: Site, trouble: Trouble, reply: str, *, others_decide: bool = True) -> None:
    observed = Observed()
    other = site.bystander() if others_decide else None
    busy_key, dear_key, local_key = site.key(), site.key(), site.key()
    async with watched(site, observed, bystander=other) as (limiter, log, key):
        under_way = [await decided(limiter, UNDER_WAY, key=busy_key, on_failure=CLOSED) for _ in range(3)]
        dear = await decided(limiter, TOLD, key=dear_key, on_failure=CLOSED)
        assert dear.charge is not None
        async with in_thread(trouble(site.troubled)) as end:
            await until(lambda: log.unavailable(key) > 20, f"it says {reply}")
            # Under Sentinels a replica is left at the first refusal, and what is told soon is that it is no master.
            told = (reply, "NOTMASTER") if reply in REPLICAS else (reply,)
            await until(lambda: any(word in str(limiter.status()) for word in told), f"{reply} is told")
            # As each route chose.
            assert (await decided(limiter, COUNTED, key=local_key, on_failure=LOCAL)).outcome is Outcome.ALLOWED
            # Calls that end, and turn out to cost more, in the middle of it.
            for decision in under_way[:2]:
                limiter.release(decision.lease)
            limiter.settle(dear.charge, 7)
            await end()
        before = len(log.admitted(key))
        loop = asyncio.get_running_loop()
        began = loop.time()
        await until(lambda: len(log.admitted(key)) > before + 20, "it decides again")
        assert loop.time() - began < UNDECIDED_SECONDS_MAX + MACHINE_SECONDS
        await until(lambda: members(site.troubled, busy_key) == 1, "ended calls are not under way any more")
        await until(lambda: counted(site.troubled, dear_key) == 7, "the cost is counted")
        limiter.release(under_way[2].lease)
        await until(lambda: members(site.troubled, busy_key) == 0, "nor is the last one")
    assert max(call.waited_seconds for call in log.calls) < DEADLINE_SECONDS + MACHINE_SECONDS, "nobody waits for it"
    assert "lost" not in observed.settlements
    if other is not None:
        assert log.unavailable(other) == 0, "the other masters decide"
    # What was refused was not counted, and what was counted was told - but for calls on their way in the last moment.
    uncounted = counted(site.troubled, key) - len(log.admitted(key))
    assert 0 <= uncounted <= (4 if reply != "BUSY" else 4 + observed.failures.count("timeout") * 8)


def members(one: Server, key: str) -> int:
    client = one.client
    try:
        return int(client.zcard(keyspace.leases(key)))
    finally:
        client.close()


@pytest.mark.parametrize("reply", [*ANYWHERE, *REPLICAS])
async def test_one_redis(alone: Site, reply: str) -> None:
    """Rows 76, 78: each of them would be a burst of errors, or a hanging gateway, or limits that stay away."""
    await holds_through(alone, (ANYWHERE | REPLICAS)[reply], reply)


@pytest.mark.parametrize("reply", [*ANYWHERE, *REPLICAS])
async def test_a_master_that_sentinels_name(sentinel: Site, reply: str) -> None:
    """Rows 76, 78: a master is no master while it can't decide, and the Sentinels name no other one."""
    await holds_through(sentinel, (ANYWHERE | REPLICAS)[reply], reply)


@pytest.mark.parametrize("reply", [*ANYWHERE])
async def test_a_master_of_a_cluster(cluster: Site, reply: str) -> None:
    """Rows 76, 78: one master would take the keys of all others with it."""
    await holds_through(cluster, ANYWHERE[reply], reply)


@pytest.mark.parametrize("where", ["alone", "cluster"])
async def test_calls_whose_answer_was_lost_are_not_under_way_for_long(alone: Site, cluster: Site, where: str) -> None:
    """Row 75: Redis lets in what it finds when it wakes, and nobody is there to end it: a caller with few calls at once would
    be refused for a minute after each time that Redis hangs."""
    site = alone if where == "alone" else cluster
    key = site.key()
    async with running(site.location, deadline_seconds=0.05) as limiter:
        await until(lambda: limiter.status()["state"] == "connected", "connected")
        with site.troubled.stopped():
            while limiter.status()["state"] == "connected":
                await decided(limiter, UNDER_WAY, key=key, on_failure=StoreFailure.OPEN)
        await until(lambda: limiter.status()["state"] == "connected", "connected again")
        await until(lambda: counted(site.troubled, key) > 0, "Redis has let some in")
        await until(lambda: members(site.troubled, key) == 0, "and knows that they have ended")
        assert (await decided(limiter, UNDER_WAY, key=key, on_failure=CLOSED)).outcome is Outcome.ALLOWED


async def test_a_cluster_that_is_down(cluster: Site) -> None:
    """Rows 76, 78: with `cluster-require-full-coverage yes`, Redis's default, all masters refuse while one is away. They must
    not have to be waited for one by one, nor stay away for longer than it does."""
    assert cluster.cluster is not None
    servers = cluster.cluster.servers

    @contextmanager
    def down(_: Server) -> Iterator[None]:
        for one in servers:
            one.ask("CONFIG", "SET", "cluster-require-full-coverage", "yes")
            one.ask("CONFIG", "SET", "cluster-node-timeout", 500)
        servers[2].kill()
        yield
        servers[2].start()
        wait_until(
            lambda: all(one.client.cluster("info")["cluster_state"] == "ok" for one in servers), "the cluster is up"
        )

    await holds_through(cluster, down, "CLUSTERDOWN", others_decide=False)
