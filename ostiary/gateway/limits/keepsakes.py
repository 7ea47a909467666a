"""Does Redis still have what was counted there? A keepsake in each Redis tells: who does not find it again, or finds it as it
was some time ago, knows that the rest is gone too.

Limits need no mending then: they begin anew, which lets through at most one limit more. But quotas of a month begin anew too,
and nobody would notice. One worker of each node looks, and says once what was lost and what to do."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from ostiary.core import keyspace
from ostiary.core.resources import lua_script
from ostiary.gateway.limits.connection import Command, RedisConnection, ReplyRefused
from ostiary.gateway.limits.decision import LimiterObserver
from ostiary.gateway.node import NodeMemory

log = logging.getLogger("ostiary.gateway.limits")

_KEEPSAKE: Final = lua_script("keepsake")

# A look takes Redis some 30 µs, half of it for INFO, and the worker 0.2 ms (docs/decisions/0025-forgetful-redis.md).
LOOK_SECONDS: Final = 1.0
# Nobody waits for a look, but the next one does.
ANSWER_SECONDS: Final = 0.5

# Whoever may not ask INFO is told so each time, in Redis's own log too (ACL LOG).
INFO_AGAIN_SECONDS: Final = 60.0

# A Redis that evicts does so all the time: it is counted each time, and told this often.
EVICTED_TOLD_SECONDS: Final = 600.0

FLUSHED, RESTARTED, REPLACED, EVICTED = "flushed", "restarted", "replaced", "evicted"
REASONS: Final = (FLUSHED, RESTARTED, REPLACED, EVICTED)

_ALL: Final = "every rate, window, quota, call under way and used nonce that was counted there"
_DO: Final = {
    FLUSHED: "nothing brings it back: limits and quotas begin anew. Find who called FLUSHALL or FLUSHDB (or deleted names "
    "that begin with ost:), and take the right to from them (ACL -@dangerous)",
    RESTARTED: "nothing brings it back: limits and quotas begin anew. Give Redis appendonly yes, or a replica that takes "
    "over",
    REPLACED: "nothing brings it back. Set min-replicas-to-write 1 and min-replicas-max-lag 1 on the masters, so that none "
    "counts what no replica has",
    EVICTED: "set maxmemory-policy noeviction, and give Redis more maxmemory or a server of its own",
}


@dataclass(frozen=True, slots=True)
class Facts:
    """What INFO says of one Redis."""

    run_id: str
    evicted_keys: int
    maxmemory_policy: str
    may_evict: bool


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at a keepsake found, and left: the moment of the look `before` it (0: there was none) and its own, both
    by Redis's clock in µs. `facts` are None where INFO is not allowed."""

    place: str
    name: bytes
    before_us: int
    now_us: int
    facts: Facts | None


@dataclass(frozen=True, slots=True)
class Forgot:
    """`reason` is the metric's label."""

    reason: str
    place: str
    lost: str


def forgot(last: Look, look: Look) -> Forgot | None:
    """What Redis has lost between two looks at the same keepsake."""
    evicted_n = _evicted_since(last, look)
    if look.name == last.name and look.before_us >= last.now_us:
        return Forgot(EVICTED, look.place, f"{evicted_n} keys; Redis does not tell which") if evicted_n else None
    if look.place != last.place:
        reason = REPLACED
    elif last.facts is not None and look.facts is not None and last.facts.run_id != look.facts.run_id:
        reason = RESTARTED
    else:
        reason = EVICTED if evicted_n else FLUSHED
    if look.name == last.name:
        seconds = (last.now_us - look.before_us) / 1_000_000
        return Forgot(reason, look.place, f"what was counted there in the last {seconds:.1f} s or more")
    return Forgot(reason, look.place, f"{evicted_n} keys; Redis does not tell which" if reason == EVICTED else _ALL)


def _evicted_since(last: Look, look: Look) -> int:
    """0 where it can't be told; CONFIG RESETSTAT makes the number smaller."""
    if last.facts is None or look.facts is None or last.facts.run_id != look.facts.run_id:
        return 0
    return max(0, look.facts.evicted_keys - last.facts.evicted_keys)


def facts(reply: object) -> Facts | None:
    """Of a reply to INFO; None for anything else."""
    if not isinstance(reply, bytes):
        return None
    lines = (line.partition(":") for line in reply.decode(errors="replace").splitlines())
    told = {name: value.strip() for name, colon, value in lines if colon}
    policy = told.get("maxmemory_policy", "noeviction")
    evicted, room = told.get("evicted_keys", ""), told.get("maxmemory", "")
    return Facts(
        run_id=told.get("run_id", "")[:40],
        evicted_keys=int(evicted) if evicted.isdecimal() else 0,
        maxmemory_policy=policy[:32],
        may_evict=policy != "noeviction" and room.isdecimal() and int(room) > 0,
    )


class Keeper(Protocol):
    """One Redis that has a keepsake: `keepsake` is its name there."""

    @property
    def keepsake(self) -> str: ...

    @property
    def place(self) -> str: ...

    @property
    def connection(self) -> RedisConnection | None: ...


class KeepsakeStore(Protocol):
    """Redis, one or many (`Link`, `Cluster`)."""

    def keepers(self) -> Sequence[Keeper]:
        """Those that should have one now; bounded."""


class Keepsakes:
    """Looks every LOOK_SECONDS, in one worker of the node: in another one as soon as that has ended. The first look of a
    worker only learns."""

    def __init__(self, *, store: KeepsakeStore, node: NodeMemory, observe: LimiterObserver) -> None:
        self._store = store
        self._node = node
        self._observe = observe
        self._task: asyncio.Task[None] | None = None
        self._watches = False
        self._looks: dict[str, Look] = {}
        self._counts = dict.fromkeys(REASONS, 0)
        self._last: Forgot | None = None
        self._last_at = 0.0
        self._refusal: str | None = None
        self._info_from = 0.0
        self._told_eviction_at: float | None = None
        self._told_may_evict = False

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._watch())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def status(self) -> dict[str, object]:
        """Only `watched_here` in workers that leave it to another one."""
        if not self._watches:
            return {"watched_here": False}
        last = None
        if self._last is not None:
            seconds = round(time.monotonic() - self._last_at, 1)
            last = {
                "reason": self._last.reason,
                "address": self._last.place,
                "lost": self._last.lost,
                "seconds_ago": seconds,
                "do": _DO[self._last.reason],
            }
        servers = [
            {
                "address": look.place,
                "evicted_keys": look.facts.evicted_keys,
                "maxmemory_policy": look.facts.maxmemory_policy,
                "may_evict": look.facts.may_evict,
            }
            for look in self._looks.values()
            if look.facts is not None
        ]
        return {
            "watched_here": True,
            "forgot": dict(self._counts),
            "last": last,
            "servers": servers,
            "not_told": self._refusal,
        }

    async def _watch(self) -> None:
        while True:
            if self._watches or self._node.claim_watch():
                self._watches = True
                await self._look_at_all()
            # Jitter, so that the nodes do not ask in the same moment.
            await asyncio.sleep(LOOK_SECONDS * random.uniform(0.7, 1.0))  # noqa: S311  no secret

    async def _look_at_all(self) -> None:
        keepers = self._store.keepers()
        await asyncio.gather(*(self._look(keeper) for keeper in keepers if keeper.connection is not None))
        # What moved to another name (slots of a cluster) is learnt anew.
        names = {keeper.keepsake for keeper in keepers}
        for name in [name for name in self._looks if name not in names]:
            del self._looks[name]

    async def _look(self, keeper: Keeper) -> None:
        connection, place = keeper.connection, keeper.place
        if connection is None:
            return
        asked: list[Command] = [("EVAL", _KEEPSAKE, 1, keeper.keepsake, secrets.token_hex(8), keyspace.KEEPSAKE_MS)]
        if time.monotonic() >= self._info_from:
            asked.append(("INFO",))
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                left, *told = await asyncio.gather(*map(connection.ask, asked), return_exceptions=True)
        except TimeoutError:
            return
        if told:
            self._refusal = str(told[0])[:200] if isinstance(told[0], ReplyRefused) else None
            if self._refusal is not None and self._refusal.startswith("NOPERM"):
                self._info_from = time.monotonic() + INFO_AGAIN_SECONDS
        if (look := _look_of(place, left, facts(told[0]) if told else None)) is not None:
            self._compare(keeper.keepsake, look)

    def _compare(self, name: str, look: Look) -> None:
        last, self._looks[name] = self._looks.get(name), look
        if look.facts is not None and look.facts.may_evict:
            self._tell_may_evict(look.place, look.facts.maxmemory_policy)
        if last is not None and (lost := forgot(last, look)) is not None:
            self._tell(lost)

    def _tell(self, lost: Forgot) -> None:
        now = time.monotonic()
        self._observe.store_forgot(lost.reason)
        self._counts[lost.reason] += 1
        self._last, self._last_at = lost, now
        if lost.reason == EVICTED:
            if self._told_eviction_at is not None and now - self._told_eviction_at < EVICTED_TOLD_SECONDS:
                return
            self._told_eviction_at = now
        fields = {"address": lost.place, "reason": lost.reason, "lost": lost.lost, "do": _DO[lost.reason]}
        log.error("redis_forgot", extra={"fields": fields})

    def _tell_may_evict(self, place: str, policy: str) -> None:
        if not self._told_may_evict:
            self._told_may_evict = True
            fields = {"address": place, "maxmemory_policy": policy, "do": _DO[EVICTED]}
            log.warning("redis_may_evict", extra={"fields": fields})


def _look_of(place: str, left: object, told: Facts | None) -> Look | None:
    """None where the keepsake could not be looked at: Redis refuses, or the connection has ended."""
    if not isinstance(left, list) or len(left) != 3:
        return None
    name, before_us, now_us = left
    if not isinstance(name, bytes) or not isinstance(before_us, int) or not isinstance(now_us, int):
        return None
    return Look(place, name, before_us, now_us, told)
