"""A whole request through the gateway without sockets: every line of Python of the path, neither event loop nor kernel.

The gateway is the real one; its two transports are memory. Only a request that waits for nothing but its upstream can go
this way, so it is the anonymous one of scenario `plain`."""

from __future__ import annotations

import asyncio

from ostiary.gateway.service import Gateway
from ostiary.gateway.wire.client import ClientConnection
from ostiary.gateway.wire.pool import TargetPool
from ostiary.gateway.wire.upstream import UpstreamConnection


class MemoryTransport(asyncio.Transport):
    """Takes what is written and keeps the last of it. Its peer reads everything at once, so nothing ever stalls."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 50000)})
        self.written = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written = bytes(data)

    def is_closing(self) -> bool:
        return False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def close(self) -> None:
        pass

    def abort(self) -> None:
        pass


class MemoryPath:
    """One client connection, and one kept connection to the upstream, of a gateway with a single target."""

    def __init__(self, gateway: Gateway, pool: TargetPool, *, request: bytes, answer: bytes) -> None:
        self._request = request
        self._answer = answer
        self.client_side, self.upstream_side = MemoryTransport(), MemoryTransport()
        self._client = ClientConnection(gateway)
        self._client.connection_made(self.client_side)
        self._upstream = UpstreamConnection(pool, gateway.deadlines)
        self._upstream.connection_made(self.upstream_side)
        pool.give_back(self._upstream)

    def call(self) -> None:
        """A request arrives, and goes to the upstream; the answer arrives, and goes to the client."""
        self._client.data_received(self._request)
        self._upstream.data_received(self._answer)
