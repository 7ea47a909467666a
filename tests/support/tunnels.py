"""Both ends of a tunnel, in the hands of one test: a client that asks for WebSocket, and the upstream that grants it."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="  # the sample of RFC 6455 §1.3, and its answer
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
GRANTED = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: "
    + ACCEPT
    + b"\r\n\r\n"
)


def upgrade_request(*lines: bytes, target: bytes = b"/ws") -> bytes:
    head = (
        b"GET " + target + b" HTTP/1.1",
        b"Host: api.test",
        b"Connection: keep-alive, Upgrade",
        b"Upgrade: websocket",
        b"Sec-WebSocket-Key: " + KEY,
        b"Sec-WebSocket-Version: 13",
        *lines,
    )
    return b"\r\n".join(head) + b"\r\n\r\n"


@dataclass
class End:
    """One end of a connection. Every wait is bounded."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def read_head(self) -> bytes:
        return await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 5)

    async def read(self, count: int) -> bytes:
        return await asyncio.wait_for(self.reader.readexactly(count), 5)

    async def read_rest(self) -> bytes:
        """Up to the FIN. A reset raises ConnectionResetError."""
        return await asyncio.wait_for(self.reader.read(-1), 5)

    def reset(self) -> None:
        """Ends the connection as a process that has crashed."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


@dataclass
class TunnelOrigin:
    """Answers each request with `answer` and leaves the connection to the test. `heads` are the requests that came."""

    port: int = 0
    answer: bytes = GRANTED
    heads: list[bytes] = field(default_factory=list)
    ends: asyncio.Queue[End] = field(default_factory=asyncio.Queue)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.heads.append(await reader.readuntil(b"\r\n\r\n"))
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        writer.write(self.answer)
        await writer.drain()
        self.ends.put_nowait(End(reader, writer))

    async def end(self) -> End:
        return await asyncio.wait_for(self.ends.get(), 5)


@asynccontextmanager
async def tunnel_origin(answer: bytes = GRANTED) -> AsyncIterator[TunnelOrigin]:
    origin = TunnelOrigin(answer=answer)
    server = await asyncio.start_server(origin.serve, "127.0.0.1", 0)
    origin.port = server.sockets[0].getsockname()[1]
    try:
        yield origin
    finally:
        server.close()


async def connect(port: int, data: bytes = b"") -> End:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    return End(reader, writer)
