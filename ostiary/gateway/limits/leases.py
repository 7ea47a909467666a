"""Calls under way that count in Redis: granted by lua/decide.lua, renewed from here, ended by ZREM or by themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol
from weakref import WeakSet

from ostiary.core import keyspace
from ostiary.gateway.limits import script
from ostiary.gateway.limits.connection import Command

# Keeps one renewal under a millisecond of Redis's time.
LEASES_PER_COMMAND = 500


class RedisLease:
    """A call under way. `name` is the sorted set it stands in; `others` are the same call in other sets, which go with it."""

    __slots__ = ("__weakref__", "member", "name", "others", "released")

    def __init__(self, name: str, member: str) -> None:
        self.name = name
        self.member = member
        self.others: tuple[RedisLease, ...] = ()
        self.released = False


class LeaseStore(Protocol):
    """Redis, one or many (`Link`, `Cluster`)."""

    def place_of(self, name: str) -> int:
        """Names of the same place may stand in one command."""

    def tell(self, name: str, command: Command) -> None:
        """Sends `command`, whose names are all of the place of `name`, to whoever holds it; nobody waits for a reply, and
        while Redis is away nothing is sent. What a failed command would have done happens by itself in time: leases end, or
        are renewed the next time."""


class Leases:
    """Renews what is alive. They are held weakly: a lease that its call dropped (the client left, a bug) is not renewed and
    frees its place within LEASE_SECONDS, as all leases of a worker do that was killed."""

    def __init__(self, store: LeaseStore) -> None:
        self._store = store
        self._alive: WeakSet[RedisLease] = WeakSet()
        self._timer: asyncio.TimerHandle | None = None

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
        """While Redis is away nothing is sent, and the lease ends by itself."""
        if lease.released:
            return
        lease.released = True
        self._alive.discard(lease)
        self._store.tell(lease.name, ("ZREM", lease.name, lease.member))
        for other in lease.others:
            self.release(other)

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

    def _renew_later(self) -> None:
        self._timer = None
        if self._alive:
            self.renew()
            self._timer = asyncio.get_running_loop().call_later(keyspace.LEASE_RENEWAL_SECONDS, self._renew_later)
