"""What a call costs a worker, by how many keys are in use: the same calls, with few keys and with many in turns."""

from __future__ import annotations

import asyncio
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import psutil
import uvloop

from tests.support.gateway_process import GatewayProcess

CONNECTIONS = 8


@dataclass(frozen=True)
class WarmCost:
    """Microseconds of processor a call, of the worker alone: medians over the rounds."""

    few_us: float
    many_us: float
    rss_bytes: int

    @property
    def ratio(self) -> float:
        return self.many_us / self.few_us


def measure(gateway: GatewayProcess, secrets: Sequence[bytes], *, few: int, rounds: int, calls: int) -> WarmCost:
    """A gateway of one worker. All of `secrets` are made warm first; `few` of them are the few."""
    (pid,) = gateway.worker_pids()
    worker = psutil.Process(pid)
    requests = [
        b"GET /local/x HTTP/1.1\r\nHost: gateway.test\r\nAuthorization: Bearer %b\r\n\r\n" % secret
        for secret in secrets
    ]

    def cost(chosen: Sequence[bytes]) -> float:
        before = worker.cpu_times()
        uvloop.run(_call(gateway.port, chosen))
        after = worker.cpu_times()
        return 1e6 * (after.user + after.system - before.user - before.system) / len(chosen)

    cost(requests)
    chance = random.Random(1)
    costs: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for found, pool in zip(costs, (requests[:few], requests), strict=True):
            found.append(cost(chance.choices(pool, k=calls)))
    return WarmCost(statistics.median(costs[0]), statistics.median(costs[1]), worker.memory_info().rss)


async def _call(port: int, requests: Sequence[bytes]) -> None:
    loop = asyncio.get_running_loop()
    left = list(requests)
    clients = [_Client(left, loop.create_future()) for _ in range(CONNECTIONS)]
    for client in clients:
        await loop.create_connection(partial(_itself, client), "127.0.0.1", port)
    await asyncio.gather(*(client.ended for client in clients))


def _itself(client: _Client) -> _Client:
    return client


class _Client(asyncio.Protocol):
    """One call after the other, until none is left. The answers have two bytes of body, in one packet with their head."""

    def __init__(self, left: list[bytes], ended: asyncio.Future[None]) -> None:
        self._left = left
        self._answer = b""
        self.ended = ended

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._next()

    def data_received(self, data: bytes) -> None:
        self._answer += data
        if not self._answer.endswith(b"\r\n\r\nok"):
            return
        if not self._answer.startswith(b"HTTP/1.1 200 "):
            self._end(AssertionError(self._answer))
        self._answer = b""
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc or ConnectionError("the gateway ended the connection"))

    def _next(self) -> None:
        if self._left:
            self._transport.write(self._left.pop())
        else:
            self._end(None)
            self._transport.close()

    def _end(self, error: Exception | None) -> None:
        if not self.ended.done():
            if error is None:
                self.ended.set_result(None)
            else:
                self.ended.set_exception(error)
