"""Invariant: a Redis that answers too slowly is not waited for, and one that forgets begins limits anew and does no more."""

from __future__ import annotations

import time

import redis

from ostiary.core import keyspace
from ostiary.core.model import Plan, Window
from ostiary.demo.stores import EmbeddedValkey
from ostiary.gateway.limits import Limiter, Outcome
from tests.gateway.limits.support import Observed, ask, decided, policy, running, until_state
from tests.support.fault_proxy import Faults, fault_proxy
from tests.support.waiting import MACHINE_SECONDS

FOUR_A_MINUTE = policy(Plan("p", windows=(Window(4, 60),)))
RECOVERED_WITHIN_SECONDS = 2.0
FILLER_BYTES = 4096
ROOM_BYTES = 256 * 1024


async def outcomes(limiter: Limiter, count: int) -> list[Outcome]:
    return [(await decided(limiter, FOUR_A_MINUTE)).outcome for _ in range(count)]


async def test_a_redis_that_trickles_is_away_until_it_answers_in_time(own_valkey: EmbeddedValkey) -> None:
    """Row 75: at one byte a second each answer begins in time and ends much too late; a breaker that looks for silence would
    never open."""
    async with (
        fault_proxy("127.0.0.1", own_valkey.port) as proxy,
        running(f"redis://127.0.0.1:{proxy.port}/0", deadline_seconds=0.05) as limiter,
    ):
        await until_state(limiter, "connected")
        assert await outcomes(limiter, 1) == [Outcome.ALLOWED]
        proxy.to_client = Faults(bytes_per_second=1)
        began = time.monotonic()
        while limiter.status()["state"] == "connected":
            await decided(limiter, FOUR_A_MINUTE)
            assert time.monotonic() - began < 2 + MACHINE_SECONDS, "the breaker must open"
        assert ask(limiter, FOUR_A_MINUTE).done, "nobody waits for it"
        proxy.heal()
        assert await until_state(limiter, "connected") < RECOVERED_WITHIN_SECONDS + MACHINE_SECONDS


async def test_an_evicted_caller_begins_anew_and_redis_stays_in_use(own_valkey: EmbeddedValkey) -> None:
    """Row 76: a Redis that evicts would be taken for one that is broken; or let callers through for ever."""
    observed = Observed()
    name = keyspace.plan_state("ak_test_1")
    with redis.Redis.from_url(own_valkey.url()) as client:
        async with running(own_valkey.url(), observe=observed) as limiter:
            assert await outcomes(limiter, 5) == [Outcome.ALLOWED] * 4 + [Outcome.RATE_LIMITED]
            client.config_set("maxmemory-policy", "allkeys-random")
            client.config_set("maxmemory", str(int(client.info("memory")["used_memory"]) + ROOM_BYTES))
            fillers = 0
            while client.exists(name):
                client.set(f"filler:{fillers}", "x" * FILLER_BYTES)
                fillers += 1
                assert fillers < 20_000, "it must be evicted some time"
            assert await outcomes(limiter, 5) == [Outcome.ALLOWED] * 4 + [Outcome.RATE_LIMITED]
            assert limiter.status()["state"] == "connected"
    assert observed.failures == []
