"""What Redis is asked for a busy key: exact and leased limits, under a steady load over several workers.

`scripts/bench limits` prints it after the cost of single decisions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks import cpu
from benchmarks.report import table
from ostiary.core.model import (
    Authentication,
    Counting,
    Match,
    Period,
    Plan,
    Quota,
    Rate,
    Route,
    StoreFailure,
    Window,
)
from ostiary.gateway.limits import Decision, Limiter, Outcome, UnobservedLimiter, compile_policy
from ostiary.gateway.signal import Drive, Signal

PER_SECOND: Final = 5000
WORKERS: Final = (1, 4)
TICK_SECONDS: Final = 0.001
# Until every worker has learnt how often the key is called, and how many nodes there are.
WARM_SECONDS: Final = 0.5
ENOUGH: Final = 100_000_000


@dataclass(frozen=True, slots=True)
class Load:
    """What one key was held to, and what that took: commands to Redis a call, µs of CPU a call."""

    case: str
    workers: int
    calls_of_redis: float
    worker: float
    redis: float


def _plan(name: str, counting: Counting) -> Plan:
    window, quota = Window(ENOUGH, 60, counting=counting), Quota(ENOUGH, Period.DAY, counting=counting)
    rate = Rate(10_000, 1, 10_000, counting=counting)
    if name == "window of a minute":
        return Plan(name, windows=(window,))
    if name == "bucket":
        return Plan(name, rate=rate)
    return Plan(name, rate, (window,), (quota,))


NAMES: Final = ("window of a minute", "bucket", "bucket + window + day")


async def measured(url: str, redis_pid: int, *, seconds: float, names: Sequence[str] = NAMES) -> list[Load]:
    """Raises RuntimeError if a call is refused, or decided without Redis: there would be nothing to measure."""
    return [
        await _one(url, redis_pid, name, counting, workers, seconds)
        for name in names
        for workers in WORKERS
        for counting in Counting
    ]


async def _one(url: str, redis_pid: int, name: str, counting: Counting, workers: int, seconds: float) -> Load:
    policy = compile_policy(
        _plan(name, counting=counting), Route("bench", Match("/**"), {}, Authentication(frozenset()))
    )
    limiters = [Limiter(url=url, deadline_seconds=5.0, workers=1, observe=UnobservedLimiter()) for _ in range(workers)]
    for limiter in limiters:
        await limiter.start()
    key = f"ak_{name}_{counting}_{workers}".replace(" ", "_")

    failures: list[BaseException] = []
    answered = 0

    async def wait(waiting: Signal[Decision]) -> None:
        nonlocal answered
        decision = await waiting
        answered += 1
        if decision.outcome is not Outcome.ALLOWED:
            failures.append(RuntimeError(f"a call was {decision.outcome.value}; there is nothing to measure"))

    async def load(for_seconds: float) -> int:
        """As many calls as are due, in turn at the workers, each millisecond."""
        nonlocal answered
        began, made, answered = time.monotonic(), 0, 0
        while (due := (time.monotonic() - began) * PER_SECOND) < for_seconds * PER_SECOND:
            while made < due:
                waiting = limiters[made % workers].decide(
                    policy,
                    on_failure=StoreFailure.CLOSED,
                    key_id=key,
                    app_id=None,
                    organization_id=None,
                    ip="192.0.2.1",
                    nonce=None,
                    nonce_ttl_seconds=0,
                    signed_write=False,
                )
                Drive(wait(waiting), failures.append)
                made += 1
            await asyncio.sleep(TICK_SECONDS)
        while answered < made and not failures:  # noqa: ASYNC110  an event a call would be measured too
            await asyncio.sleep(TICK_SECONDS)
        if failures:
            raise failures[0]
        return made

    try:
        await load(WARM_SECONDS)
        before, redis_before, began = _batches(limiters), cpu.thread_times([redis_pid]), time.thread_time()
        made = await load(seconds)
        spent = time.thread_time() - began
        of_redis = cpu.seconds_between(redis_before, cpu.thread_times([redis_pid]))
        asked = _batches(limiters) - before
    finally:
        for limiter in limiters:
            await limiter.close()
    return Load(f"{name}, {counting}", workers, asked / made, spent / made * 1e6, of_redis / made * 1e6)


def _batches(limiters: Sequence[Limiter]) -> int:
    return sum(int(str(limiter.status()["batches"])) for limiter in limiters)


def text(loads: Sequence[Load]) -> str:
    """A line a case."""
    rows = [["", "workers", "Redis calls a request", "worker, µs", "Redis, µs"]]
    rows += [
        [load.case, str(load.workers), f"{load.calls_of_redis:.4f}", f"{load.worker:.1f}", f"{load.redis:.1f}"]
        for load in loads
    ]
    return table(rows)
