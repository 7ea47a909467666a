"""Invariant: whatever happens to Redis, a request is answered within the deadline, and as its route chose."""

from __future__ import annotations

import asyncio
import os
import signal as signals
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import redis

from ostiary.core.model import LimitBy, Overage, Period, Plan, Quota, Rate, RouteLimit, StoreFailure, Window
from ostiary.demo.stores import EmbeddedValkey
from ostiary.gateway.limits import Decision, Limiter, Outcome
from ostiary.gateway.signal import Signal
from tests.gateway.limits.support import Observed, Proxy, ask, decided, policy, running, settled, until_state
from tests.support.waiting import MACHINE_SECONDS

FOUR_A_MINUTE = policy(Plan("p", windows=(Window(4, 60),)))
PLENTY = policy(Plan("p", windows=(Window(1_000_000, 60),)))
RECOVERED_WITHIN_SECONDS = 2.0
NOBODY_LISTENS = "redis://127.0.0.1:1/0"


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signals.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signals.SIGCONT)


async def outcomes(limiter: Limiter, count: int, **request: object) -> list[Outcome]:
    return [(await decided(limiter, FOUR_A_MINUTE, **request)).outcome for _ in range(count)]


async def stays(limiter: Limiter, state: str, *, for_seconds: float) -> None:
    """The limiter is in that state all the time, and no request waits."""
    ends = time.monotonic() + for_seconds
    while time.monotonic() < ends:
        assert limiter.status()["state"] == state
        assert ask(limiter, PLENTY).done, "decided at once"
        await asyncio.sleep(0.01)


# --- the chosen mode --------------------------------------------------------------------------------------------------


async def test_with_redis_down_at_start_each_route_gets_what_it_chose() -> None:
    """Row 74: a gateway that starts before Redis would refuse to start, or let everything through."""
    observed = Observed()
    async with running(NOBODY_LISTENS, workers=2, observe=observed) as limiter:
        assert limiter.status()["state"] == "away"
        local = await outcomes(limiter, 3, on_failure=StoreFailure.LOCAL)
        assert local == [Outcome.ALLOWED, Outcome.ALLOWED, Outcome.RATE_LIMITED]  # half of four
        assert await outcomes(limiter, 9, on_failure=StoreFailure.OPEN) == [Outcome.ALLOWED] * 9
        assert await outcomes(limiter, 2, on_failure=StoreFailure.CLOSED) == [Outcome.UNAVAILABLE] * 2
        closed = await decided(limiter, FOUR_A_MINUTE, on_failure=StoreFailure.CLOSED)
        assert (closed.retry_after_seconds, closed.headers, closed.limit) == (1, b"", "none")
        unlimited = await decided(limiter, policy(None), on_failure=StoreFailure.CLOSED)
        assert unlimited.outcome is Outcome.ALLOWED
    assert "connect" in observed.failures


async def test_redis_may_go_and_come_back(own_valkey: EmbeddedValkey) -> None:
    """Row 74: a limiter that does not notice, or does not come back, needs a restart at the worst time."""
    observed = Observed()
    async with running(own_valkey.url(), observe=observed) as limiter:
        assert await outcomes(limiter, 4) == [Outcome.ALLOWED] * 4
        own_valkey.kill()
        await until_state(limiter, "away")
        assert "lost" in observed.failures
        answers = [ask(limiter, FOUR_A_MINUTE) for _ in range(5)]
        assert all(answer.done for answer in answers), "no request waits while Redis is away"
        assert [(await settled(answer)).outcome for answer in answers] == [Outcome.ALLOWED] * 4 + [Outcome.RATE_LIMITED]
        own_valkey.start()
        assert await until_state(limiter, "connected") < RECOVERED_WITHIN_SECONDS + MACHINE_SECONDS
        assert await outcomes(limiter, 5) == [Outcome.ALLOWED] * 4 + [Outcome.RATE_LIMITED]


async def test_without_redis_in_the_configuration_the_workers_share_each_limit() -> None:
    """A file without Redis would have no limits, or each of them once a worker."""
    plan = Plan("p", Rate(60, 60, 8), (Window(8, 60),), (Quota(12, Period.DAY),), concurrency=4)
    limits = policy(plan, RouteLimit(Window(6, 60), LimitBy.IP))
    async with running(None, workers=2) as limiter:
        assert limiter.status()["state"] == "local"
        held = [await decided(limiter, limits, on_failure=StoreFailure.CLOSED) for _ in range(3)]
        assert [d.outcome for d in held] == [Outcome.ALLOWED, Outcome.ALLOWED, Outcome.TOO_MANY_CONCURRENT]
        assert b'RateLimit: "minute-by-ip";r=1;' in held[1].headers
        for decision in held:
            limiter.release(decision.lease)
        third, fourth = await decided(limiter, limits), await decided(limiter, limits)
        assert (third.outcome, fourth.outcome, fourth.limit) == (Outcome.ALLOWED, Outcome.RATE_LIMITED, "window")
        assert 58 <= fourth.retry_after_seconds <= 61


async def test_a_dropped_local_lease_frees_its_place() -> None:
    """A client that left while its decision was under way would hold a place until the worker ends."""
    limits = policy(Plan("p", concurrency=1))
    async with running(None) as limiter:
        for _ in range(3):
            assert (await decided(limiter, limits)).outcome is Outcome.ALLOWED


async def test_local_overage_is_flagged() -> None:
    """Overage would be lost with Redis."""
    limits = policy(Plan("p", quotas=(Quota(1, Period.DAY),), overage=Overage.CHARGE))
    async with running(NOBODY_LISTENS) as limiter:
        assert [(await decided(limiter, limits)).overage for _ in range(3)] == [False, True, True]


# --- a Redis that hangs -----------------------------------------------------------------------------------------------


async def test_a_frozen_redis_costs_each_request_the_deadline_until_the_breaker_opens_and_nothing_then(
    own_valkey: EmbeddedValkey,
) -> None:
    """Row 75: every request would wait, and pile up, until the gateway is what is down."""
    observed = Observed()
    async with running(own_valkey.url(), deadline_seconds=0.05, observe=observed) as limiter:
        await until_state(limiter, "connected")
        assert (await decided(limiter, PLENTY)).outcome is Outcome.ALLOWED
        failures = observed.failures.count("timeout")
        with stopped(own_valkey.pid):
            waited, began = [], time.monotonic()
            while limiter.status()["state"] == "connected":
                asked_at = time.monotonic()
                await asyncio.gather(*(settled(ask(limiter, PLENTY)) for _ in range(20)))
                waited.append(time.monotonic() - asked_at)
                assert time.monotonic() - began < 2 + MACHINE_SECONDS, "the breaker must open"
            assert min(waited) >= 0.049
            assert sorted(waited)[len(waited) // 2] < 0.05 + MACHINE_SECONDS
            assert observed.failures.count("timeout") == failures + 3
            # It stays open, though the frozen server accepts connections, and nobody waits for the probes.
            await stays(limiter, "away", for_seconds=1.2)
        assert await until_state(limiter, "connected") < RECOVERED_WITHIN_SECONDS + MACHINE_SECONDS
        batches = int(str(limiter.status()["batches"]))
        assert (await decided(limiter, PLENTY)).outcome is Outcome.ALLOWED
        assert limiter.status()["batches"] == batches + 1


@pytest.mark.parametrize("delay_seconds", [0.08, 0.5])
async def test_a_redis_that_is_too_far_away_is_not_used_until_it_is_near(
    own_valkey: EmbeddedValkey, delay_seconds: float
) -> None:
    """Row 75: answers that always come too late would count as answers, and every request would wait for its deadline."""
    async with (
        Proxy(own_valkey.port) as proxy,
        running(f"redis://127.0.0.1:{proxy.port}/0", deadline_seconds=0.05) as limiter,
    ):
        await until_state(limiter, "connected")
        assert (await decided(limiter, PLENTY)).outcome is Outcome.ALLOWED
        proxy.delay_seconds = delay_seconds
        began = time.monotonic()
        while limiter.status()["state"] == "connected":
            await decided(limiter, PLENTY)
            assert time.monotonic() - began < 1 + MACHINE_SECONDS, "the breaker must open"
        await stays(limiter, "away", for_seconds=0.7)
        proxy.delay_seconds = 0.0
        assert await until_state(limiter, "connected") < RECOVERED_WITHIN_SECONDS + MACHINE_SECONDS


async def test_a_loop_that_was_busy_is_not_taken_for_a_slow_redis(own_valkey: EmbeddedValkey) -> None:
    """After each pause of the worker its requests would be decided without Redis, and the breaker would open."""
    loop = asyncio.get_running_loop()
    observed = Observed()
    near, far = socket.socketpair()
    asked: list[Signal[Decision]] = []

    def busy() -> None:
        near.recv(1)
        time.sleep(0.3)

    # While one socket is served for too long, the reply comes in and the deadline passes: then timers come first.
    loop.add_reader(near, busy)
    try:
        async with running(own_valkey.url(), deadline_seconds=0.1, observe=observed) as limiter:
            await until_state(limiter, "connected")
            await decided(limiter, PLENTY)
            for _ in range(3):
                asked.append(ask(limiter, PLENTY))
                await asyncio.sleep(0)  # the batch goes out
                far.send(b"x")
                assert (await settled(asked[-1])).outcome is Outcome.ALLOWED
            assert observed.failures == []
            assert limiter.status()["decided_without_store"] == 0
    finally:
        loop.remove_reader(near)
        near.close()
        far.close()


async def test_an_answer_that_comes_too_late_gives_its_leases_back(own_valkey: EmbeddedValkey) -> None:
    """Each slow moment of Redis would lock callers out for as long as a lease lasts."""
    limits = policy(Plan("p", concurrency=1))
    async with running(own_valkey.url(), deadline_seconds=0.05) as limiter:
        await decided(limiter, PLENTY)
        with stopped(own_valkey.pid):
            local = await decided(limiter, limits)
            assert local.outcome is Outcome.ALLOWED
        assert limiter.status()["state"] == "connected", "one failure does not open the breaker"
        # Behind the late answer on the same connection; its lease is released when that answer has been read.
        await decided(limiter, PLENTY)
        assert (await decided(limiter, limits)).outcome is Outcome.ALLOWED


# --- a Redis that answers with errors ---------------------------------------------------------------------------------


async def test_a_flushed_script_is_loaded_again_and_no_request_notices(own_valkey: EmbeddedValkey) -> None:
    """Row 77: every SCRIPT FLUSH, and every failover to a replica without the script, would be a burst of errors."""
    observed = Observed()
    async with running(own_valkey.url(), observe=observed) as limiter:
        client = redis.Redis.from_url(own_valkey.url())
        for turn in range(3):
            client.script_flush()
            asked = []
            for n in range(40):
                asked.append(ask(limiter, PLENTY, nonce=f"nonce-{turn}-{n}-xxxxxxxx", on_failure=StoreFailure.CLOSED))
                await asyncio.sleep(0)  # so that many batches are under way when the first learns of it
            assert {(await settled(signal)).outcome for signal in asked} == {Outcome.ALLOWED}
        assert observed.failures == []
        assert b"r=999879;" in (await decided(limiter, PLENTY)).headers, "each call was counted once"


async def test_a_flushed_redis_begins_new_windows_and_no_more(own_valkey: EmbeddedValkey) -> None:
    """Row 76: after FLUSHALL callers would be refused, or never again."""
    async with running(own_valkey.url()) as limiter:
        assert await outcomes(limiter, 5) == [Outcome.ALLOWED] * 4 + [Outcome.RATE_LIMITED]
        redis.Redis.from_url(own_valkey.url()).flushall()
        assert await outcomes(limiter, 5) == [Outcome.ALLOWED] * 4 + [Outcome.RATE_LIMITED]


@pytest.mark.parametrize("trouble", ["memory", "replica"])
async def test_a_redis_that_takes_no_writes_is_away_until_it_does(own_valkey: EmbeddedValkey, trouble: str) -> None:
    """Row 76: out of memory, or a demoted master (row 78), answers reads: it would be taken for healthy and each request
    would fail."""
    observed = Observed()
    client = redis.Redis.from_url(own_valkey.url())
    async with running(own_valkey.url(), observe=observed) as limiter:
        assert await outcomes(limiter, 2) == [Outcome.ALLOWED] * 2
        if trouble == "memory":
            client.config_set("maxmemory", "1mb")
        else:
            client.replicaof("127.0.0.1", 1)
        assert await outcomes(limiter, 5) == [Outcome.ALLOWED] * 4 + [Outcome.RATE_LIMITED]
        await until_state(limiter, "away")
        assert "refused" in observed.failures
        await stays(limiter, "away", for_seconds=0.7)
        assert await outcomes(limiter, 1, on_failure=StoreFailure.CLOSED) == [Outcome.UNAVAILABLE]
        if trouble == "memory":
            client.config_set("maxmemory", "0")
        else:
            client.replicaof("NO", "ONE")
        assert await until_state(limiter, "connected") < RECOVERED_WITHIN_SECONDS + MACHINE_SECONDS
        assert await outcomes(limiter, 3) == [Outcome.ALLOWED] * 2 + [Outcome.RATE_LIMITED]


async def test_closing_answers_whoever_waits(own_valkey: EmbeddedValkey) -> None:
    """A worker that stops would leave requests hanging until it is killed."""
    async with running(own_valkey.url(), deadline_seconds=5) as limiter:
        with stopped(own_valkey.pid):
            sent = ask(limiter, PLENTY, on_failure=StoreFailure.CLOSED)
            await asyncio.sleep(0)
            unsent = ask(limiter, PLENTY, on_failure=StoreFailure.OPEN)
            await limiter.close()
            assert sent.done
            assert unsent.done
            assert (await settled(sent)).outcome is Outcome.UNAVAILABLE
            assert (await settled(unsent)).outcome is Outcome.ALLOWED
