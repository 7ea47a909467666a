"""Asking the limiter and its script, from tests."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import redis

from ostiary.core.model import (
    PLAIN_COST,
    Authentication,
    Cost,
    Match,
    Plan,
    RedisLocation,
    Route,
    RouteLimit,
    StoreFailure,
)
from ostiary.gateway.limits import Decision, Limiter, LimitPolicy, compile_policy
from ostiary.gateway.limits import script as lua
from ostiary.gateway.node import NodeMemory
from ostiary.gateway.signal import Drive, Signal

NONCE_SECONDS = 600


def route(*limits: RouteLimit, name: str = "clients", cost: Cost = PLAIN_COST) -> Route:
    return Route(name, Match("/**"), {}, Authentication(frozenset()), limits=limits, cost=cost)


def policy(plan: Plan | None, *limits: RouteLimit, cost: Cost = PLAIN_COST) -> LimitPolicy:
    return compile_policy(plan, route(*limits, cost=cost))


def ask(
    limiter: Limiter,
    limits: LimitPolicy,
    *,
    key: str | None = "ak_test_1",
    app: str | None = None,
    organization: str | None = None,
    ip: str = "192.0.2.1",
    nonce: str | None = None,
    write: bool = False,
    on_failure: StoreFailure = StoreFailure.LOCAL,
    nonce_seconds: int = NONCE_SECONDS,
    headers: Mapping[bytes, bytes] | None = None,
) -> Signal[Decision]:
    return limiter.decide(
        limits,
        on_failure=on_failure,
        key_id=key,
        app_id=app,
        organization_id=organization,
        ip=ip,
        nonce=nonce,
        nonce_ttl_seconds=nonce_seconds,
        signed_write=write,
        headers=headers,
    )


async def settled(signal: Signal[Decision], *, within_seconds: float = 10) -> Decision:
    future: asyncio.Future[Decision] = asyncio.get_running_loop().create_future()

    async def wait() -> None:
        future.set_result(await signal)

    Drive(wait(), future.set_exception)
    return await asyncio.wait_for(future, within_seconds)


async def decided(limiter: Limiter, limits: LimitPolicy, **request: Any) -> Decision:
    return await settled(ask(limiter, limits, **request))


class Observed:
    """A LimiterObserver that keeps what it saw."""

    def __init__(self) -> None:
        self.decisions: list[tuple[str, str]] = []
        self.round_trips: list[float] = []
        self.failures: list[str] = []
        self.settlements: list[str] = []
        self.slices: list[str] = []
        self.forgot: list[str] = []

    def decided(self, limit: str, decision: str) -> None:
        self.decisions.append((limit, decision))

    def round_trip(self, seconds: float) -> None:
        self.round_trips.append(seconds)

    def store_failed(self, kind: str) -> None:
        self.failures.append(kind)

    def settled(self, result: str) -> None:
        self.settlements.append(result)

    def slice_asked(self, result: str) -> None:
        self.slices.append(result)

    def store_forgot(self, reason: str) -> None:
        self.forgot.append(reason)


def node_memory() -> NodeMemory:
    return NodeMemory.create(buckets=64)


@asynccontextmanager
async def running(
    url: RedisLocation | None,
    *,
    # Ten times the production default: a machine busy with other tests must not look like a Redis that hangs.
    deadline_seconds: float = 0.2,
    workers: int = 1,
    node: NodeMemory | None = None,
    observe: Observed | None = None,
    skew_seconds: int = 0,
) -> AsyncIterator[Limiter]:
    limiter = Limiter(
        url=url,
        deadline_seconds=deadline_seconds,
        workers=workers,
        observe=observe or Observed(),
        node=node,
        skew_seconds=skew_seconds,
    )
    await limiter.start()
    try:
        yield limiter
    finally:
        await limiter.close()


async def until_state(limiter: Limiter, state: str, *, within_seconds: float = 5) -> float:
    """Waits until the limiter says so; the seconds it took."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while limiter.status()["state"] != state:
        assert loop.time() - began < within_seconds, f"not {state} within {within_seconds} s: {limiter.status()}"
        await asyncio.sleep(0.005)
    return loop.time() - began


class Proxy:
    """Stands between a limiter and Redis: passes bytes on, after `delay_seconds`, or with TLS."""

    def __init__(self, port: int, tls: ssl.SSLContext | None = None) -> None:
        self.delay_seconds = 0.0
        self.port = 0
        self._redis_port = port
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        redis_reader, redis_writer = await asyncio.open_connection("127.0.0.1", self._redis_port)
        for source, sink in ((reader, redis_writer), (redis_reader, writer)):
            task = asyncio.get_running_loop().create_task(self._pass_on(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass_on(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        try:
            while data := await source.read(65536):
                loop.call_later(self.delay_seconds / 2, sink.write, data)
        except ConnectionError:
            pass
        finally:
            loop.call_later(self.delay_seconds / 2, sink.close)


@dataclass(frozen=True)
class Asked:
    """A request as the script sees it."""

    specification: bytes
    names: list[str]
    nonce: str | None


@dataclass(frozen=True)
class Settled:
    """A settlement as the script sees it."""

    specification: bytes
    names: list[str]
    difference: int
    taken_us: int
    ends_us: int = lua.ALWAYS_US


class Script:
    """lua/decide.lua on a real server, at moments of the test's choosing."""

    def __init__(self, url: str) -> None:
        self.redis: redis.Redis = redis.Redis.from_url(url)
        self._sha = self.redis.script_load(lua.DECIDE)
        self._batches = 0
        self.notes: list[tuple[int, int, int, int, int]] = []
        """Those of the last batch: whose, what, which limit, how much in %, when its period ends (µs)."""

    def decide(
        self,
        requests: Sequence[tuple[LimitPolicy, str, str | None]],
        now_us: int | None,
        *,
        nonce_seconds: int = NONCE_SECONDS,
        settlements: Sequence[tuple[LimitPolicy, str, int, int] | tuple[LimitPolicy, str, int, int, int]] = (),
    ) -> list[tuple[int, int, int, int]]:
        """`requests` are policy, key id and nonce; `settlements` policy, key id, difference, when it was taken, and
        from when on a bucket takes none of it back. The answers as the script gave them; `now_us` None is Redis's clock."""
        asked = [
            Asked(
                limits.specification(0 if nonce is None else nonce_seconds),
                limits.names(key, None, None, "192.0.2.1"),
                None if nonce is None else f"ost:{{k:{key}}}:nonce:{nonce}",
            )
            for limits, key, nonce in requests
        ]
        settled = [
            Settled(limits.specification(0), limits.names(key, None, None, "192.0.2.1"), *rest)
            for limits, key, *rest in settlements
        ]
        self._batches += 1
        clock = b"" if now_us is None else str(now_us).encode()
        arguments = lua.arguments(asked, f"test:{self._batches}", clock, settled)
        reply = cast(bytes, self.redis.evalsha(self._sha, *cast(Any, arguments)))
        assert lua.is_reply(reply, len(asked))
        self.notes = lua.notes(reply, len(asked))
        return list(lua.answers(reply, len(asked)))

    @property
    def batch_name(self) -> str:
        return f"test:{self._batches}"
