"""Invariant: without Redis, all workers of all nodes that it last counted have one limit together."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import redis

from ostiary.core import keyspace
from ostiary.core.model import Plan, Window
from ostiary.core.resources import lua_script
from ostiary.demo.stores import EmbeddedValkey
from ostiary.gateway import node as node_module
from ostiary.gateway.limits import Limiter, Outcome
from ostiary.gateway.node import BEAT_SECONDS, COUNTS_KEPT, GONE_SECONDS, NodeMemory, NodeMemoryError
from tests.gateway.limits.support import decided, node_memory, policy, running, until_state
from tests.support.waiting import until

HUNDRED = policy(Plan("p", windows=(Window(100, 60),)))


@asynccontextmanager
async def running_nodes(url: str, *, nodes: int, workers: int) -> AsyncIterator[list[list[Limiter]]]:
    """The limiters of each node."""
    async with AsyncExitStack() as stack:
        memories = [node_memory() for _ in range(nodes)]
        yield [
            [await stack.enter_async_context(running(url, workers=workers, node=memory)) for _ in range(workers)]
            for memory in memories
        ]


async def let_in(limiters: list[Limiter], times: int) -> int:
    outcomes = [(await decided(limiter, HUNDRED)).outcome for limiter in limiters for _ in range(times)]
    return outcomes.count(Outcome.ALLOWED)


def beat_again(limiter: Limiter) -> None:
    """As if BEAT_SECONDS had passed."""
    limiter._node.memory[8 * node_module._BEAT_AT : 8 * node_module._BEAT_AT + 8] = bytes(8)


async def test_without_redis_all_workers_of_all_nodes_have_one_limit_together(own_valkey: EmbeddedValkey) -> None:
    """Row 74: each of three nodes would let in the whole limit: three times what the caller may."""
    async with running_nodes(own_valkey.url(), nodes=3, workers=2) as nodes:
        workers = [worker for node in nodes for worker in node]
        await until(lambda: nodes[2][0].nodes == 3, "the last one to come knows of all")
        for node in nodes:
            beat_again(node[0])
        await until(lambda: {worker.nodes for worker in workers} == {3}, "every worker knows of all")
        own_valkey.kill()
        for worker in workers:
            await until_state(worker, "away")
        assert {worker.status()["sharers"] for worker in workers} == {6}
        admitted = await let_in(workers, 50)
    assert admitted == 6 * (100 // 6)


async def test_a_node_that_never_heard_of_redis_counts_itself_alone() -> None:
    """A gateway that starts while Redis is away would refuse all, or divide by nothing."""
    async with running("redis://127.0.0.1:1/0", node=node_memory()) as limiter:
        assert limiter.nodes == 1
        assert await let_in([limiter], 150) == 100


async def test_the_number_last_seen_stays_while_redis_is_away(own_valkey: EmbeddedValkey) -> None:
    """Row 74: an outage longer than the life of a node would make every node believe that it is the only one."""
    async with running_nodes(own_valkey.url(), nodes=2, workers=1) as nodes:
        second = nodes[1][0]
        await until(lambda: second.nodes == 2, "two nodes")
        own_valkey.kill()
        await until_state(second, "away")
        beat_again(second)
        await asyncio.sleep(1.1)  # it looks, and asks nobody
        assert second.nodes == 2
        assert second.away


async def test_a_redis_that_lost_its_memory_makes_no_share_larger(own_valkey: EmbeddedValkey) -> None:
    """Row 76: after FLUSHALL the first node to beat is told that it is alone; were it to believe that, and Redis to go away
    then, it would let in the whole limit."""
    client = redis.Redis.from_url(own_valkey.url())
    async with running_nodes(own_valkey.url(), nodes=2, workers=1) as nodes:
        second = nodes[1][0]
        await until(lambda: second.nodes == 2, "two nodes")
        client.flushall()
        beat_again(second)
        await until(lambda: client.zcard(keyspace.nodes()) == 1, "it beats")
        await asyncio.sleep(0.05)
        assert second.nodes == 2


async def test_a_node_beats_once_however_many_workers_it_has(own_valkey: EmbeddedValkey) -> None:
    """Each worker's own beat would be a hundred writes a second for a number that changes once a week. It beats when it
    starts, to hear what it must know before it judges."""
    client = redis.Redis.from_url(own_valkey.url())
    async with running_nodes(own_valkey.url(), nodes=1, workers=4) as nodes:
        assert client.zcard(keyspace.nodes()) == 1
        client.config_resetstat()
        await asyncio.sleep(1.2)  # every worker has looked
        beats = client.info("commandstats").get("cmdstat_zadd", {"calls": 0})["calls"]
        assert beats <= 1, "none; one on a machine that took 5 s for all this"
        assert {worker.nodes for worker in nodes[0]} == {1}


async def test_workers_that_start_together_make_no_share_larger(own_valkey: EmbeddedValkey) -> None:
    """Row 76: each asks when it starts; after FLUSHALL four answers in one second are no four beats."""
    node = node_memory()
    node.heard_of(3, now=0.0)
    async with AsyncExitStack() as stack:
        for _ in range(COUNTS_KEPT + 2):
            await stack.enter_async_context(running(own_valkey.url(), node=node))
        assert node.nodes == 3


def test_a_number_that_falls_is_believed_only_when_it_stays() -> None:
    """Nodes come back one by one after an outage of Redis: the first ones would be told too few."""
    node = node_memory()
    for number in range(COUNTS_KEPT - 1):
        node.heard_of(3 if number == 0 else 1, now=BEAT_SECONDS * number)
        assert node.nodes == 3
    node.heard_of(2, now=50.0)
    assert node.nodes == 3
    node.heard_of(1, now=55.0)
    assert node.nodes == 2
    node.heard_of(5, now=60.0)
    assert node.nodes == 5


def test_a_beat_is_due_once_in_its_time_for_all_workers() -> None:
    """The others would beat too, or none after the one that did has died."""
    first = node_memory()
    other = NodeMemory(os.dup(first.descriptor))
    assert first.take_beat(100.0)
    assert not other.take_beat(100.0 + BEAT_SECONDS - 0.1)
    assert other.take_beat(100.0 + BEAT_SECONDS)
    assert not first.take_beat(100.0 + BEAT_SECONDS + 0.1)
    assert first.name == other.name
    assert first.hash_seed == other.hash_seed > 0


def test_memory_of_another_layout_is_refused() -> None:
    """A program of another version would take one thing for another."""
    node = node_memory()
    for change in (lambda fd: os.pwrite(fd, b"OSTNODE0", 0), lambda fd: os.truncate(fd, 5000)):
        copy = NodeMemory.create(buckets=2)
        descriptor = os.dup(copy.descriptor)
        change(descriptor)
        with pytest.raises(NodeMemoryError):
            NodeMemory(descriptor)
    assert NodeMemory(os.dup(node.descriptor)).nodes == 1


def test_a_node_counts_for_its_life_by_the_clock_of_redis(own_valkey: EmbeddedValkey) -> None:
    """A node that is gone would take its share of every limit for ever; one with a wrong clock would never count."""
    client = redis.Redis.from_url(own_valkey.url())

    def beat(name: str, life_us: int) -> int:
        keys = keyspace.nodes(), keyspace.skews()
        nodes, least, until = client.eval(lua_script("beat"), 2, *keys, name, life_us, 0, 0, 0)
        assert (least, until) == (0, 0)
        return int(nodes)

    life_us = int(GONE_SECONDS * 1_000_000)
    assert beat("a", life_us) == 1
    assert beat("b", 1) == 2
    assert beat("a", life_us) == 1, "b is gone"
    assert 0 < client.pttl(keyspace.nodes()) <= life_us // 1000
