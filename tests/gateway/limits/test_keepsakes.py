"""Invariant: a Redis that lost what was counted there is told of, once by each node, and with the reason; one that did not
is not."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import redis

from ostiary.core import keyspace
from ostiary.core.model import RedisSentinels
from ostiary.demo.stores import EmbeddedValkey
from ostiary.gateway.limits import Limiter
from ostiary.gateway.limits.keepsakes import Facts, Forgot, Look, facts, forgot
from ostiary.gateway.limits.slots import slot_of
from ostiary.gateway.node import NodeMemory
from tests.gateway.limits.support import Observed, running
from tests.support.ports import free_port
from tests.support.redis_servers import RedisCluster, Server, server, wait_until
from tests.support.waiting import until

FILLER_BYTES = 4096
ROOM_BYTES = 256 * 1024

A = Look("10.0.0.1:6379", b"aa", 1_000_000, 2_000_000, Facts("run1", 7, "noeviction", False))
NEXT = replace(A, before_us=2_000_000, now_us=3_000_000)


def with_facts(look: Look, run_id: str = "run1", evicted: int = 7) -> Look:
    return replace(look, facts=Facts(run_id, evicted, "noeviction", False))


@pytest.mark.parametrize(
    ("look", "reason"),
    [
        (NEXT, None),
        (replace(NEXT, before_us=2_500_000), None),  # another node looked in between
        (replace(NEXT, facts=None), None),
        (with_facts(NEXT, run_id="run2"), None),  # restarted, and it kept everything
        (replace(NEXT, place="10.0.0.2:6379"), None),  # a failover that lost nothing
        (with_facts(NEXT, evicted=3), None),  # CONFIG RESETSTAT
        (with_facts(NEXT, evicted=9), "evicted"),
        (replace(NEXT, name=b"bb", before_us=0), "flushed"),
        (replace(NEXT, name=b"bb", before_us=2_900_000), "flushed"),  # another node has left a new one already
        (replace(NEXT, name=b"bb", before_us=0, facts=None), "flushed"),
        (with_facts(replace(NEXT, name=b"bb"), evicted=8), "evicted"),
        (with_facts(replace(NEXT, name=b"bb"), run_id="run2", evicted=0), "restarted"),
        (with_facts(replace(NEXT, before_us=1_500_000), run_id="run2"), "restarted"),  # from what it had saved
        (replace(NEXT, name=b"bb", place="10.0.0.2:6379"), "replaced"),
        (replace(NEXT, before_us=1_500_000, place="10.0.0.2:6379"), "replaced"),
    ],
)
def test_what_was_lost_is_told_by_two_looks(look: Look, reason: str | None) -> None:
    """Row 76: an alarm that also rings at each failover is turned off by whoever is woken by it."""
    lost = forgot(A, look)
    assert (lost.reason if lost else None) == reason
    if reason is not None and look.name == A.name and look.before_us < A.now_us:
        assert lost == Forgot(reason, look.place, "what was counted there in the last 0.5 s or more")


def test_what_is_no_answer_to_info_is_not_believed() -> None:
    """A wrapped or renamed INFO would end the watch, or ring the alarm."""
    assert facts(None) is None
    assert facts(b"") == Facts("", 0, "noeviction", False)
    told = b"# Server\r\nrun_id:abc\r\nevicted_keys:12\r\nmaxmemory:100\r\nmaxmemory_policy:allkeys-lru\r\n"
    assert facts(told) == Facts("abc", 12, "allkeys-lru", True)
    assert facts(b"evicted_keys:many\r\nmaxmemory:0\r\nmaxmemory_policy:allkeys-lru") == Facts(
        "", 0, "allkeys-lru", False
    )


# --- with a real server -----------------------------------------------------------------------------------------------


def memory(limiter: Limiter) -> dict[str, object]:
    told = limiter.status()["memory"]
    assert isinstance(told, dict)
    return told


async def looked(limiter: Limiter) -> None:
    """The watch knows the Redis of this test."""
    await until(lambda: memory(limiter).get("servers"), "it has looked")


@pytest.fixture
def client(own_valkey: EmbeddedValkey) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(own_valkey.url()) as client:
        yield client


async def test_a_flushed_redis_is_told_of(
    own_valkey: EmbeddedValkey, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """Row 76: all quotas of the month would begin at nothing, and nobody would know why the bill is small."""
    observed, other = Observed(), Observed()
    async with (
        running(own_valkey.url(), observe=observed) as limiter,
        running(own_valkey.url(), observe=other) as second,
    ):
        await looked(limiter)
        await looked(second)
        client.flushall()
        await until(lambda: observed.forgot and other.forgot, "both nodes tell")
        last = memory(limiter)["last"]
        assert isinstance(last, dict)
        assert (last["reason"], last["address"]) == ("flushed", f"127.0.0.1:{own_valkey.port}")
        assert "FLUSHALL" in str(last["do"])
    assert (observed.forgot, other.forgot) == (["flushed"], ["flushed"])
    records = [record for record in caplog.records if record.message == "redis_forgot"]
    assert [record.levelno for record in records] == [logging.ERROR] * 2
    assert records[0].fields["lost"].startswith("every rate, window, quota")  # type: ignore[attr-defined]  # as logged
    assert 0 < int(client.pttl(keyspace.keepsake(0))) <= keyspace.KEEPSAKE_MS


async def test_a_redis_that_came_back_empty_is_told_of(own_valkey: EmbeddedValkey) -> None:
    """Row 76: a Redis without persistence is found out at its first restart, and should be that day."""
    observed = Observed()
    async with running(own_valkey.url(), observe=observed) as limiter:
        await looked(limiter)
        own_valkey.kill()
        own_valkey.start()
        await until(lambda: observed.forgot, "it tells")
    assert observed.forgot == ["restarted"]


async def test_a_redis_that_evicts_is_told_of_once(
    own_valkey: EmbeddedValkey, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """Row 76: callers whose limits begin anew each minute look like callers that keep to them."""
    observed = Observed()
    async with running(own_valkey.url(), observe=observed) as limiter:
        await looked(limiter)
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.config_set("maxmemory", str(int(client.info("memory")["used_memory"]) + ROOM_BYTES))
        for times in (1, 2):
            for number in range(2 * ROOM_BYTES // FILLER_BYTES):
                client.set(f"filler:{times}:{number}", "x" * FILLER_BYTES)
            await until(lambda times=times: len(observed.forgot) >= times, "it tells")  # type: ignore[misc]
        servers = memory(limiter)["servers"]
        assert isinstance(servers, list)
        assert (servers[0]["maxmemory_policy"], servers[0]["may_evict"]) == ("allkeys-lru", True)
        assert servers[0]["evicted_keys"] > 0
    assert set(observed.forgot) == {"evicted"}
    told = [record.message for record in caplog.records]
    assert (told.count("redis_may_evict"), told.count("redis_forgot")) == (1, 1)


async def test_without_the_right_to_info_a_flush_is_told_of_all_the_same(
    own_valkey: EmbeddedValkey, client: redis.Redis
) -> None:
    """A Redis of a cloud, or an ACL of last year, would end the watch."""
    may = ("~ost:*", "+@scripting", "+@read", "+@write", "+time")
    client.execute_command("ACL", "SETUSER", "gate", "on", ">canary-1", *may)  # type: ignore[no-untyped-call]  # redis-py's
    observed = Observed()
    async with running(own_valkey.url().replace("redis://", "redis://gate:canary-1@"), observe=observed) as limiter:
        await until(lambda: memory(limiter).get("not_told"), "INFO is refused")
        assert "NOPERM" in str(memory(limiter)["not_told"])
        client.flushall()
        await until(lambda: observed.forgot, "it tells")
        assert observed.forgot == ["flushed"]
        assert observed.failures == [], "the breaker has no part in it"
        assert "canary-1" not in str(limiter.status())


ANOTHER_WORKER = """
import sys
from ostiary.gateway.limits.slots import slot_of
from ostiary.gateway.node import NodeMemory
node = NodeMemory(int(sys.argv[1]))  # its end would be that of the lock
print(node.claim_watch(), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def node() -> NodeMemory:
    return NodeMemory.create()


@pytest.fixture
def another_worker(node: NodeMemory) -> Iterator[subprocess.Popen[bytes]]:
    """A process that watches for this node."""
    with subprocess.Popen(
        [sys.executable, "-c", ANOTHER_WORKER, str(node.descriptor)],
        pass_fds=[node.descriptor],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"True\n"
        yield process
        process.kill()


async def test_one_worker_of_a_node_watches_and_another_when_it_has_ended(
    own_valkey: EmbeddedValkey, node: NodeMemory, another_worker: subprocess.Popen[bytes]
) -> None:
    """Each worker would tell of the same flush, and Redis be asked by all of them; or by none."""
    async with running(own_valkey.url(), node=node) as limiter:
        await asyncio.sleep(0.05)  # its first look is at once
        assert memory(limiter) == {"watched_here": False}
        another_worker.kill()
        await looked(limiter)
        assert memory(limiter)["watched_here"] is True


# --- of several -------------------------------------------------------------------------------------------------------


@pytest.mark.full
async def test_a_master_of_a_cluster_that_forgot_is_told_of_and_a_slot_that_moved_is_not(tmp_path: Path) -> None:
    """Row 76: a third of all limits would begin anew unseen; or the alarm ring at each reshard."""
    observed = Observed()
    with RedisCluster(tmp_path, replicas=False) as cluster:
        async with running(cluster.urls()[:1], deadline_seconds=0.5, observe=observed) as limiter:
            await until(lambda: str(memory(limiter)).count("maxmemory_policy") == 3, "it has looked at all three")
            first, second, third = cluster.servers
            kept = next(name for name in map(keyspace.keepsake, range(99)) if cluster.owner(slot_of(name)) is first)
            assert first.ask("EXISTS", kept) == 1
            cluster.move_slot(slot_of(kept), first, second)
            await until(lambda: first.ask("DBSIZE") == 1, "the first has another one")  # slower than a look
            await asyncio.to_thread(third.ask, "FLUSHALL")
            await until(lambda: observed.forgot, "it tells")
            last = memory(limiter)["last"]
            assert isinstance(last, dict)
            assert (last["address"], last["reason"]) == (third.place, "flushed")
            await asyncio.sleep(1.1)  # another look
    assert observed.forgot == ["flushed"]


@pytest.mark.full
async def test_a_master_in_place_of_another_that_has_not_what_that_one_had_is_told_of(tmp_path: Path) -> None:
    """Rows 76, 79: a failover that loses writes is taken for one that does not."""
    observed = Observed()
    old, new = server(tmp_path / "old"), server(tmp_path / "new")
    (tmp_path / "sentinel.conf").write_text(f"sentinel monitor mymaster 127.0.0.1 {old.port} 1\n")
    sentinel = Server(tmp_path, free_port(), [str(tmp_path / "sentinel.conf"), "--sentinel", "--bind", "127.0.0.1"])
    sentinel.start()
    try:
        for one in (old, new):
            wait_until(one.client.ping, "it answers")
        wait_until(lambda: sentinel.client.sentinel_master("mymaster"), "the Sentinel answers")
        location = RedisSentinels((f"redis://{sentinel.place}",), "mymaster", "redis://mymaster/0")
        async with running(location, observe=observed) as limiter:
            await looked(limiter)
            sentinel.ask("SENTINEL", "REMOVE", "mymaster")
            sentinel.ask("SENTINEL", "MONITOR", "mymaster", "127.0.0.1", new.port, 1)
            await until(lambda: observed.forgot, "it tells")
            assert limiter.status()["address"] == new.place
        assert observed.forgot == ["replaced"]
    finally:
        for one in (old, new, sentinel):
            one.close()
