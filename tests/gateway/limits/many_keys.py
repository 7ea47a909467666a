"""Very many callers, each with one call: what Redis keeps of them, and for how long.

`crowd` is importable with its parameters, so that a longer run needs no other code than the test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import redis.asyncio

from ostiary.core import keyspace
from ostiary.core.model import LimitBy, Plan, Rate, RouteLimit, StoreFailure, Window
from ostiary.gateway.limits import Decision, Outcome
from tests.gateway.limits.support import ask, policy, running, settled

# Calls under way at once: so many are one batch.
TICK = 250
SCANNED = 1000


@dataclass(frozen=True)
class Crowd:
    """What Redis had when all callers had called: `names`, with `bytes_then` of memory. Of those `seen` one by one a moment
    later, `immortal` have no time to live, and `longest_ms` is the longest of the others; it should be `expected_ms` at
    most."""

    names: int
    bytes_before: int
    bytes_then: int
    seen: int
    immortal: int
    longest_ms: int
    expected_ms: int

    @property
    def bytes_a_name(self) -> float:
        return (self.bytes_then - self.bytes_before) / self.names


# Of a plan with a bucket and a window, a bound on calls under way, a nonce, and a limit of the route by address.
NAMES_A_CALLER = 4


async def used_bytes(store: redis.asyncio.Redis) -> int:
    return int((await store.info("memory"))["used_memory"])


async def crowd(url: str, *, callers: int, window_seconds: int, progress: Callable[[int], None] | None = None) -> Crowd:
    """Each of `callers` calls once, with a nonce, from an address of its own. Their calls do not end: leases must."""
    limits = policy(
        Plan("p", Rate(100, 1, 100), (Window(1000, window_seconds),), concurrency=5),
        RouteLimit(Window(100, window_seconds), LimitBy.IP),
    )
    store = redis.asyncio.Redis.from_url(url)
    try:
        before = await used_bytes(store)
        async with running(url, deadline_seconds=10) as limiter:
            for first in range(0, callers, TICK):
                asked = [
                    ask(
                        limiter,
                        limits,
                        key=f"ak_{number}",
                        ip=f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}",
                        nonce=f"nonce-{number:016}",
                        nonce_seconds=window_seconds,
                        on_failure=StoreFailure.CLOSED,
                    )
                    for number in range(first, min(first + TICK, callers))
                ]
                for signal in asked:
                    decision: Decision = await settled(signal)
                    assert decision.outcome is Outcome.ALLOWED, decision
                if progress is not None:
                    progress(first + len(asked))
            names, then = int(await store.dbsize()), await used_bytes(store)
        seen, immortal, longest_ms = await _lives(store)
    finally:
        await store.aclose()
    return Crowd(names, before, then, seen, immortal, longest_ms, expected_ms(window_seconds))


def expected_ms(window_seconds: int) -> int:
    """A window, its oldest slot and the second for which a state is kept beyond that; or a lease."""
    return max(1010 * window_seconds + 1000, 1000 * keyspace.LEASE_SECONDS)


async def _lives(store: redis.asyncio.Redis) -> tuple[int, int, int]:
    """Names, those that live for ever, the longest life in ms. Those that ended while they were counted are none."""
    names = immortal = longest_ms = 0
    cursor = 0
    while True:
        cursor, some = await store.scan(cursor, count=SCANNED)
        pipeline = store.pipeline(transaction=False)
        for name in some:
            pipeline.pttl(name)
        for life_ms in await pipeline.execute():
            names += life_ms != -2
            immortal += life_ms == -1
            longest_ms = max(longest_ms, life_ms)
        if cursor == 0:
            return names, immortal, longest_ms


async def until_empty(url: str, *, seconds: float) -> tuple[int, int]:
    """Waits until Redis has forgotten every name, at most so long; names and bytes that are left."""
    loop = asyncio.get_running_loop()
    ends = loop.time() + seconds
    store = redis.asyncio.Redis.from_url(url)
    try:
        while (left := int(await store.dbsize())) and loop.time() < ends:  # noqa: ASYNC110  Redis tells nobody
            await asyncio.sleep(0.05)
        return left, await used_bytes(store)
    finally:
        await store.aclose()
