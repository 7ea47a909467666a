"""What a decision costs: CPU of the worker and of Redis, by algorithm, by number of limits, and by calls in a batch.

`scripts/bench limits` prints it. A worker's limiter asks a real Valkey; the event loop, the socket and the encoding are in
the worker's figure, the script and the socket in Redis's. All cases are measured in turn, round after round, so that what
slows the machine for a while slows them all. The last case asks the same script through redis-py, one command a call, which
is what a gateway built on it does."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import redis.asyncio
import uvloop

import ostiary.gateway.limits.limiter
from benchmarks import cpu, leased
from benchmarks.processes import OTHER_CORE, PROXY_CORE
from benchmarks.report import table
from benchmarks.statistics import Spread
from ostiary.core import keyspace
from ostiary.core.model import Authentication, Counting, Match, Period, Plan, Quota, Rate, Route, StoreFailure, Window
from ostiary.demo.stores import EmbeddedValkey
from ostiary.gateway.limits import Limiter, Outcome, UnobservedLimiter, compile_policy, script
from ostiary.gateway.limits.batch import Question
from ostiary.gateway.signal import Drive

# None of these is ever reached: an admitted call is the dear one, and the usual one.
ENOUGH = 1_000_000_000
BATCHES = (1, 64)
WARM_BATCHES = 20


@dataclass(frozen=True, slots=True)
class Case:
    """What each call of it is held to. `keys` take turns, so that a batch has one subject or many."""

    name: str
    limits: int
    plan: Plan
    nonce: bool = False
    keys: int = 1
    by_redis_py: bool = False


@dataclass(frozen=True, slots=True)
class Cost:
    """µs of CPU a decision."""

    case: str
    limits: int
    batch: int
    worker: Spread
    redis: Spread


def windows(count: int, requests: int) -> tuple[Window, ...]:
    return tuple(Window(requests, 3600 + number) for number in range(count))


BUCKET = Rate(1_000_000, 60, 100_000_000)
# One caller has at most one bucket and a quota of each period; windows may be many.
FULL = Plan("full", BUCKET, windows(4, ENOUGH), tuple(Quota(ENOUGH, period) for period in Period))
CASES = (
    Case("nothing to decide", 0, Plan("none")),
    Case("nonce alone", 0, Plan("none"), nonce=True),
    Case("bucket", 1, Plan("bucket", BUCKET)),
    Case("window, slots", 1, Plan("slots", windows=windows(1, ENOUGH))),
    Case("window, slots", 2, Plan("slots", windows=windows(2, ENOUGH))),
    Case("window, slots", 4, Plan("slots", windows=windows(4, ENOUGH))),
    Case("window, slots", 8, Plan("slots", windows=windows(8, ENOUGH))),
    # Full after 120 calls, and all of them are refused from then on: the log at its longest.
    Case("window, log (refused)", 1, Plan("log", windows=windows(1, 120))),
    Case("quota", 1, Plan("quota", quotas=(Quota(ENOUGH, Period.DAY),))),
    Case("concurrency", 1, Plan("concurrency", concurrency=1_000_000)),
    Case("bucket + window", 2, Plan("two", BUCKET, windows(1, ENOUGH))),
    Case("bucket + 2 windows + day", 4, Plan("four", BUCKET, windows(2, ENOUGH), (Quota(ENOUGH, Period.DAY),))),
    Case("bucket + 4 windows + 3 quotas", 8, FULL),
    Case("the same, with a nonce", 8, FULL, nonce=True),
    Case("the same, of 1000 keys", 8, FULL, nonce=True, keys=1000),
    Case("the same, through redis-py", 8, FULL, nonce=True, by_redis_py=True),
    # Nearly all of these are decided in the worker; the first, and what renews the slices, in Redis.
    Case("window, slots, leased", 1, Plan("leased", windows=(Window(ENOUGH, 3600, counting=Counting.LEASED),))),
    Case(
        "bucket + 2 windows + day, leased",
        4,
        Plan(
            "leased",
            Rate(1_000_000, 60, 100_000_000, counting=Counting.LEASED),
            tuple(Window(ENOUGH, seconds, counting=Counting.LEASED) for seconds in (3600, 7200)),
            (Quota(ENOUGH, Period.DAY, counting=Counting.LEASED),),
        ),
    ),
)


class Caller:
    """Makes the calls of one case in batches; each waits for the one before it."""

    def __init__(self, case: Case, limiter: Limiter, client: redis.asyncio.Redis) -> None:
        self._case = case
        self._limiter = limiter
        self._client = client
        route = Route("bench", Match("/**"), {}, Authentication(frozenset()))
        self._policy = compile_policy(case.plan, route)
        self._key = f"ak_{case.plan.name}_{case.limits}_{case.keys}_{case.nonce}"
        self._numbers = itertools.count(time.time_ns())

    async def batch(self, size: int) -> None:
        """Raises RuntimeError if a call is not decided by Redis."""
        if self._case.by_redis_py:
            await asyncio.gather(*(self._ask_by_redis_py() for _ in range(size)))
        else:
            await self._ask(size)

    async def _ask_by_redis_py(self) -> None:
        number = next(self._numbers)
        nonce = keyspace.nonce(self._key, f"nonce-{number:022}")
        names = self._policy.names(self._key, None, None, "192.0.2.1")
        question = Question(self._policy, names, nonce, 600, StoreFailure.CLOSED, True)
        numkeys, *rest = script.arguments([question], "bench:1")
        await self._client.evalsha(script.DECIDE_SHA.decode(), int(numkeys), *rest)

    async def _ask(self, size: int) -> None:
        loop = asyncio.get_running_loop()
        whole: asyncio.Future[None] = loop.create_future()
        left = size

        async def one() -> None:
            nonlocal left
            number = next(self._numbers)
            decision = await self._limiter.decide(
                self._policy,
                on_failure=StoreFailure.CLOSED,
                key_id=f"{self._key}_{number % self._case.keys}",
                app_id=None,
                organization_id=None,
                ip="192.0.2.1",
                nonce=f"nonce-{number:022}" if self._case.nonce else None,
                nonce_ttl_seconds=600,
                signed_write=True,
            )
            if decision.outcome is Outcome.UNAVAILABLE:
                raise RuntimeError("a call was decided without Redis; there is nothing to measure")
            if decision.lease is not None:
                self._limiter.release(decision.lease)
            left -= 1
            if not left:
                whole.set_result(None)

        for _ in range(size):
            Drive(one(), whole.set_exception)
        if whole.done():  # by slices alone: what renews them needs a turn of the loop
            await asyncio.sleep(0)
        await whole


async def measured(caller: Caller, redis_pid: int, calls: int, size: int) -> tuple[float, float]:
    """µs a decision of this thread and of Redis, over one round."""
    batches = max(1, calls // size)
    redis_before, began = cpu.thread_times([redis_pid]), time.thread_time()
    for _ in range(batches):
        await caller.batch(size)
    spent = time.thread_time() - began
    of_redis = cpu.seconds_between(redis_before, cpu.thread_times([redis_pid]))
    return spent / (batches * size) * 1e6, of_redis / (batches * size) * 1e6


async def bench(cases: Sequence[Case], *, calls: int, runs: int) -> list[Cost]:
    with (
        tempfile.TemporaryDirectory(prefix="ostiary-bench-") as directory,
        EmbeddedValkey(Path(directory) / "v") as valkey,
    ):
        for thread in os.listdir(f"/proc/{valkey.pid}/task"):
            os.sched_setaffinity(int(thread), {OTHER_CORE})
        # A deadline that no disturbance reaches: what is measured is the decision by Redis.
        limiter = Limiter(url=valkey.url(), deadline_seconds=5.0, workers=1, observe=UnobservedLimiter())
        await limiter.start()
        client = redis.asyncio.Redis.from_url(valkey.url(), max_connections=max(BATCHES))
        try:
            sides = [(case, size, Caller(case, limiter, client)) for case in cases for size in BATCHES]
            for _, size, caller in sides:
                for _ in range(WARM_BATCHES):
                    await caller.batch(size)
            rounds = []
            for number in range(runs):
                click.echo(f"  round {number + 1} of {runs}", err=True)
                rounds.append([await measured(caller, valkey.pid, calls, size) for _, size, caller in sides])
        finally:
            await client.aclose()
            await limiter.close()
    return [
        Cost(
            case.name,
            case.limits,
            size,
            Spread.of([of_round[number][0] for of_round in rounds]),
            Spread.of([of_round[number][1] for of_round in rounds]),
        )
        for number, (case, size, _) in enumerate(sides)
    ]


async def bench_loads(*, seconds: float, names: Sequence[str] = leased.NAMES) -> list[leased.Load]:
    with (
        tempfile.TemporaryDirectory(prefix="ostiary-bench-") as directory,
        EmbeddedValkey(Path(directory) / "v") as valkey,
    ):
        for thread in os.listdir(f"/proc/{valkey.pid}/task"):
            os.sched_setaffinity(int(thread), {OTHER_CORE})
        return await leased.measured(valkey.url(), valkey.pid, seconds=seconds, names=names)


def text(costs: Sequence[Cost]) -> str:
    """A line a case; medians, with the least and the largest beside them."""
    rows = [["", "limits", *(f"{who}, {size} a batch" for size in BATCHES for who in ("worker", "Redis"))]]
    for first in range(0, len(costs), len(BATCHES)):
        some = costs[first : first + len(BATCHES)]
        figures = [_spread(spread) for cost in some for spread in (cost.worker, cost.redis)]
        rows.append([some[0].case, str(some[0].limits), *figures])
    return table(rows)


def _spread(spread: Spread) -> str:
    return f"{spread.median:.1f} ({spread.least:.1f}–{spread.most:.1f})"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--calls", type=click.IntRange(1000), default=10_000, show_default=True, help="Of each run.")
@click.option("--runs", type=click.IntRange(1, 1000), default=7, show_default=True, help="Runs of each line.")
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Where to write all figures."
)
@click.option("--quick", is_flag=True, help="2 runs of 1000 calls: shows that it works, no more.")
def main(calls: int, runs: int, json_file: Path | None, quick: bool) -> None:
    """Measure what a decision about limits costs: µs of CPU of the worker and of Redis.

    \b
    Example:
      ./scripts/bench limits
      ./scripts/bench limits --runs 15 --json limits.json
    """
    os.sched_setaffinity(0, {PROXY_CORE})
    calls, runs = (1000, 2) if quick else (calls, runs)
    costs = uvloop.run(bench(CASES, calls=calls, runs=runs))
    compiled = not ostiary.gateway.limits.limiter.__file__.endswith(".py")
    how = "compiled" if compiled else "interpreted"
    click.echo(f"µs of CPU a decision, {how}: median (least–largest) of {runs} runs of {calls} calls\n\n{text(costs)}")
    loads = uvloop.run(bench_loads(seconds=0.5 if quick else 10.0))
    click.echo(f"\n{leased.PER_SECOND} calls a second on one key, over all workers\n\n{leased.text(loads)}")
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        figures = [*map(asdict, costs), *map(asdict, loads)]
        json_file.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main(prog_name="scripts/bench limits")
