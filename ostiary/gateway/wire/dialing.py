"""Connections to one target: name, addresses, TCP or unix socket, TLS. Each step is told apart when it takes too long.

Names are looked up for every connection: a service that moves is followed as soon as its name is, and no cache of ours has
to be told. All addresses are tried, the next when one fails or does not answer for a moment (RFC 8305), so that a dead one
costs `STAGGER_SECONDS` and no error. Event loops have that too, but not uvloop."""

from __future__ import annotations

import asyncio
import itertools
import socket
import ssl
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

from ostiary.core.upstream import UNIX, Target

from .resolver import Address, Resolver

# RFC 8305 §5 recommends 250 ms between two attempts.
STAGGER_SECONDS: Final = 0.25
# Of one name; more would not be reached within a usual time to connect. Each holds a descriptor.
ADDRESSES_MAX: Final = 16
# A time to connect is counted in so many parts, each of which begins when the loop has come round to the end of the one
# before it. Making a connection takes several turns of the loop; where these are late themselves, as the first of a burst
# are, it is not the target that took too long.
PARTS: Final = 16
# How long the other side may take to answer the end of TLS; the call is over, only a descriptor waits.
TLS_SHUTDOWN_SECONDS: Final = 2.0


class ConnectFailed(Exception):
    """No connection to the target: refused, unknown name, certificate not good, or not in time. Nothing was sent."""


class ConnectTimedOut(ConnectFailed):
    """Nobody answered in time; the text names the step."""


def refused_in_handshake(error: Exception | None) -> ConnectFailed | None:
    """With TLS 1.3 a server judges our certificate when we take the handshake for finished, and a request may be written: the
    refusal ends the connection, and nobody has read that request."""
    reason = error.reason if isinstance(error, ssl.SSLError) else None
    if reason is None or "ALERT" not in reason or not ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason):
        return None
    return ConnectFailed(f"it refused the gateway's certificate, or the lack of one: {reason}")


class Dialer:
    """`tls` is None for targets that speak plain HTTP."""

    def __init__(
        self, target: Target, *, seconds: float, resolver: Resolver, tls: ssl.SSLContext | None = None
    ) -> None:
        self._target = target
        self.seconds = seconds
        self._resolver = resolver
        self._tls = tls
        self._server_name: str | None = None
        if tls is not None:
            own = target.tls.server_name if target.tls is not None else None
            self._server_name = own if own is not None else target.host
        self._turns = itertools.count()

    async def connect(self, protocol: Callable[[], asyncio.Protocol], *, seconds: float | None = None) -> None:
        """Makes one connection with one protocol; TLS is up when this returns. Within `seconds`, the target's own if not
        given. Raises ConnectFailed."""
        step = _Step("looking the name up")
        limit = self.seconds if seconds is None else seconds
        try:
            async with asyncio.timeout(None) as timeout:
                clock = _Clock(timeout, limit)
                try:
                    await self._step_by_step(protocol, step)
                finally:
                    clock.stop()
        except TimeoutError as timeout:
            raise ConnectTimedOut(f"no connection within {limit:g} s, while {step.name}") from timeout
        except ssl.SSLCertVerificationError as refusal:
            raise ConnectFailed(f"certificate refused: {refusal.verify_message}") from refusal
        except (OSError, UnicodeError) as error:
            raise ConnectFailed(f"{type(error).__name__} while {step.name}: {error}") from error

    async def _step_by_step(self, protocol: Callable[[], asyncio.Protocol], step: _Step) -> None:
        if self._target.scheme == UNIX:
            step.name = "connecting"
            await asyncio.get_running_loop().create_unix_connection(protocol, self._target.host)
        else:
            await self._over_tcp(protocol, step)

    async def _over_tcp(self, protocol: Callable[[], asyncio.Protocol], step: _Step) -> None:
        found = await self._resolver.addresses(self._target.host)
        step.name = "connecting"
        port = self._target.port
        loop = asyncio.get_running_loop()
        if len(found) == 1 and self._tls is None:
            # The usual case, in a third of the turns of the loop: when those are late, as in a burst of connections, what
            # takes many of them is not done in time.
            await loop.create_connection(protocol, found[0].host, port)
            return
        attempts = [_attempt(address, port) for address in in_turn(found, next(self._turns))[:ADDRESSES_MAX]]
        sock = await first_of(attempts, stagger_seconds=STAGGER_SECONDS)
        try:
            if self._tls is None:
                await loop.create_connection(protocol, sock=sock)
            else:
                step.name = "in the TLS handshake"
                await loop.create_connection(
                    protocol,
                    sock=sock,
                    ssl=self._tls,
                    server_hostname=self._server_name,
                    ssl_shutdown_timeout=TLS_SHUTDOWN_SECONDS,
                )
        except BaseException:
            sock.close()
            raise


class _Clock:
    """Lets a timeout be over after `seconds`, in `PARTS`."""

    def __init__(self, timeout: asyncio.Timeout, seconds: float) -> None:
        self._timeout = timeout
        self._part_seconds = seconds / PARTS
        self._left = PARTS
        self._loop = asyncio.get_running_loop()
        self._next()

    def _next(self) -> None:
        if self._left:
            self._left -= 1
            self._timer = self._loop.call_later(self._part_seconds, self._next)
        else:
            self._timeout.reschedule(self._loop.time())

    def stop(self) -> None:
        self._timer.cancel()


class _Step:
    """What a connection is waiting for, in words."""

    def __init__(self, name: str) -> None:
        self.name = name


def in_turn(addresses: Sequence[Address], turn: int) -> list[Address]:
    """The order of the attempts: each family's addresses begin with another one every turn, so that they share the load
    whatever order the system gives; the families alternate, that of the first address first (RFC 8305 §4)."""
    families: dict[int, list[Address]] = {}
    for address in addresses:
        families.setdefault(address.family, []).append(address)
    turned = [each[turn % len(each) :] + each[: turn % len(each)] for each in families.values()]
    return [address for row in itertools.zip_longest(*turned) for address in row if address is not None]


async def _attempt(address: Address, port: int) -> socket.socket:
    sock = socket.socket(address.family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (address.host, port))
    except BaseException:
        sock.close()
        raise
    return sock


async def first_of(attempts: Sequence[Coroutine[Any, Any, socket.socket]], *, stagger_seconds: float) -> socket.socket:
    """The first connection that is there. An attempt begins when the one before it fails, or after the pause. Those that are
    not needed any more are ended. Raises the error of the first attempt when all have failed."""
    waiting = list(reversed(attempts))
    running: set[asyncio.Task[socket.socket]] = set()
    errors: list[BaseException] = []
    try:
        while waiting or running:
            if waiting:
                running.add(asyncio.create_task(waiting.pop()))
            pause = stagger_seconds if waiting else None
            done, running = await asyncio.wait(running, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
            connected = [task.result() for task in done if task.exception() is None]
            for other in connected[1:]:
                other.close()
            if connected:
                return connected[0]
            errors += [error for task in done if (error := task.exception()) is not None]
        raise errors[0]
    finally:
        for attempt in waiting:
            attempt.close()
        for task in running:
            task.cancel()
            task.add_done_callback(_drop)


def _drop(task: asyncio.Task[socket.socket]) -> None:
    """An attempt that was ended may have come through in that very moment."""
    if not task.cancelled() and task.exception() is None:
        task.result().close()
