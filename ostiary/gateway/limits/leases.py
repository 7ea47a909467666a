"""Calls under way that count in Redis: granted by lua/decide.lua, renewed from here, ended by ZREM or by themselves."""

from __future__ import annotations

import asyncio
from weakref import WeakSet

from ostiary.core import keyspace
from ostiary.gateway.limits import script
from ostiary.gateway.limits.link import Link

# Keeps one renewal under a millisecond of Redis's time.
LEASES_PER_COMMAND = 500


class RedisLease:
    """A call under way. `name` is the sorted set it stands in."""

    __slots__ = ("__weakref__", "member", "name", "released")

    def __init__(self, name: str, member: str) -> None:
        self.name = name
        self.member = member
        self.released = False


class Leases:
    """Renews what is alive. They are held weakly: a lease that its call dropped (the client left, a bug) is not renewed and
    frees its place within LEASE_SECONDS, as all leases of a worker do that was killed."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._alive: WeakSet[RedisLease] = WeakSet()
        self._timer: asyncio.TimerHandle | None = None

    def grant(self, name: str, member: str) -> RedisLease:
        lease = RedisLease(name, member)
        self._alive.add(lease)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(keyspace.LEASE_RENEWAL_SECONDS, self._renew_later)
        return lease

    def release(self, lease: RedisLease) -> None:
        """While Redis is away nothing is sent, and the lease ends by itself."""
        if lease.released:
            return
        lease.released = True
        self._alive.discard(lease)
        if (connection := self._link.connection) is not None:
            connection.send(("ZREM", lease.name, lease.member), _nothing)

    def renew(self) -> None:
        """All leases count for another LEASE_SECONDS from now."""
        leases = list(self._alive)
        for first in range(0, len(leases), LEASES_PER_COMMAND):
            if (connection := self._link.connection) is None:
                return
            some = leases[first : first + LEASES_PER_COMMAND]
            names = [lease.name for lease in some]
            members = [lease.member for lease in some]
            life_us = keyspace.LEASE_SECONDS * 1_000_000
            connection.send(("EVAL", script.RENEW, len(some), *names, life_us, *members), _nothing)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _renew_later(self) -> None:
        self._timer = None
        if self._alive:
            self.renew()
            self._timer = asyncio.get_running_loop().call_later(keyspace.LEASE_RENEWAL_SECONDS, self._renew_later)


def _nothing(reply: object) -> None:
    """What a failed command would have done happens by itself in time: leases end, or are renewed the next time."""
