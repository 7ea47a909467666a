"""Connections to one target, kept between requests."""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from typing import Final, cast

from ostiary.core.upstream import Connections, Target
from ostiary.gateway.signal import Signal, in_task

from .deadlines import SWEEP_SECONDS, Deadlines
from .dialing import ConnectFailed, Dialer
from .upstream import UpstreamConnection

# Below the time after which usual servers (gunicorn 2 s apart) close an idle connection: nginx 75 s, Apache 5 s, Node 5 s,
# uvicorn 5 s. A kept connection that its server is just closing costs a retry, or a 502 for a POST.
IDLE_SECONDS: Final = 4.0
# All of them: a busy worker sends a turn's requests before it reads their answers, so it needs a connection for each. While
# 256 were kept, an overloaded worker made and closed the others with every turn, and served a quarter less.
IDLE_CONNECTIONS_MAX: Final = 4096
# Connections that are being made to a target at once; further calls wait for one of these, or for one that is given back,
# whichever comes first. Without the bound a burst of 2 000 calls made 2 000 connections, took so long over it that the last
# of them missed their deadline, and used most of them once.
CONNECTING_MAX: Final = 64


def as_protocol(connection: object) -> asyncio.Protocol:
    """Event loops ask a protocol for its methods, not for its class. The connections have no base class, because one of the
    standard library would keep mypyc from making them native: their fields would be look-ups by name."""
    return cast(asyncio.Protocol, connection)


class NoConnection(Exception):
    """No connection came free in time."""


class Waiter:
    """A call that waits for a connection. `turn` gets one, or fails with ConnectFailed or NoConnection.

    Its time is over when it has passed, and the loop has come round as often as it does in that time. In a turn that lasts,
    as the first of a burst do, connections are made and given back that nobody has looked at."""

    __slots__ = ("_deadlines", "_last_sweep", "_pool", "deadline", "turn")

    def __init__(self, pool: TargetPool, deadlines: Deadlines, seconds: float) -> None:
        self._pool = pool
        self._deadlines = deadlines
        self._last_sweep = deadlines.sweeps + math.ceil(seconds / SWEEP_SECONDS)
        self.deadline = deadlines.after(seconds)
        self.turn: Signal[UpstreamConnection] = Signal()

    def on_deadline(self) -> None:
        if self._deadlines.sweeps >= self._last_sweep:
            self._pool.give_up(self)


class TargetPool:
    """`in_flight` counts requests under way, for balancing. The connection used last is used first: a burst's connections
    then fall idle together and are closed."""

    def __init__(
        self,
        target: Target,
        *,
        dialer: Dialer,
        deadlines: Deadlines,
        connections: Connections = Connections(),  # noqa: B008  a frozen value
    ) -> None:
        self.target = target
        self.authority = target.authority.encode()
        self.in_flight = 0
        self.dialer = dialer
        self._bounds = connections
        self._waiters: OrderedDict[Waiter, None] = OrderedDict()
        self._deadlines = deadlines
        # As a stack, of which any may be taken out: thousands fall idle together, and are closed together.
        self._idle: dict[UpstreamConnection, None] = {}
        self._all: set[UpstreamConnection] = set()
        self._connecting = 0
        self._closed = False

    @property
    def full(self) -> bool:
        """All connections are in use, and there may be no more of them."""
        return not self._idle and len(self._all) + self._connecting >= self._bounds.at_most

    @property
    def must_wait(self) -> bool:
        """A call that has no kept connection can't make a new one at this moment."""
        return self._connecting >= CONNECTING_MAX or self.full

    @property
    def waiting(self) -> int:
        return len(self._waiters)

    def take(self) -> UpstreamConnection | None:
        """A kept connection, or None."""
        idle = self._idle
        while idle:
            connection, _ = idle.popitem()
            if not connection.transport.is_closing():
                return connection
        return None

    def obtain(self) -> Signal[UpstreamConnection] | None:
        """A connection for one more call: one that is made, or one that is given back before that is done. The signal fails
        with ConnectFailed, or NoConnection. None when too many wait already."""
        dials = not self.must_wait
        if not dials and not self._may_wait():
            return None
        seconds = self._bounds.wait_seconds + (self.dialer.seconds if dials else 0.0)
        waiter = Waiter(self, self._deadlines, seconds)
        self._waiters[waiter] = None
        self._deadlines.watch(waiter)
        if dials:
            self._dial()
        return waiter.turn

    def connect(self) -> Signal[UpstreamConnection]:
        """A connection that was never used; the signal fails with ConnectFailed. For a call that met a stale one. If its
        client goes away meanwhile, the connection is kept."""
        signal: Signal[UpstreamConnection] = Signal()
        self._connecting += 1

        async def deliver() -> None:
            try:
                connection = await self._made()
            except ConnectFailed as error:
                signal.fail(error)
            else:
                if signal.awaited:
                    signal.set(connection)
                else:
                    self.give_back(connection)

        in_task(deliver())
        return signal

    def _dial(self) -> None:
        """Makes a connection for whoever waits longest when it is there; its failure is that one's, too."""
        self._connecting += 1  # at once: of many calls in one turn of the loop, each must see those before it

        async def dial() -> None:
            try:
                connection = await self._made()
            except ConnectFailed as error:
                if (waiter := self._next_waiter()) is not None:
                    waiter.turn.fail(error)
                self._dial_on()
            else:
                self.give_back(connection)

        in_task(dial())

    async def _made(self) -> UpstreamConnection:
        connection = UpstreamConnection(self, self._deadlines)
        try:
            await self.dialer.connect(lambda: as_protocol(connection))
        finally:
            self._connecting -= 1
        self._all.add(connection)
        return connection

    def give_back(self, connection: UpstreamConnection) -> None:
        if connection.transport.is_closing():
            self.discard(connection)
            return
        waiter = self._next_waiter()
        if waiter is not None:
            waiter.turn.set(connection)
        elif self._closed or len(self._idle) >= IDLE_CONNECTIONS_MAX:
            self.discard(connection)
            connection.transport.close()
        else:
            connection.deadline = self._deadlines.after(IDLE_SECONDS)
            self._idle[connection] = None
        if self._waiters:
            self._dial_on()

    def discard(self, connection: UpstreamConnection) -> None:
        self._all.discard(connection)
        self._idle.pop(connection, None)
        if self._waiters:
            self._dial_on()

    # --- waiting for one

    def _may_wait(self) -> bool:
        """Whether one more call may wait. While only the making of connections is what they wait for, as many may as there
        may be connections."""
        waiting_max = self._bounds.waiting if self.full else self._bounds.at_most
        if len(self._waiters) >= waiting_max:
            for waiter in [each for each in self._waiters if not each.turn.awaited]:
                self._forget(waiter)
        return len(self._waiters) < waiting_max

    def _next_waiter(self) -> Waiter | None:
        """Who waits longest, and is still there."""
        while self._waiters:
            waiter, _ = self._waiters.popitem(last=False)
            self._deadlines.forget(waiter)
            if waiter.turn.awaited:
                return waiter
        return None

    def give_up(self, waiter: Waiter) -> None:
        """Its time is over."""
        self._forget(waiter)
        waiter.turn.fail(NoConnection(f"no connection came free within {self._bounds.wait_seconds:g} s"))

    def _forget(self, waiter: Waiter) -> None:
        self._deadlines.forget(waiter)
        self._waiters.pop(waiter, None)

    def _dial_on(self) -> None:
        """There may be room for more connections."""
        while len(self._waiters) > self._connecting and not self.must_wait:
            self._dial()

    def close_idle(self) -> None:
        """Gives up the kept connections; the next requests make new ones."""
        while self._idle:
            self._idle.popitem()[0].transport.close()

    def close(self) -> None:
        """Closes what is idle; what is under way ends by itself and is then closed."""
        self._closed = True
        self.close_idle()
