"""Connections without sockets: an event loop whose connections lead to an origin in memory, and the transports for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol, cast


class Peer(Protocol):
    """Who reads what a transport writes."""

    def take(self, data: bytes) -> None: ...

    def gone(self) -> None: ...


class MemoryTransport(asyncio.Transport):
    """Hands what is written to its peer, keeps what arrives while reading is paused, and tells its protocol of the end a
    turn of the loop later, as sockets do. `moves` counts all that happens, so that one can see that nothing more does."""

    def __init__(self, protocol: asyncio.Protocol, peer: Peer, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__({"peername": ("127.0.0.1", 50000)})
        self._protocol = protocol
        self._peer = peer
        self._loop = loop
        self._arrived: list[bytes] = []
        self._paused = False
        self._eof_arrived = False
        self.closing = False
        self.aborted = False
        self.ended = False  # write_eof
        self.moves = 0

    # --- what the gateway calls

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self.closing or self.ended:
            raise AssertionError("written after the end")
        self.moves += 1
        self._peer.take(bytes(data))

    def write_eof(self) -> None:
        self.moves += 1
        self.ended = True

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        if not self.closing:
            self.closing = True
            self.moves += 1
            self._peer.gone()
            self._loop.call_soon(self._protocol.connection_lost, None)

    def abort(self) -> None:
        self.aborted = True
        self.close()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        if self._paused:
            self._paused = False
            self.moves += 1
            self._loop.call_soon(self._deliver)

    # --- what the peer calls

    def arrive(self, data: bytes) -> None:
        self._arrived.append(data)
        self._deliver()

    def arrive_unless_closed(self, data: bytes) -> None:
        if not self.closing:
            self.arrive(data)

    def arrive_eof(self) -> None:
        self._eof_arrived = True
        self._deliver()

    def reset(self) -> None:
        """The peer ends the connection at once."""
        if not self.closing:
            self.closing = True
            self._protocol.connection_lost(ConnectionResetError())

    def _deliver(self) -> None:
        while self._arrived and not self._paused and not self.closing:
            self.moves += 1
            self._protocol.data_received(self._arrived.pop(0))
        if self._eof_arrived and not self._arrived and not self._paused and not self.closing:
            self._eof_arrived = False
            if not self._protocol.eof_received():
                self.close()


class MemoryLoop(asyncio.SelectorEventLoop):
    """What the gateway takes for unix sockets leads to `accept`, which gives the peer for a new transport."""

    accept: Callable[[], Any]

    async def create_unix_connection(self, protocol_factory: Any, *_: Any, **__: Any) -> Any:
        protocol = protocol_factory()
        peer = self.accept()
        transport = MemoryTransport(cast(asyncio.Protocol, protocol), peer, self)
        peer.transport = transport
        protocol.connection_made(transport)
        return transport, protocol
