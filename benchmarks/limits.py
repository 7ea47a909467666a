"""What a decision costs: CPU of Redis and CPU of the worker, by calls in a batch.

    python -m benchmarks.limits [--calls 20000] [--rounds 5]

Plan: token bucket, one sliding window of an hour, one quota of a day. CPU of Redis comes from /proc/PID/schedstat before and
after; CPU of the worker is its process time, the event loop included. The last table asks the same script through redis-py,
one call at a time in flight for each client, which is what a gateway built on it does.
Both numbers grow with whatever else the machine does; compare columns of one run, not runs."""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import redis.asyncio
import uvloop

from ostiary.core.model import (
    Authentication,
    Match,
    Period,
    Plan,
    Quota,
    Rate,
    Route,
    StoreFailure,
    Window,
)
from ostiary.demo.stores import EmbeddedValkey
from ostiary.gateway.limits import Limiter, Outcome, UnobservedLimiter, compile_policy, script
from ostiary.gateway.limits.batch import Question
from ostiary.gateway.signal import Drive

PLAN = Plan(
    "bench",
    rate=Rate(1_000_000, 60, 100_000_000),
    windows=(Window(1_000_000_000, 3600),),
    quotas=(Quota(1_000_000_000, Period.DAY),),
)
POLICY = compile_policy(PLAN, Route("bench", Match("/**"), {}, Authentication(frozenset())))
SIZES = (1, 2, 4, 8, 16, 64)

Run = Callable[[int, int, bool], Awaitable[None]]


def cpu_us(pid: int) -> float:
    """CPU time of all threads of a process, in µs (schedstat: ns on the CPU comes first)."""
    return sum(int(task.read_text().split()[0]) for task in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1000


class Calls:
    """Makes calls in ticks of `size`; each tick waits for the one before it."""

    def __init__(self, limiter: Limiter, client: redis.asyncio.Redis) -> None:
        self.keys = 1
        self._limiter = limiter
        self._client = client
        self._number = 0

    async def by_limiter(self, calls: int, size: int, with_nonce: bool) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(calls // size):
            finished: asyncio.Future[None] = loop.create_future()
            waiting = size

            async def one(finished: asyncio.Future[None]) -> None:
                nonlocal waiting
                self._number += 1
                decision = await self._limiter.decide(
                    POLICY,
                    on_failure=StoreFailure.CLOSED,
                    key_id=f"ak_test_{self._number % self.keys}",
                    app_id=None,
                    organization_id=None,
                    ip="192.0.2.1",
                    nonce=f"nonce-{self._number:016}" if with_nonce else None,
                    nonce_ttl_seconds=600,
                    signed_write=True,
                )
                assert decision.outcome is Outcome.ALLOWED
                waiting -= 1
                if waiting == 0:
                    finished.set_result(None)

            for _ in range(size):
                Drive(one(finished), finished.set_exception)
            await finished

    async def by_redis_py(self, calls: int, size: int, with_nonce: bool) -> None:
        async def one() -> None:
            self._number += 1
            key = f"ak_test_{self._number % self.keys}"
            nonce = f"ost:{{k:{key}}}:nonce:nonce-{self._number:016}" if with_nonce else None
            names = POLICY.names(key, None, None, "192.0.2.1")
            question = Question(POLICY, names, nonce, 600 if with_nonce else 0, StoreFailure.CLOSED, False)
            numkeys, *rest = script.arguments([question], "bench:1")
            await self._client.evalsha(script.DECIDE_SHA.decode(), int(numkeys), *rest)

        for _ in range(calls // size):
            await asyncio.gather(*(one() for _ in range(size)))


async def measured(run: Run, pid: int, calls: int, size: int, with_nonce: bool, rounds: int) -> tuple[float, float]:
    """Median µs a call of Redis and of this process."""
    of_redis, of_worker = [], []
    for _ in range(rounds):
        redis_before, worker_before = cpu_us(pid), time.process_time()
        await run(calls, size, with_nonce)
        of_worker.append((time.process_time() - worker_before) / calls * 1e6)
        of_redis.append((cpu_us(pid) - redis_before) / calls)
    return statistics.median(of_redis), statistics.median(of_worker)


async def bench(calls: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as directory, EmbeddedValkey(Path(directory) / "valkey") as valkey:
        limiter = Limiter(url=valkey.url(), deadline_seconds=5, workers=1, observe=UnobservedLimiter())
        await limiter.start()
        client = redis.asyncio.Redis.from_url(valkey.url(), max_connections=max(SIZES))
        await client.script_load(script.DECIDE)
        made = Calls(limiter, client)
        for title, made.keys, with_nonce, own in (
            ("one key", 1, False, True),
            ("one key, with nonce", 1, True, True),
            ("1000 keys, with nonce", 1000, True, True),
            ("one key, with nonce, through redis-py", 1, True, False),
        ):
            print(f"\n{title}\n{'calls a tick':>14}{'Redis µs':>12}{'worker µs':>12}")
            for size in SIZES:
                run = made.by_limiter if own else made.by_redis_py
                await client.flushdb()
                await run(size * 50, size, with_nonce)  # warm
                of_redis, of_worker = await measured(run, valkey.pid, calls // size * size, size, with_nonce, rounds)
                print(f"{size:>14}{of_redis:>12.1f}{of_worker:>12.1f}", flush=True)
        print(f"\nfailures: {limiter.status()['failures']}")
        await client.aclose()
        await limiter.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    uvloop.run(bench(options.calls, options.rounds))
