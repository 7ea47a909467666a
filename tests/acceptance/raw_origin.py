"""An upstream of a few lines, without a library between it and the bytes: `python -m tests.acceptance.raw_origin PORT_FILE`.

POST /raw/echo?frame=length|chunked|close   the body back, and the request's head as it came, in base64, in X-Head
GET  /raw/source?bytes=N&frame=...          N bytes of the pattern
POST /raw/sink                              {"bytes": N, "crc32": C} of the body; X-Hold: 1 reads no more than its
                                            first part until /raw/release
GET  /raw/release                           lets what is held go on
GET  /raw/sent                              {"sent": N, "open": N}: bytes of sources that were given to the system,
                                            sources still being sent
GET  /raw/log                               {id: count} of the requests that had an id"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from zlib import crc32

import uvloop

PATTERN = random.Random(94).randbytes(1 << 20)
PIECE_BYTES = 256 * 1024


class RawOrigin:
    def __init__(self) -> None:
        self.log: Counter[str] = Counter()
        self.sent = 0
        self.open_sources = 0
        self.released = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await self._answer(head, reader, writer)
                if writer.is_closing():
                    return
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()

    async def _answer(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first, *lines = head[:-4].split(b"\r\n")
        target = urlsplit(first.split(b" ")[1].decode())
        headers = {
            name.lower().decode(): value.strip().decode() for name, _, value in (line.partition(b":") for line in lines)
        }
        if "x-request-id" in headers:
            self.log[headers["x-request-id"]] += 1
        query = {name: values[0] for name, values in parse_qs(target.query).items()}
        body = read_body(reader, headers)
        if target.path == "/raw/source":
            await self._source(writer, int(query["bytes"]), query.get("frame", "length"))
            return
        if target.path == "/raw/sink":
            answer = json.dumps(await self._sink(body, hold="x-hold" in headers)).encode()
        else:
            answer = b"".join([piece async for piece in body])
        if target.path == "/raw/release":
            self.released.set()
        elif target.path == "/raw/sent":
            answer = json.dumps({"sent": self.sent, "open": self.open_sources}).encode()
        elif target.path == "/raw/log":
            answer = json.dumps(self.log).encode()
        extra = b"X-Head: " + base64.b64encode(head) + b"\r\n" if target.path == "/raw/echo" else b""
        begin(writer, len(answer), query.get("frame", "length"), extra)
        send(writer, answer, query.get("frame", "length"))
        end(writer, query.get("frame", "length"))
        await writer.drain()

    async def _source(self, writer: asyncio.StreamWriter, count: int, frame: str) -> None:
        self.sent, self.open_sources = 0, self.open_sources + 1
        try:
            begin(writer, count, frame, b"")
            while self.sent < count:
                at = self.sent % len(PATTERN)
                piece = PATTERN[at : at + min(PIECE_BYTES, count - self.sent)]
                send(writer, piece, frame)
                self.sent += len(piece)
                await writer.drain()
            end(writer, frame)
        finally:
            self.open_sources -= 1

    async def _sink(self, body: AsyncIterator[bytes], *, hold: bool) -> dict[str, int]:
        count = mark = 0
        self.released.clear()
        async for piece in body:
            count, mark = count + len(piece), crc32(piece, mark)
            if hold:
                await self.released.wait()
        return {"bytes": count, "crc32": mark}


async def read_body(reader: asyncio.StreamReader, headers: dict[str, str]) -> AsyncIterator[bytes]:
    if headers.get("transfer-encoding") == "chunked":
        while size := int(await reader.readuntil(b"\r\n"), 16):
            left = size
            while left:
                piece = await reader.read(min(left, PIECE_BYTES))
                if not piece:
                    raise ConnectionResetError
                left -= len(piece)
                yield piece
            assert await reader.readexactly(2) == b"\r\n"
        assert await reader.readexactly(2) == b"\r\n"
        return
    left = int(headers.get("content-length", "0"))
    while left:
        piece = await reader.read(min(left, PIECE_BYTES))
        if not piece:
            raise ConnectionResetError
        left -= len(piece)
        yield piece


def begin(writer: asyncio.StreamWriter, length: int, frame: str, extra: bytes) -> None:
    framing = {
        "length": b"Content-Length: %d" % length,
        "chunked": b"Transfer-Encoding: chunked",
        "close": b"Connection: close",
    }[frame]
    writer.write(b"HTTP/1.1 200 OK\r\nx-ODD-case:  kept  \r\n" + extra + framing + b"\r\n\r\n")


def send(writer: asyncio.StreamWriter, piece: bytes, frame: str) -> None:
    if frame == "chunked":
        if piece:
            writer.writelines((b"%x\r\n" % len(piece), piece, b"\r\n"))
    else:
        writer.write(piece)


def end(writer: asyncio.StreamWriter, frame: str) -> None:
    if frame == "chunked":
        writer.write(b"0\r\n\r\n")
    elif frame == "close":
        writer.close()


async def main(port_file: Path) -> None:
    server = await asyncio.start_server(RawOrigin().serve, "127.0.0.1", 0, limit=PIECE_BYTES, backlog=4096)
    draft = port_file.with_suffix(".draft")
    draft.write_text(str(server.sockets[0].getsockname()[1]))
    draft.rename(port_file)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(Path(sys.argv[1])))
