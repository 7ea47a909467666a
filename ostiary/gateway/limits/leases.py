"""Calls under way that count in Redis: granted by lua/decide.lua, renewed from here, ended by ZREM or by themselves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol
from weakref import WeakSet

from ostiary.core import keyspace
from ostiary.gateway.limits import script
from ostiary.gateway.limits.connection import Command

# Keeps one renewal under a millisecond of Redis's time.
LEASES_PER_COMMAND = 500

# Ends that Redis has not heard of are told again so often, and at most so many are kept (some 300 bytes each); others end by
# themselves. While Redis is away a look at all of them takes a few milliseconds.
END_AGAIN_SECONDS = 0.5
ENDS_KEPT_MAX = 5000


class RedisLease:
    """A call under way. `name` is the sorted set it stands in; `others` are the same call in other sets, which go with it."""

    __slots__ = ("__weakref__", "ends_by", "member", "name", "others", "released")

    def __init__(self, name: str, member: str) -> None:
        self.name = name
        self.member = member
        self.others: tuple[RedisLease, ...] = ()
        self.released = False
        self.ends_by = 0.0  # of one whose end Redis has not heard of: when it has ended by itself (s, monotonic)


class LeaseStore(Protocol):
    """Redis, one or many (`Link`, `Cluster`)."""

    def place_of(self, name: str) -> int:
        """Names of the same place may stand in one command."""

    def tell(self, name: str, command: Command, not_done: Callable[[], None] | None = None) -> None:
        """Sends `command`, whose names are all of the place of `name`, to whoever holds it; nobody waits for a reply.
        `not_done`: it could not be sent, was refused, or the connection ended before the reply. What a failed command would
        have done happens by itself in time: leases end, or are renewed the next time."""


class Leases:
    """Renews what is alive. They are held weakly: a lease that its call dropped (the client left, a bug) is not renewed and
    frees its place within LEASE_SECONDS, as all leases of a worker do that was killed."""

    def __init__(self, store: LeaseStore) -> None:
        self._store = store
        self._alive: WeakSet[RedisLease] = WeakSet()
        self._timer: asyncio.TimerHandle | None = None
        # Ends that Redis has not heard of, and until when they matter.
        self._unended: dict[RedisLease, float] = {}
        self._retry: asyncio.TimerHandle | None = None
        self._closed = False

    def grant(self, names: Sequence[str], member: str) -> RedisLease:
        """A call that now stands in all of these sets, at least one."""
        lease, *others = [RedisLease(name, member) for name in names]
        lease.others = tuple(others)
        self._alive.add(lease)
        self._alive.update(others)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(keyspace.LEASE_RENEWAL_SECONDS, self._renew_later)
        return lease

    def release(self, lease: RedisLease) -> None:
        """While Redis is away its end is kept, and told when Redis is back: a caller whose calls ended meanwhile would be
        refused until their leases end by themselves."""
        if lease.released:
            return
        lease.released = True
        self._alive.discard(lease)
        self._end(lease)
        for other in lease.others:
            self.release(other)

    def _end(self, lease: RedisLease) -> None:
        self._store.tell(lease.name, ("ZREM", lease.name, lease.member), partial(self._keep_end, lease))

    def _keep_end(self, lease: RedisLease) -> None:
        """Ending one twice does no harm: nobody else has its member."""
        if self._closed or lease in self._unended or len(self._unended) >= ENDS_KEPT_MAX:
            return
        self._unended[lease] = lease.ends_by or time.monotonic() + keyspace.LEASE_SECONDS
        if self._retry is None:
            self._retry = asyncio.get_running_loop().call_later(END_AGAIN_SECONDS, self._end_again)

    def _end_again(self) -> None:
        self._retry = None
        unended, self._unended = self._unended, {}
        now = time.monotonic()
        for lease, ends_by in unended.items():
            if ends_by > now:
                lease.ends_by = ends_by
                self._end(lease)

    def renew(self) -> None:
        """All leases count for another LEASE_SECONDS from now."""
        places: dict[int, list[RedisLease]] = {}
        for lease in list(self._alive):
            places.setdefault(self._store.place_of(lease.name), []).append(lease)
        life_us = keyspace.LEASE_SECONDS * 1_000_000
        for leases in places.values():
            for first in range(0, len(leases), LEASES_PER_COMMAND):
                some = leases[first : first + LEASES_PER_COMMAND]
                names = [lease.name for lease in some]
                members = [lease.member for lease in some]
                self._store.tell(names[0], ("EVAL", script.RENEW, len(some), *names, life_us, *members))

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        self._closed = True

    def _renew_later(self) -> None:
        self._timer = None
        if self._alive:
            self.renew()
            self._timer = asyncio.get_running_loop().call_later(keyspace.LEASE_RENEWAL_SECONDS, self._renew_later)
