"""Invariant: a nonce is good once, and where that can't be known, signed writes are refused."""

from __future__ import annotations

import redis

from ostiary.core.model import Plan, StoreFailure, Window
from ostiary.demo.stores import EmbeddedValkey
from ostiary.gateway.limits import Outcome
from ostiary.gateway.limits.nonces import NonceMemory
from tests.gateway.limits.support import ask, decided, policy, running, settled, until_state

NONCE = "nonce-1-xxxxxxxxxx"
NO_LIMITS = policy(None)
LIMITS = policy(Plan("p", windows=(Window(1000, 60),)))


async def test_a_replay_is_refused_by_every_worker_and_after_a_restart(own_valkey: EmbeddedValkey) -> None:
    """Row 57: a recorded call could be sent again to another worker, or after a deployment."""
    async with running(own_valkey.url()) as first, running(own_valkey.url()) as other:
        assert (await decided(first, NO_LIMITS, nonce=NONCE, write=True)).outcome is Outcome.ALLOWED
        for worker in (first, other):
            assert (await decided(worker, NO_LIMITS, nonce=NONCE, write=True)).outcome is Outcome.NONCE_REPLAYED
        assert (await decided(other, NO_LIMITS, nonce=NONCE, key="ak_other")).outcome is Outcome.ALLOWED
    async with running(own_valkey.url()) as restarted:
        assert (await decided(restarted, NO_LIMITS, nonce=NONCE, write=True)).outcome is Outcome.NONCE_REPLAYED


async def test_one_of_two_equal_nonces_of_one_tick_is_refused(own_valkey: EmbeddedValkey) -> None:
    """Row 57: two copies sent at once would both pass."""
    async with running(own_valkey.url()) as first, running(own_valkey.url()) as other:
        signals = [ask(worker, NO_LIMITS, nonce=NONCE) for worker in (first, first, other)]
        outcomes = [(await settled(signal)).outcome for signal in signals]
    assert outcomes.count(Outcome.ALLOWED) == 1
    assert outcomes.count(Outcome.NONCE_REPLAYED) == 2


async def test_a_redis_that_lost_its_memory_leaves_what_each_worker_remembers(own_valkey: EmbeddedValkey) -> None:
    """Row 57: after a restart of a Redis without persistence a worker still refuses what it let in itself. What another
    worker let in it can't know: that needs persistence (appendonly), and docs/decisions/0003-limits.md says so."""
    async with running(own_valkey.url()) as first, running(own_valkey.url()) as other:
        assert (await decided(first, NO_LIMITS, nonce=NONCE, write=True)).outcome is Outcome.ALLOWED
        own_valkey.kill()
        own_valkey.start()
        await until_state(first, "away")
        await until_state(first, "connected")
        await until_state(other, "connected")
        assert redis.Redis.from_url(own_valkey.url()).keys("*nonce*") == []
        assert (await decided(first, NO_LIMITS, nonce=NONCE, write=True)).outcome is Outcome.NONCE_REPLAYED


async def test_while_redis_is_away_signed_writes_are_refused_or_remembered(own_valkey: EmbeddedValkey) -> None:
    """Row 57: an attacker who can make Redis fail could replay. `closed` refuses signed writes, also without limits;
    `local` and `open` remember in the worker, and know what it let in before."""
    modes = (StoreFailure.CLOSED, StoreFailure.LOCAL, StoreFailure.OPEN)
    async with running(own_valkey.url()) as limiter:
        await decided(limiter, LIMITS, nonce=NONCE, write=True)
        own_valkey.kill()
        await until_state(limiter, "away")
        for mode in modes:
            for limits in (NO_LIMITS, LIMITS):
                fresh = f"nonce-{mode}-{limits is LIMITS}-xxxxxx"
                asked = [
                    await decided(limiter, limits, nonce=nonce, write=True, on_failure=mode)
                    for nonce in (NONCE, fresh, fresh)
                ]
                assert asked[0].outcome is Outcome.NONCE_REPLAYED
                if mode is StoreFailure.CLOSED:
                    assert [d.outcome for d in asked[1:]] == [Outcome.UNAVAILABLE] * 2
                else:
                    assert [d.outcome for d in asked[1:]] == [Outcome.ALLOWED, Outcome.NONCE_REPLAYED]
        # A read changes nothing when it is replayed: without limits there is nothing to be closed about.
        read = await decided(limiter, NO_LIMITS, nonce="nonce-read-xxxxxxx", on_failure=StoreFailure.CLOSED)
        assert read.outcome is Outcome.ALLOWED


async def test_signed_writes_are_refused_when_there_is_no_room_to_remember_them() -> None:
    """A flood of signed calls during an outage would push out the nonces that make replays known."""
    async with running("redis://127.0.0.1:1/0", nonces_generation_max=4) as limiter:
        outcomes = [
            (await decided(limiter, NO_LIMITS, nonce=f"nonce-{n}-xxxxxxxxxx", write=True)).outcome for n in range(9)
        ]
        assert outcomes == [Outcome.ALLOWED] * 8 + [Outcome.UNAVAILABLE]
        for n in range(8):
            replay = await decided(limiter, NO_LIMITS, nonce=f"nonce-{n}-xxxxxxxxxx", write=True)
            assert replay.outcome is Outcome.NONCE_REPLAYED


async def test_a_call_refused_by_a_local_limit_leaves_its_nonce_unused() -> None:
    """A client told to wait could not send the same signed call again."""
    async with running(None) as limiter:
        tight, roomy = policy(Plan("p", windows=(Window(0, 60),))), LIMITS
        assert (await decided(limiter, tight, nonce=NONCE)).outcome is Outcome.RATE_LIMITED
        assert (await decided(limiter, roomy, nonce=NONCE)).outcome is Outcome.ALLOWED


def test_a_memory_of_nonces_forgets_by_time_and_is_bounded() -> None:
    """It would grow with the traffic, or refuse a nonce that may be used again."""
    memory = NonceMemory(3)
    memory.remember("a", now=0.0, life_seconds=10)
    assert memory.holds("a", 9.9)
    assert not memory.holds("a", 10.0)
    for number in range(100):
        memory.remember(str(number), now=20.0 + number, life_seconds=10)
        assert memory.holds(str(number), 20.0 + number)
        assert len(memory) <= 6
    assert memory.holds("97", 120.0 - 3)


def test_a_memory_is_full_only_of_nonces_whose_time_has_not_passed() -> None:
    """A worker would refuse signed writes for ever after its first busy minute."""
    memory = NonceMemory(2)
    for nonce in "abcd":
        assert not memory.is_full(0.0)
        memory.remember(nonce, now=0.0, life_seconds=10)
    assert memory.is_full(9.0)
    assert not memory.is_full(10.0)
