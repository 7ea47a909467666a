"""A steady load of decisions while a Redis Cluster changes, and what its log must show.

Each caller waits for an answer before it asks again. Routes are `closed`, so a call that was let in was counted by Redis, and
a call that could not be decided shows as unavailable."""

from __future__ import annotations

import asyncio
import itertools
import struct
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from ostiary.core import keyspace
from ostiary.core.model import StoreFailure
from ostiary.gateway.limits import Decision, Limiter, LimitPolicy, Outcome
from ostiary.gateway.signal import Drive
from tests.gateway.limits.support import ask
from tests.support.redis_servers import Server
from tests.support.spans import most_in_any_span

PAUSE_SECONDS = 0.004

# Calls that were counted and whose answers were lost with a connection, or came too late: one a caller, a few times.
UNTOLD_MAX = 30


@dataclass(frozen=True, slots=True)
class Call:
    """`answered_at` is this process's clock (s), `store_us` that of the Redis that decided."""

    key: str
    outcome: Outcome
    answered_at: float
    store_us: int
    waited_seconds: float


@dataclass
class Log:
    calls: list[Call] = field(default_factory=list)

    def admitted(self, key: str) -> list[int]:
        return sorted(call.store_us for call in self.calls if call.key == key and call.outcome is Outcome.ALLOWED)

    def most(self, key: str, span_us: int) -> int:
        return most_in_any_span(self.admitted(key), span_us)

    def longest_without(self, key: str) -> float:
        """The longest time (s) in which no call of that key could be decided: from an unavailable one to the next decided
        one."""
        longest, since = 0.0, None
        for call in self.calls:
            if call.key != key:
                continue
            if call.outcome is Outcome.UNAVAILABLE:
                since = call.answered_at - call.waited_seconds if since is None else since
            elif since is not None:
                longest, since = max(longest, call.answered_at - since), None
        return longest if since is None else float("inf")

    def unavailable(self, key: str) -> int:
        return sum(call.key == key and call.outcome is Outcome.UNAVAILABLE for call in self.calls)


@asynccontextmanager
async def steady(
    limiters: Sequence[Limiter], limits: LimitPolicy, keys: Sequence[str], *, callers: int, nonces: bool = False
) -> AsyncIterator[Log]:
    """`callers` for each key, spread over the limiters; with `nonces`, each call has one."""
    log = Log()
    numbers = itertools.count()

    async def caller(key: str, limiter: Limiter) -> None:
        while True:
            asked_at = time.monotonic()
            nonce = f"nonce-{next(numbers):012}" if nonces else None
            decision, store_us = await _asked(limiter, limits, key, nonce)
            now = time.monotonic()
            log.calls.append(Call(key, decision.outcome, now, store_us, now - asked_at))
            await asyncio.sleep(PAUSE_SECONDS)

    tasks = [
        asyncio.ensure_future(caller(key, limiters[number % len(limiters)]))
        for key in keys
        for number in range(callers)
    ]
    try:
        yield log
    finally:
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if not isinstance(result, asyncio.CancelledError):
                raise AssertionError("a caller ended") from (result if isinstance(result, Exception) else None)


def counted(server: Server, key: str) -> int:
    """What the state of a plan with windows alone has in its last window, as a replica or a master has it."""
    client = server.client
    try:
        if client.info("cluster")["cluster_enabled"]:
            client.readonly()
        raw = client.get(keyspace.plan_state(key))
    finally:
        client.close()
    if not isinstance(raw, bytes):
        return 0
    layout, _, numbers = raw.partition(b"|")
    windows = layout.count(b"w")
    return int(struct.unpack_from("<d", numbers, (windows - 1) * 40)[0])


async def _asked(limiter: Limiter, limits: LimitPolicy, key: str, nonce: str | None) -> tuple[Decision, int]:
    """The decision, and Redis's clock at it: read in the very moment the decision is handed out."""
    future: asyncio.Future[tuple[Decision, int]] = asyncio.get_running_loop().create_future()

    async def wait() -> None:
        decision = await ask(limiter, limits, key=key, nonce=nonce, on_failure=StoreFailure.CLOSED)
        if not future.done():
            future.set_result((decision, limiter.store_time_us))

    def failed(error: BaseException) -> None:
        if not future.done():
            future.set_exception(error)

    Drive(wait(), failed)
    return await future
