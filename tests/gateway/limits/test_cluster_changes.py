"""Invariant: while a Redis Cluster fails over and moves its slots, no call is let in above a limit, and none goes undecided for
longer than the cluster itself takes and 2 s."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from ostiary.core import keyspace
from ostiary.core.limiting import SECOND_US
from ostiary.core.model import Plan, Window
from ostiary.gateway.limits import Limiter, Outcome
from ostiary.gateway.limits.slots import slot_of
from tests.gateway.limits.steady import counted, steady
from tests.gateway.limits.support import Observed, policy, running
from tests.support.redis_servers import RedisCluster, Server, wait_until
from tests.support.waiting import until

pytestmark = pytest.mark.full

IN_ANY_SECOND, IN_ALL = 80, 300
LIMITS = policy(Plan("p", windows=(Window(IN_ANY_SECOND, 1), Window(IN_ALL, 60))))
UNDECIDED_SECONDS_MAX = 2.0


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[RedisCluster]:
    with RedisCluster(tmp_path) as cluster:
        yield cluster


def keys_at(cluster: RedisCluster, master: Server, count: int) -> list[str]:
    names = (f"ak_change_{number}" for number in itertools.count())
    return list(
        itertools.islice((key for key in names if cluster.owner(slot_of(keyspace.plan_state(key))) is master), count)
    )


async def test_a_killed_master_is_replaced_and_no_limit_is_passed_but_by_writes_that_were_lost(
    cluster: RedisCluster,
) -> None:
    """Rows 78, 79: each failover would be an outage for the keys of one master, or begin all their windows anew."""
    master, other = cluster.servers[0], cluster.servers[1]
    (victim,), (bystander,) = keys_at(cluster, master, 1), keys_at(cluster, other, 1)
    replica = cluster.replica_of(master)
    async with (
        running(cluster.urls(), deadline_seconds=0.2) as one,
        running(cluster.urls()[3:], deadline_seconds=0.2) as two,
        steady([one, two], LIMITS, [victim, bystander], callers=5) as log,
    ):
        await until(lambda: len(log.admitted(victim)) > 100, "the load runs")
        master.kill()
        before = len(log.admitted(victim))
        # Nothing more is counted until the promotion; what was let in and is not there then is lost.
        has = await asyncio.to_thread(counted, replica, victim)
        promoted = await asyncio.to_thread(
            wait_until, lambda: replica.role() == b"master", "the replica is promoted", within_seconds=20
        )
        lost = max(0, before - has)
        await until(lambda: log.most(victim, 60 * SECOND_US) >= IN_ALL, "the limit is reached")
        await asyncio.sleep(0.3)
        for key in (victim, bystander):
            assert log.most(key, SECOND_US) <= IN_ANY_SECOND + lost
            assert len(log.admitted(key)) <= IN_ALL + (lost if key == victim else 0)
        assert log.longest_without(victim) < promoted + UNDECIDED_SECONDS_MAX
        assert log.unavailable(bystander) == 0
        print(f"promoted after {promoted:.2f} s, undecided for {log.longest_without(victim):.2f} s, lost {lost}")
