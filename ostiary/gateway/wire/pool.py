"""Connections to one target, kept between requests."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from typing import Final, cast

from ostiary.core.model import Target
from ostiary.gateway.signal import Signal, in_task

from .deadlines import Deadlines
from .upstream import UpstreamConnection

# Below the time after which usual servers (gunicorn 2 s apart) close an idle connection: nginx 75 s, Apache 5 s, Node 5 s,
# uvicorn 5 s. A kept connection that its server is just closing costs a retry, or a 502 for a POST.
IDLE_SECONDS: Final = 4.0
CONNECTIONS_MAX: Final = 4096
# All of them: a busy worker sends a turn's requests before it reads their answers, so it needs a connection for each. While
# 256 were kept, an overloaded worker made and closed the others with every turn, and served a quarter less.
IDLE_CONNECTIONS_MAX: Final = CONNECTIONS_MAX


def as_protocol(connection: object) -> asyncio.Protocol:
    """Event loops ask a protocol for its methods, not for its class. The connections have no base class, because one of the
    standard library would keep mypyc from making them native: their fields would be look-ups by name."""
    return cast(asyncio.Protocol, connection)


class ConnectFailed(Exception):
    """No connection to the target: refused, unknown name, certificate not good, or not in time. Nothing was sent."""


class TargetPool:
    """`in_flight` counts requests under way, for balancing. The connection used last is used first: a burst's connections
    then fall idle together and are closed."""

    def __init__(self, target: Target, *, connect_seconds: float, deadlines: Deadlines) -> None:
        self.target = target
        self.authority = target.authority.encode()
        self.healthy = True
        self.in_flight = 0
        self._connect_seconds = connect_seconds
        self._deadlines = deadlines
        self._idle: deque[UpstreamConnection] = deque()
        self._all: set[UpstreamConnection] = set()
        self._connecting = 0
        self._closed = False
        self._tls = ssl.create_default_context() if target.scheme == "https" else None

    @property
    def full(self) -> bool:
        return len(self._all) + self._connecting >= CONNECTIONS_MAX

    def take(self) -> UpstreamConnection | None:
        """A kept connection, or None."""
        idle = self._idle
        while idle:
            connection = idle.pop()
            if not connection.transport.is_closing():
                return connection
        return None

    def connect(self) -> Signal[UpstreamConnection]:
        """A fresh connection; the signal fails with ConnectFailed. If whoever waits goes away meanwhile, it is kept."""
        signal: Signal[UpstreamConnection] = Signal()

        async def deliver() -> None:
            try:
                connection = await self._connect()
            except ConnectFailed as error:
                signal.fail(error)
            else:
                if signal.awaited:
                    signal.set(connection)
                else:
                    self.give_back(connection)

        in_task(deliver())
        return signal

    async def _connect(self) -> UpstreamConnection:
        loop = asyncio.get_running_loop()
        target = self.target
        connection = UpstreamConnection(self, self._deadlines)
        self._connecting += 1
        try:
            async with asyncio.timeout(self._connect_seconds):
                await loop.create_connection(
                    lambda: as_protocol(connection),
                    target.host,
                    target.port,
                    ssl=self._tls,
                    server_hostname=target.host if self._tls else None,
                )
        except TimeoutError as error:
            raise ConnectFailed(f"no connection within {self._connect_seconds:g} s") from error
        except (OSError, ssl.SSLError, UnicodeError) as error:
            raise ConnectFailed(f"{type(error).__name__}: {error}") from error
        finally:
            self._connecting -= 1
        self._all.add(connection)
        return connection

    def give_back(self, connection: UpstreamConnection) -> None:
        if self._closed or len(self._idle) >= IDLE_CONNECTIONS_MAX or connection.transport.is_closing():
            self.discard(connection)
            connection.transport.close()
            return
        connection.deadline = self._deadlines.after(IDLE_SECONDS)
        self._idle.append(connection)

    def discard(self, connection: UpstreamConnection) -> None:
        self._all.discard(connection)
        if not connection.busy:
            try:
                self._idle.remove(connection)
            except ValueError:
                pass

    def close_idle(self) -> None:
        """Gives up the kept connections; the next requests make new ones."""
        while self._idle:
            self._idle.pop().transport.close()

    def close(self) -> None:
        """Closes what is idle; what is under way ends by itself and is then closed."""
        self._closed = True
        self.close_idle()
