"""Accepting connections, and not accepting them while descriptors are short.

At the limit of descriptors libuv accepts and closes at once whoever comes, and connections to upstreams, Redis and Postgres
fail as well: the clients have taken all. So a worker stops before: who comes then waits in the kernel's queue, at no cost,
and is served as soon as there is room."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Final

# The process itself (log, channel, loop, counters, spool: 20), Redis and Postgres (4), health checks, a reload, and what is
# accepted between two looks.
RESERVED_DESCRIPTORS: Final = 64


def connections_that_fit(descriptors_max: int) -> int:
    """How many clients a worker can have: each may need a connection to an upstream as well."""
    return max(1, (descriptors_max - RESERVED_DESCRIPTORS) // 2)


def descriptors_are_short(descriptors_max: int) -> bool:
    """Whether fewer than half of the reserve are left, whoever has taken the others: handshakes under way, connections kept
    to upstreams. The kernel gives the lowest number that is free, so asking for one tells that all below are taken."""
    try:
        lowest_free = os.dup(0)
    except OSError:
        return True
    os.close(lowest_free)
    return lowest_free >= descriptors_max - RESERVED_DESCRIPTORS // 2


class Accepting:
    """Owns a listening socket. Event loops know no pause, but closing their server closes only the socket that it was given:
    that is a duplicate, and the original keeps the queue, so nobody who waits in it is lost."""

    def __init__(self, sock: socket.socket, *, factory: Callable[[], asyncio.Protocol], backlog: int) -> None:
        self._sock = sock
        self._factory = factory
        self._backlog = backlog
        self._server: asyncio.Server | None = None
        self._resuming: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def paused(self) -> bool:
        return self._server is None and self._resuming is None

    async def start(self) -> None:
        self._server = await asyncio.get_running_loop().create_server(
            self._factory, sock=self._sock.dup(), backlog=self._backlog
        )

    def pause(self) -> bool:
        """False if it is paused already, or about to resume."""
        if self._server is None:
            return False
        self._server.close()
        self._server = None
        return True

    def resume(self) -> None:
        if self.paused and not self._closed:
            self._resuming = asyncio.get_running_loop().create_task(self._resume())

    async def _resume(self) -> None:
        try:
            await self.start()
        except OSError:  # no descriptor for the duplicate after all: it stays paused, and the next look tries again
            pass
        finally:
            self._resuming = None
        if self._closed:
            self.pause()

    def close(self) -> None:
        """Ends for good; whoever waits in the queue is reset."""
        self._closed = True
        self.pause()
        self._sock.close()
