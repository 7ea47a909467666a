"""Many processes and clients on a few callers, each decision written to a log by Redis's clock.

`hammer` is importable with its parameters, so that a longer run needs no other code than the test."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Callable, Sequence
from ctypes import c_uint64
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import RawArray
from pathlib import Path
from typing import Any

import uvloop

from ostiary.core.model import Period, Plan, Quota, Rate, StoreFailure, Window
from ostiary.gateway.limits import Limiter, LimitPolicy, UnobservedLimiter
from ostiary.gateway.signal import Drive, Signal
from tests.gateway.limits.decision_log import EVENTS, Event, LogWriter
from tests.gateway.limits.support import ask, policy
from tests.gateway.limits.verifier import SECOND_US, Subject

# After a refusal a client waits this long: with 25 clients on one subject some 4 000 calls a second at most, ten times the
# limits below.
PAUSE_SECONDS = 0.005

# Of a subject that rests: long enough for a bucket to be full again and for a window to be half over.
ASK_SECONDS = 1.3
REST_SECONDS = 0.7

# How long a batch may take without being decided by this process itself, which would be no decision of Redis.
DEADLINE_SECONDS = 30.0

# Every algorithm by itself, and several at once; a bucket and a window also with rests, after which they are full. The longer
# a window, the less of it passes between the moment in which a call is admitted again and the moment in which one is made.
SUBJECTS = (
    Subject("bucket", Plan("p", rate=Rate(300, 1, 100))),
    Subject("bursts", Plan("p", rate=Rate(300, 1, 100)), rests=True),
    Subject("slots", Plan("p", windows=(Window(4000, 10),))),
    Subject("waves", Plan("p", windows=(Window(250, 1),)), rests=True),
    Subject("exact_log", Plan("p", windows=(Window(120, 1),))),
    Subject("quota", Plan("p", quotas=(Quota(10_000, Period.HOUR),))),
    Subject("concurrency", Plan("p", concurrency=8), hold_seconds=0.02),
    Subject(
        "several",
        Plan("p", Rate(200, 1, 50), (Window(110, 1), Window(1000, 10)), (Quota(10**6, Period.DAY),), concurrency=16),
        hold_seconds=0.002,
    ),
)


@dataclass(frozen=True)
class Hammered:
    """Logs of all processes. `alone` counts what was not decided by Redis: nothing, or the logs prove nothing."""

    logs: list[Path]
    asked: int
    seconds: float
    alone: int


@dataclass(frozen=True)
class Job:
    """What one process does: `clients` by their numbers, on the subjects in turn, until `decisions` are made."""

    number: int
    url: str
    subjects: tuple[Subject, ...]
    clients: range
    decisions: int
    directory: Path
    skew_seconds: float

    def log(self, name: str) -> Path:
        return self.directory / f"{self.number}.{name}"


def hammer(
    url: str,
    directory: Path,
    *,
    decisions: int,
    subjects: Sequence[Subject] = SUBJECTS,
    processes: int = 4,
    clients: int = 200,
    clock_skews_seconds: Sequence[float] = (0,),
    progress: Callable[[int], None] | None = None,
) -> Hammered:
    """`clients` in all, spread over `processes`, each asking as fast as it is answered, until about `decisions` are made.
    `clock_skews_seconds` set the clocks of the processes apart, in turn. `progress` hears each second how many are made."""
    context = multiprocessing.get_context("spawn")
    made = RawArray(c_uint64, processes)
    each = clients // processes
    began = time.monotonic()
    running: list[tuple[Any, Connection]] = []
    jobs = []
    for number in range(processes):
        job = Job(
            number,
            url,
            tuple(subjects),
            range(number * each, (number + 1) * each),
            decisions // processes,
            directory,
            clock_skews_seconds[number % len(clock_skews_seconds)],
        )
        jobs.append(job)
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_process, args=(sender, job, made), daemon=True)
        process.start()
        sender.close()
        running.append((process, receiver))
    alone = 0
    for process, receiver in running:
        while not receiver.poll(1):
            if progress is not None:
                progress(sum(made))
        alone += receiver.recv()
        process.join()
    logs = [job.log(name) for job in jobs for name in ("decided", "released")]
    return Hammered(logs, sum(made), time.monotonic() - began, alone)


def _process(sender: Connection, job: Job, made: Any) -> None:
    if job.skew_seconds:
        true_time, true_time_ns = time.time, time.time_ns
        time.time = lambda: true_time() + job.skew_seconds
        time.time_ns = lambda: true_time_ns() + int(job.skew_seconds * 1e9)
    sender.send(uvloop.run(_run(job, made)))


async def _run(job: Job, made: Any) -> int:
    # Closed, and a long deadline: a decision without Redis would not be exact, and must not pass for one.
    limiter = Limiter(url=job.url, deadline_seconds=DEADLINE_SECONDS, workers=1, observe=UnobservedLimiter())
    await limiter.start()
    clients = Clients(job, limiter, made)
    await clients.ended
    alone = limiter.status()["decided_without_store"]
    await limiter.close()
    clients.close()
    return int(str(alone))


class Clients:
    """The clients of one process. No task and no future for a call: the calls are what shall fill the time."""

    def __init__(self, job: Job, limiter: Limiter, made: Any) -> None:
        self._job = job
        self._limiter = limiter
        self._made = made
        self._left = job.decisions
        self._loop = asyncio.get_running_loop()
        self._running = len(job.clients)
        self._decided = LogWriter(job.log("decided"))
        self._released = LogWriter(job.log("released"))
        self.ended: asyncio.Future[None] = self._loop.create_future()
        for number in job.clients:
            subject = number % len(job.subjects)
            Drive(self._client(subject, policy(job.subjects[subject].plan)), self._failed)

    async def _client(self, number: int, limits: LimitPolicy) -> None:
        subject = self._job.subjects[number]
        while self._left > 0:
            self._left -= 1
            if subject.rests and (moment := self._loop.time() % (ASK_SECONDS + REST_SECONDS)) > ASK_SECONDS:
                await self._pause(ASK_SECONDS + REST_SECONDS - moment)
            decision = await ask(self._limiter, limits, key=f"ak_{subject.name}", on_failure=StoreFailure.CLOSED)
            # In the very moment in which the decision is handed out; later it would be the time of another one.
            event = EVENTS[decision.outcome]
            self._decided.write(self._limiter.store_time_us, event, number)
            self._made[self._job.number] += 1
            if event is not Event.ALLOWED:
                await self._pause(PAUSE_SECONDS)
            elif decision.lease is not None:
                await self._pause(subject.hold_seconds)
                self._released.write(now_us(), Event.RELEASED, number)
                self._limiter.release(decision.lease)
        self._running -= 1
        if self._running == 0:
            self.ended.set_result(None)

    def close(self) -> None:
        self._decided.close()
        self._released.close()

    def _pause(self, seconds: float) -> Signal[None]:
        signal: Signal[None] = Signal()
        self._loop.call_later(seconds, signal.set, None)
        return signal

    def _failed(self, error: BaseException) -> None:
        if not self.ended.done():
            self.ended.set_exception(error)


def now_us() -> int:
    """The clock that Redis has, as it is on this machine; whatever a test did to `time.time`."""
    return time.clock_gettime_ns(time.CLOCK_REALTIME) * SECOND_US // 1_000_000_000
