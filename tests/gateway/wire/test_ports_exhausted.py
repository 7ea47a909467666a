"""No local port left towards an upstream: EADDRNOTAVAIL from connect(2).

The error is injected where the event loop connects: provoking it for real takes a network namespace with a narrow
`ip_local_port_range`, which not every machine lets a test make."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import Any

from tests.support.gateway import configuration, route, running_gateway, talk, upstream
from tests.support.origin import running_origin

GET = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


class LoopShortOfPorts(asyncio.SelectorEventLoop):
    """Connections to `exhausted` find no local port."""

    exhausted: int | None = None
    refused = 0

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        if address[1] == self.exhausted:
            self.refused += 1
            raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
        await super().sock_connect(sock, address)


def test_without_local_ports_calls_get_502_at_once_and_200_when_there_are_some_again() -> None:
    """Row 114: a gateway that tries again until there is a port takes the processor as well, and its callers wait."""

    async def run(loop: LoopShortOfPorts) -> None:
        async with (
            running_origin() as origin,
            running_gateway(configuration([upstream(origin.port)], [route()])) as gateway,
        ):
            loop.exhausted = origin.port
            answers = await asyncio.gather(*(talk(gateway.port, GET) for _ in range(20)))
            assert all(answer.startswith(b"HTTP/1.1 502 ") for answer in answers)
            assert all(b"\r\nRetry-After: " in answer and b"upstream_unreachable" in answer for answer in answers)
            assert loop.refused <= 40  # each call twice at most
            assert gateway.count("gateway_errors_total", code="upstream_unreachable") == 20
            loop.exhausted = None
            assert (await talk(gateway.port, GET)).startswith(b"HTTP/1.1 200 ")

    loop = LoopShortOfPorts()
    try:
        loop.run_until_complete(asyncio.wait_for(run(loop), 20))
    finally:
        loop.close()
