"""Workers of several nodes that spend slices of leased limits under a steady load, each decision written to a log.

A call that a slice decides has no moment at Redis. It is logged with the clock of this machine, which is the one that its
Redis has, from just before it was asked: the slice was there then, and its slot not over when the call was let in later. Such
calls have a file of their own, because each file is in the order of its moments.

`python -m tests.gateway.limits.leasing` is one worker: its job comes on stdin, what it did goes to stdout."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import uvloop

from ostiary.core.model import Cost, Counting, Period, Quota, Rate, StoreFailure, Window
from ostiary.gateway.limits import Decision, Limiter, Outcome, UnobservedLimiter
from ostiary.gateway.node import NodeMemory
from ostiary.gateway.signal import Drive, Signal
from tests.gateway.limits.decision_log import EVENTS, Event, LogWriter
from tests.gateway.limits.hammer import DEADLINE_SECONDS, now_us
from tests.gateway.limits.support import ask, policy
from tests.gateway.limits.verifier import Subject
from tests.support.gateway_process import eventually

ROOT = Path(__file__).parents[3]
TICK_SECONDS = 0.002
# Until the nodes know of each other, and of how they are called.
WARM_SECONDS = 0.5


def leased_rate(requests: int, per_seconds: int, burst: int) -> Rate:
    return Rate(requests, per_seconds, burst, counting=Counting.LEASED)


def leased_window(requests: int, window_seconds: int) -> Window:
    return Window(requests, window_seconds, counting=Counting.LEASED)


def leased_quota(requests: int, period: Period) -> Quota:
    return Quota(requests, period, counting=Counting.LEASED)


@dataclass(frozen=True, slots=True)
class Load:
    """Calls of one subject at each worker: so many a second, for `on_seconds` of every `cycle_seconds`."""

    subject: Subject
    per_second: float
    on_seconds: float = 1.0
    cycle_seconds: float = 1.0
    cost: int = 1


@dataclass(frozen=True, slots=True)
class Job:
    number: int
    url: str
    loads: tuple[Load, ...]
    seconds: float
    directory: Path
    workers: int
    node_descriptor: int

    def log(self, name: str) -> Path:
        return self.directory / f"{self.number}.{name}"


@dataclass
class Leased:
    """What the workers did. `batches` are commands to Redis, `alone` calls that were decided without it and without a slice:
    none, or the logs prove nothing. A worker that was killed says nothing, but left its logs."""

    logs: list[Path]
    asked: int = 0
    spent: int = 0
    batches: int = 0
    alone: int = 0

    @property
    def calls_of_redis(self) -> float:
        """For each request."""
        return self.batches / max(1, self.asked)


def hammer(
    url: str,
    directory: Path,
    loads: Sequence[Load],
    *,
    seconds: float,
    nodes: int = 2,
    workers: int = 2,
    kill_after: float | None = None,
) -> Leased:
    """`workers` of each of `nodes`. With `kill_after`, the first one gets SIGKILL so many seconds after it has begun."""
    regions = [NodeMemory.create(buckets=256) for _ in range(nodes)]
    running = []
    for number in range(nodes * workers):
        region = regions[number % nodes]
        job = Job(number, url, tuple(loads), seconds, directory, workers, region.descriptor)
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.gateway.limits.leasing"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[region.descriptor],
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": str(region.hash_seed)},
        )
        assert process.stdin is not None
        process.stdin.write(pickle.dumps(job))
        process.stdin.close()
        running.append((job, process))
    if kill_after is not None:
        job, victim = running[0]
        eventually(job.log("slices").exists, "the first worker begins")
        time.sleep(kill_after)
        victim.send_signal(signal.SIGKILL)
    done = Leased([job.log(name) for job, _ in running for name in ("redis", "slices")])
    for job, process in running:
        assert process.stdout is not None
        said = process.stdout.read()
        process.stdout.close()
        if process.wait() != 0:
            assert kill_after is not None, "a worker failed"
            assert job.number == 0, "a worker failed that was not killed"
            continue
        asked, spent, batches, alone = pickle.loads(said)  # noqa: S301  our own process wrote it
        done.asked += asked
        done.spent += spent
        done.batches += batches
        done.alone += alone
    return done


class Worker:
    """One process of `hammer`."""

    def __init__(self, job: Job, limiter: Limiter) -> None:
        self._limiter = limiter
        self._loads = [(load, policy(load.subject.plan, cost=Cost(load.cost))) for load in job.loads]
        self._due = [0.0] * len(job.loads)
        self._by_redis = LogWriter(job.log("redis"))
        self._by_slices = LogWriter(job.log("slices"))
        self.asked = 0

    def ask(self, begun_at: float, before: float, now: float) -> None:
        """What is due since `before`; all callers of one subject at once, as they come in one turn of the loop."""
        for number, (load, limits) in enumerate(self._loads):
            if (now - begun_at) % load.cycle_seconds < load.on_seconds:
                self._due[number] += (now - before) * load.per_second
            while self._due[number] >= 1:
                self._due[number] -= 1
                self.asked += 1
                moment_us = now_us()
                decision = ask(self._limiter, limits, key=f"ak_{load.subject.name}", on_failure=StoreFailure.CLOSED)
                if decision.done:
                    assert decision._value.outcome is Outcome.ALLOWED
                    self._by_slices.write(moment_us, Event.ALLOWED, number, load.cost)
                else:
                    Drive(self._log(number, load.cost, decision), _failed)

    async def _log(self, number: int, cost: int, waiting: Signal[Decision]) -> None:
        decision = await waiting
        self._by_redis.write(self._limiter.store_time_us, EVENTS[decision.outcome], number, cost)

    def flush(self) -> None:
        """So that a worker that is killed leaves what it did."""
        self._by_redis.flush()
        self._by_slices.flush()


def _failed(error: BaseException) -> None:
    raise error


async def _work(job: Job) -> tuple[int, int, int, int]:
    limiter = Limiter(
        url=job.url,
        deadline_seconds=DEADLINE_SECONDS,
        workers=job.workers,
        observe=UnobservedLimiter(),
        node=NodeMemory(job.node_descriptor),
    )
    await limiter.start()
    worker = Worker(job, limiter)
    await asyncio.sleep(WARM_SECONDS)
    begun_at = before = time.monotonic()
    while before < begun_at + job.seconds:
        await asyncio.sleep(TICK_SECONDS)
        now = time.monotonic()
        worker.ask(begun_at, before, now)
        worker.flush()
        before = now
    await asyncio.sleep(2 * TICK_SECONDS)
    status = limiter.status()
    await limiter.close()
    worker.flush()
    spent, batches, alone = (
        int(str(status[name])) for name in ("decided_from_slices", "batches", "decided_without_store")
    )
    return worker.asked, spent, batches, alone


def main() -> None:
    job = pickle.loads(sys.stdin.buffer.read())  # noqa: S301  our own parent wrote it
    sys.stdout.buffer.write(pickle.dumps(uvloop.run(_work(job))))


if __name__ == "__main__":
    main()
