"""What the connections of clients need of the gateway around them (`service.py` is it)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from ostiary.core.errors import GatewayError
    from ostiary.core.model import ClientLimits
    from ostiary.gateway.exchange import Exchange
    from ostiary.gateway.snapshot import Snapshot

    from .client import ClientConnection
    from .deadlines import Deadlines
    from .handshake import Handshake
    from .room import Room


class RequestPath(Protocol):
    """Of a connection that is served."""

    limits: ClientLimits
    deadlines: Deadlines
    connections: set[ClientConnection]
    room: Room
    connections_max: int  # at which `on_full` is called
    draining: bool
    snapshot: Snapshot  # what a request that begins now begins under
    clock: Callable[[], float]
    shut: bool  # no new connection is served

    def on_full(self) -> None:
        """There are as many connections as descriptors allow."""
        ...

    async def handle(self, exchange: Exchange) -> None: ...

    def refuse(self, client: ClientConnection, error: GatewayError, *, bodiless: bool) -> bytes:
        """The answer to a head that could not be parsed, without a body if it asks for none (HEAD); counts it."""
        ...


class HandshakePath(RequestPath, Protocol):
    """Of one that is still in its TLS handshake."""

    handshakes: set[Handshake]

    def shaken(self, result: str) -> None:
        """Counts a handshake: ok, failed or timeout."""
        ...
