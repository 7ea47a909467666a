"""Many processes and clients on one key, and a verifier that trusts nothing but Redis's clock.

`hammer` is importable with its parameters, so that a longer run needs no other code than the test."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection

import uvloop

from ostiary.core.limiting import SECOND_US
from ostiary.core.model import Plan, StoreFailure
from ostiary.gateway.limits import Decision, Limiter, LimitPolicy, Outcome, UnobservedLimiter
from ostiary.gateway.signal import Drive
from tests.gateway.limits.support import ask, policy

# After a refusal a client waits this long: with 20 clients some 4000 calls a second, ten times the limits of the tests.
PAUSE_SECONDS = 0.005


@dataclass(frozen=True)
class Hammered:
    """When calls were let in, by Redis's clock, in order; how many were asked for; over how long calls were made."""

    admitted_us: Sequence[int]
    asked: int
    span_us: int
    failures: int


def hammer(
    url: str, plan: Plan, *, processes: int, clients: int, seconds: float, clock_skews_seconds: Sequence[float] = (0,)
) -> Hammered:
    """`clients` in all, spread over `processes`, each asking as fast as it is answered. `clock_skews_seconds` set the clocks
    of the processes apart, in turn."""
    context = multiprocessing.get_context("spawn")
    running = []
    for number in range(processes):
        receiver, sender = context.Pipe(duplex=False)
        skew = clock_skews_seconds[number % len(clock_skews_seconds)]
        process = context.Process(
            target=_process, args=(sender, url, plan, max(1, clients // processes), seconds, skew), daemon=True
        )
        process.start()
        sender.close()
        running.append((process, receiver))
    admitted = array("Q")
    asked, failures, first_us, last_us = 0, 0, 2**63, 0
    for process, receiver in running:
        moments, tried, failed, began_us, ended_us = receiver.recv()
        admitted.frombytes(moments)
        asked += tried
        failures += failed
        first_us, last_us = min(first_us, began_us), max(last_us, ended_us)
        process.join()
    return Hammered(sorted(admitted), asked, last_us - first_us, failures)


def most_in_any_span(moments_us: Sequence[int], span_us: int) -> int:
    """The largest number of moments in any span of that length."""
    first, most = 0, 0
    for last, moment in enumerate(moments_us):
        while moment - moments_us[first] >= span_us:
            first += 1
        most = max(most, last - first + 1)
    return most


def most_over_refill(moments_us: Sequence[int], requests: int, per_seconds: int) -> float:
    """The largest number of calls in any span, less what the bucket was refilled with over it: at most its burst."""
    lowest, most = float("inf"), 0.0
    for number, moment in enumerate(moments_us):
        refilled = moment / SECOND_US * requests / per_seconds
        lowest = min(lowest, number - refilled)
        most = max(most, number - refilled - lowest + 1)
    return most


def _process(sender: Connection, url: str, plan: Plan, clients: int, seconds: float, skew_seconds: float) -> None:
    if skew_seconds:
        true_time, true_time_ns = time.time, time.time_ns
        time.time = lambda: true_time() + skew_seconds
        time.time_ns = lambda: true_time_ns() + int(skew_seconds * 1e9)
    sender.send(uvloop.run(_clients(url, plan, clients, seconds)))


async def _clients(url: str, plan: Plan, clients: int, seconds: float) -> tuple[bytes, int, int, int, int]:
    limits = policy(plan)
    admitted = array("Q")
    asked, first_us, last_us = 0, 2**63, 0
    loop = asyncio.get_running_loop()
    # Closed, and a long deadline: a decision without Redis would not be exact, and must not pass for one.
    limiter = Limiter(url=url, deadline_seconds=5, workers=1, observe=UnobservedLimiter())
    await limiter.start()
    ends = loop.time() + seconds

    async def client() -> None:
        nonlocal asked, first_us, last_us
        while loop.time() < ends:
            decision, now_us = await _asked(limiter, limits)
            asked += 1
            first_us, last_us = min(first_us, now_us), max(last_us, now_us)
            if decision.outcome is Outcome.ALLOWED:
                admitted.append(now_us)
            else:
                await asyncio.sleep(PAUSE_SECONDS)

    await asyncio.gather(*(client() for _ in range(clients)))
    failures = limiter.status()["failures"]
    await limiter.close()
    return admitted.tobytes(), asked, int(str(failures)), first_us, last_us


async def _asked(limiter: Limiter, limits: LimitPolicy) -> tuple[Decision, int]:
    """The decision, and Redis's clock at it: read in the very moment the decision is handed out."""
    future: asyncio.Future[tuple[Decision, int]] = asyncio.get_running_loop().create_future()

    async def wait() -> None:
        decision = await ask(limiter, limits, on_failure=StoreFailure.CLOSED)
        future.set_result((decision, limiter.store_time_us))

    Drive(wait(), future.set_exception)
    return await future
