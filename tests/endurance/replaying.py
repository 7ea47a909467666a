"""Signed calls recorded and sent again: to the same worker and to the others, on both nodes, at once, and after a restart.

`replay` is importable with its parameters, so that the proof needs no other code than the test."""

from __future__ import annotations

import asyncio
import json
import random
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Self

import uvloop

from ostiary.core.signing import sign_request
from tests.endurance.revoking import second_node
from tests.endurance.site import Site, client_ports
from tests.support.gateway_process import GatewayProcess, eventually

KEY = "key_roomy"
# To each node: so many that no worker is without one, however the kernel spreads them.
CONNECTIONS = 12
ANSWER_SECONDS = 10.0
ACCEPTED = "accepted"


@dataclass
class Replays:
    """`first` are the answers to calls sent once, or several times at once; `again` those to their replays, by phase."""

    recorded: int = 0
    first: Counter[str] = field(default_factory=Counter)
    at_once: Counter[str] = field(default_factory=Counter)
    again: dict[str, Counter[str]] = field(default_factory=dict)
    workers: int = 0  # that were asked

    @property
    def replays(self) -> int:
        return sum(sum(answers.values()) for answers in self.again.values())

    def failures(self) -> list[str]:
        found = []
        if self.first != {ACCEPTED: self.recorded}:
            found.append(f"calls sent for the first time: {dict(self.first)}")
        if self.at_once[ACCEPTED] * 2 != sum(self.at_once.values()):
            found.append(f"of two copies sent at once not one was accepted, each time: {dict(self.at_once)}")
        for phase, answers in self.again.items():
            if answers.keys() != {"nonce_replayed"}:
                found.append(f"{phase}: {dict(answers)}")
        return found


def replay(site: Site, *, calls: int, pairs: int, progress: Callable[[str], None] = lambda _: None) -> Replays:
    """`calls` recorded calls, each sent again twice to any worker before the nodes are restarted and twice after it; and
    `pairs` calls of which two copies are sent at once, to two nodes."""
    found = Replays(recorded=calls)
    recorded = [signed(site, number) for number in range(calls)]
    with ExitStack() as stack:
        first = stack.enter_context(site.gateway())
        with second_node(site) as second:
            found.workers = uvloop.run(_before(found, [first, second], recorded, site, pairs))
            progress("both nodes are restarted")
            first.signal(signal.SIGUSR2)  # worker by worker, the supervisor stays
            first.wait_for_log("rolled")
        second = stack.enter_context(second_node(site))  # the other was killed, and begins anew
        found.workers += uvloop.run(_after(found, [first, second], recorded))
    return found


async def _before(
    found: Replays, nodes: Sequence[GatewayProcess], recorded: Sequence[bytes], site: Site, pairs: int
) -> int:
    async with await Connections.to(nodes) as connections:
        found.first = await connections.send_each(recorded)
        for phase in ("before the restart", "before the restart, once more"):
            found.again[phase] = await connections.send_each(recorded)
        for number in range(pairs):
            copy = signed(site, 1_000_000 + number)
            found.at_once += Counter(await asyncio.gather(*(connections.send(copy, node=node) for node in range(2))))
        return connections.workers(nodes)


async def _after(found: Replays, nodes: Sequence[GatewayProcess], recorded: Sequence[bytes]) -> int:
    async with await Connections.to(nodes) as connections:
        for phase in ("after the restart", "after the restart, once more"):
            found.again[phase] = await connections.send_each(recorded)
        return connections.workers(nodes)


def signed(site: Site, number: int) -> bytes:
    """A call as it goes over the wire."""
    target, body = f"/local/{number}", b"pay"
    headers = sign_request(key_id=KEY, secret=site.secrets[KEY].encode(), method="POST", target=target, body=body)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST {target} HTTP/1.1\r\nHost: gateway.test\r\nContent-Length: {len(body)}\r\n{lines}\r\n".encode() + body


class Connections:
    """Kept connections to both nodes, each with one call at a time."""

    def __init__(self, by_node: list[list[Connection]]) -> None:
        self._all = [connection for connections in by_node for connection in connections]
        self._free = [asyncio.Queue[Connection]() for _ in by_node]
        for queue, connections in zip(self._free, by_node, strict=True):
            for connection in connections:
                queue.put_nowait(connection)
        self._chance = random.Random(57)

    @classmethod
    async def to(cls, nodes: Sequence[GatewayProcess]) -> Self:
        return cls([[await Connection.open(node.port) for _ in range(CONNECTIONS)] for node in nodes])

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        for connection in self._all:
            connection.close()

    def workers(self, nodes: Sequence[GatewayProcess]) -> int:
        """How many have at least one of the connections."""
        ours = {connection.port for connection in self._all}

        def question() -> int:
            by_worker = [client_ports(pid, node.port) & ours for node in nodes for pid in node.worker_pids()]
            return len([ports for ports in by_worker if ports]) if sum(map(len, by_worker)) == len(ours) else 0

        return eventually(question, "every connection has a worker")

    async def send_each(self, calls: Sequence[bytes]) -> Counter[str]:
        """Each once, to any node and worker, in an order that is not theirs."""
        mixed = list(calls)
        self._chance.shuffle(mixed)
        answers: Counter[str] = Counter()

        async def some() -> None:
            while mixed:
                answers[await self.send(mixed.pop(), node=self._chance.randrange(len(self._free)))] += 1

        await asyncio.gather(*(some() for _ in self._all))
        return answers

    async def send(self, call: bytes, *, node: int) -> str:
        """`accepted`, or the code of the refusal."""
        free = self._free[node]
        connection = await free.get()
        async with asyncio.timeout(ANSWER_SECONDS):
            answer = await connection.ask(call)
        free.put_nowait(connection)
        return answer


class Connection:
    """`port` is the client's own."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.port: int = writer.get_extra_info("sockname")[1]

    @classmethod
    async def open(cls, port: int) -> Connection:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def ask(self, call: bytes) -> str:
        self._writer.write(call)
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
        body = await self._reader.readexactly(length)
        return ACCEPTED if head.startswith("http/1.1 200 ") else str(json.loads(body)["code"])

    def close(self) -> None:
        self._writer.close()
