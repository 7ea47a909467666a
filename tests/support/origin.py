"""An upstream that records every byte, lets h11 judge it, and answers what the test wants."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import h11

OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"

HEAD_BYTES_MAX = 1 << 20  # tests send longer heads than h11 takes by itself


@dataclass
class Seen:
    """One request as h11 read it. `connection` numbers the connection it came on."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes
    connection: int

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name.lower()]

    def one(self, name: str) -> str:
        (value,) = self.all(name)
        return value


Answer = Callable[[Seen, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def answer_ok(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(OK)


def answer_with(data: bytes, *, close: bool = False, reset: bool = False) -> Answer:
    """Answers every request with `data`, then closes or resets the connection if asked."""

    async def answer(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        if reset:
            writer.transport.abort()
        elif close:
            writer.close()

    return answer


@dataclass
class Origin:
    """`seen` are whole requests, `raw` every byte of each connection, `garbled` what h11 would not take."""

    port: int = 0
    answer: Answer = answer_ok
    seen: list[Seen] = field(default_factory=list)
    raw: list[bytearray] = field(default_factory=list)
    garbled: list[str] = field(default_factory=list)
    serving: set[asyncio.Task[None]] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.serving.add(task)
        task.add_done_callback(self.serving.discard)
        number = len(self.raw)
        raw = bytearray()
        self.raw.append(raw)
        judge = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES_MAX)
        try:
            while True:
                seen = await self._read(judge, reader, raw, number)
                if seen is None:
                    return
                self.seen.append(seen)
                await self.answer(seen, reader, writer)
                await writer.drain()
                if writer.is_closing():
                    return
                judge = _next(judge)
        except h11.RemoteProtocolError as error:
            if raw:
                self.garbled.append(str(error))
        except ConnectionError:
            return
        finally:
            writer.close()

    async def _read(
        self, judge: h11.Connection, reader: asyncio.StreamReader, raw: bytearray, number: int
    ) -> Seen | None:
        request: h11.Request | None = None
        body = bytearray()
        while True:
            event = judge.next_event()
            if event is h11.NEED_DATA:
                data = await reader.read(65536)
                raw += data
                if not data and request is None and not judge.trailing_data[0]:
                    return None
                judge.receive_data(data)
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                assert request is not None
                return Seen(
                    method=request.method.decode(),
                    target=request.target.decode(),
                    headers=[(name.decode(), value.decode("latin-1")) for name, value in request.headers],
                    body=bytes(body),
                    connection=number,
                )
            else:
                return None


def _next(judge: h11.Connection) -> h11.Connection:
    """A judge for the next request of the connection, with the bytes that came early."""
    fresh = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES_MAX)
    fresh.receive_data(judge.trailing_data[0]) if judge.trailing_data[0] else None
    return fresh


@asynccontextmanager
async def running_origin(answer: Answer = answer_ok, *, port: int = 0) -> AsyncIterator[Origin]:
    """On a free port, or on `port`, which the test holds by a socket that is bound with SO_REUSEPORT."""
    origin = Origin(answer=answer)
    server = await asyncio.start_server(origin.serve, "127.0.0.1", port, reuse_port=port != 0)
    origin.port = server.sockets[0].getsockname()[1]
    try:
        yield origin
    finally:
        server.close()
        # Else those that still read would end when their loop is gone.
        for task in list(origin.serving):
            task.cancel()
        await asyncio.gather(*origin.serving, return_exceptions=True)
