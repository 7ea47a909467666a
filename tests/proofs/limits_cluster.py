"""Proof: on a Redis Cluster of three masters whose masters are killed in turn and whose slots move, under a steady load, no
window is passed but by writes that a failover lost, and no call is undecided for longer than 2 s, the election included."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import time
from pathlib import Path

import uvloop

from ostiary.core import keyspace
from ostiary.core.limiting import SECOND_US
from ostiary.core.model import Plan, Window
from ostiary.gateway.limits.slots import slot_of
from tests.gateway.limits.steady import Log, counted, steady
from tests.gateway.limits.support import policy, running
from tests.support.directories import directory_for_all
from tests.support.redis_servers import RedisCluster, Server, wait_until

KEYS = 9
CALLERS = 2  # a key
IN_ANY_SECOND = 40
# One that is never reached: its count, before and after a failover, says what was lost.
COUNTED = 1_000_000
LIMITS = policy(Plan("p", windows=(Window(IN_ANY_SECOND, 1), Window(COUNTED, 86_400))))
# From the kill to the first decision, the cluster's own election included.
UNDECIDED_SECONDS_MAX = 2.0
# An election takes up to this, and 1 s besides (Redis Cluster Specification, "Replica election and promotion"): what an
# operator sets who wants to be without a decision for less than 2 s.
NODE_TIMEOUT_MS = 250


async def prove(directory: Path, seconds: float) -> list[str]:
    """What failed. Prints the figures."""
    failures: list[str] = []
    elections: list[float] = []
    keys = [f"ak_proof_{number}" for number in range(KEYS)]
    lost = dict.fromkeys(keys, 0)
    moves = 0
    with RedisCluster(directory, node_timeout_ms=NODE_TIMEOUT_MS) as cluster:
        async with (
            running(cluster.urls(), deadline_seconds=0.2) as one,
            running(cluster.urls()[3:], deadline_seconds=0.2) as two,
            steady([one, two], LIMITS, keys, callers=CALLERS) as log,
        ):
            ends = time.monotonic() + seconds
            for turn in itertools.count():
                await asyncio.sleep(2)
                if time.monotonic() > ends:
                    break
                if turn % 2:
                    elections.append(await _kill_one(cluster, log, keys, lost))
                else:
                    moves += await asyncio.to_thread(_move_some, cluster, keys)
        decided = sum(call.outcome.name != "UNAVAILABLE" for call in log.calls)
        longest = max(log.longest_without(key) for key in keys)
        most = max(log.most(key, SECOND_US) - lost[key] for key in keys)
    failures += [
        f"{key}: {log.most(key, SECOND_US)} in a second, with {lost[key]} writes lost"
        for key in keys
        if log.most(key, SECOND_US) > IN_ANY_SECOND + lost[key]
    ]
    if longest > UNDECIDED_SECONDS_MAX:
        failures.append(f"undecided for {longest:.2f} s, elections took at most {max(elections, default=0.0):.2f} s")
    print(
        f"calls {len(log.calls)}, decided {decided}   masters killed {len(elections)}   slots moved {moves}   "
        f"elections at most {max(elections, default=0.0):.2f} s   undecided at most {longest:.2f} s   "
        f"writes lost {sum(lost.values())}   most in any second, less what was lost: {most} of {IN_ANY_SECOND}"
    )
    return failures


async def _kill_one(cluster: RedisCluster, log: Log, keys: list[str], lost: dict[str, int]) -> float:
    """How long its election took (s). The killed one comes back as a replica of its successor."""
    key = random.choice(keys)
    master = await asyncio.to_thread(cluster.owner, slot_of(keyspace.plan_state(key)))
    replica = await asyncio.to_thread(cluster.replica_of, master)
    mine = [key for key in keys if cluster.owner(slot_of(keyspace.plan_state(key)), asked=replica) is master]
    master.kill()
    for one in mine:
        has = await asyncio.to_thread(counted, replica, one)
        lost[one] += max(0, len(log.admitted(one)) - lost[one] - has)
    took = await asyncio.to_thread(wait_until, lambda: replica.role() == b"master", "a replica is promoted")
    await asyncio.to_thread(_bring_back, master, replica)
    return took


def _bring_back(killed: Server, successor: Server) -> None:
    killed.start()
    wait_until(
        lambda: killed.role() == b"slave" and killed.client.info("replication")["master_link_status"] == "up",
        f"{killed.place} follows {successor.place}",
    )


def _move_some(cluster: RedisCluster, keys: list[str]) -> int:
    """Slots of up to three keys, each to the master of another one; how many."""
    moved = 0
    for key, other in zip(random.sample(keys, 3), random.sample(keys, 3), strict=True):
        slot = slot_of(keyspace.plan_state(key))
        source, target = cluster.owner(slot), cluster.owner(slot_of(keyspace.plan_state(other)))
        if source is not target:
            cluster.move_slot(slot, source, target, pause_seconds=0.05)
            moved += 1
    return moved


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/prove limits-cluster", description=__doc__)
    parser.add_argument("--seconds", type=float, default=300, help="how long (default 300)")
    chosen = parser.parse_args()
    with directory_for_all() as directory:
        failures = uvloop.run(prove(directory, chosen.seconds))
    for failure in failures:
        print(failure)
    raise SystemExit(bool(failures))


if __name__ == "__main__":
    main()
