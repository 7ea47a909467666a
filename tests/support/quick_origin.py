"""`python -m tests.support.quick_origin`: an origin that is never the bottleneck. Prints its port; ends with its input."""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import uvloop

# A list as APIs have them. To compress it takes a gateway several times what it takes callers to ask for it and to drop it,
# so that callers on one processor can ask for three times what a gateway on another can do.
BODY = (
    b"["
    + b",".join(b'{"id":"c_%06d","name":"Client %d","package":"premium"}' % (n * 7919, n) for n in range(240))
    + b"]"
)
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)


class QuickOrigin(asyncio.Protocol):
    """Every head gets the answer; requests have no bodies, and come one at a time."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if data.endswith(b"\r\n\r\n"):
            self._transport.write(ANSWER)


async def main() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(QuickOrigin, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(main())
