"""`python -m tests.endurance.origin ARRIVALS`: an upstream of one process that answers `ok` and writes down what arrives.

ARRIVALS gets a line a request, `<monotonic ns> <request id>`, and ARRIVALS.heads the heads as they came. Each is in the file
before the answer leaves, so a call that a client saw answered can be looked up. Prints its port."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import uvloop

from tests.support.gateway_process import REPOSITORY

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"
_END = b"\r\n\r\n"
_ID = b"\r\nx-request-id: "


@dataclass(frozen=True, slots=True)
class OriginProcess:
    """An origin under way."""

    port: int
    log: Path

    def arrivals(self) -> dict[str, list[int]]:
        """When each request arrived, in nanoseconds of the monotonic clock, by its id: more than once if it came twice."""
        found: dict[str, list[int]] = {}
        for line in self.log.read_text().splitlines():
            moment, request_id = line.split(" ")
            found.setdefault(request_id, []).append(int(moment))
        return found

    def heads(self) -> bytes:
        """Every request head, as it came."""
        return heads_of(self.log).read_bytes()


def heads_of(log: Path) -> Path:
    return log.with_suffix(".heads")


@contextmanager
def running_origin(directory: Path) -> Iterator[OriginProcess]:
    log = directory / "origin.arrivals"
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.endurance.origin", str(log)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield OriginProcess(int(process.stdout.readline()), log)
    finally:
        process.kill()
        process.wait()


class _Answering(asyncio.Protocol):
    """Requests without a body."""

    def __init__(self, arrivals: int, heads: int) -> None:
        self._arrivals = arrivals
        self._heads = heads
        self._unread = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._unread += data
        while (end := self._unread.find(_END)) >= 0:
            head, self._unread = self._unread[: end + len(_END)], self._unread[end + len(_END) :]
            at = head.lower().index(_ID) + len(_ID)
            os.write(self._heads, head)
            os.write(self._arrivals, b"%d %b\n" % (time.monotonic_ns(), head[at : head.index(b"\r", at)]))
            self._transport.write(ANSWER)


async def main(log: Path) -> None:
    arrivals, heads = (os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND) for path in (log, heads_of(log)))
    server = await asyncio.get_running_loop().create_server(
        lambda: _Answering(arrivals, heads), "127.0.0.1", 0, backlog=1024
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(Path(sys.argv[1])))
