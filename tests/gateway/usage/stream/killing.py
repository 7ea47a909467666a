"""A gateway's shipper, consumers and a nats-server as processes of their own, over a spool that is being written; each killed
when told to."""

from __future__ import annotations

import asyncio
import random
import sys
from asyncio.subprocess import Process
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from ostiary.core.usage import NatsStream
from ostiary.gateway.usage import Spool
from ostiary.gateway.usage.directory import look
from tests.gateway.usage.calls import call, until
from tests.support.nats_server import NatsServer, messages

ACK_WAIT_SECONDS = (
    5  # the least that the configuration takes: messages of a consumer that was killed come again after that
)


@dataclass
class Installation:
    """`appended` are the calls of which the spool has said that it has them."""

    directory: Path
    database: str
    nats: NatsServer
    settings: NatsStream
    consumers: int = 2
    appended: list[str] = field(default_factory=list)
    processes: dict[str, Process] = field(default_factory=dict)

    @property
    def configuration(self) -> Path:
        return self.directory / "gateway.yaml"

    @property
    def spool(self) -> Path:
        return self.directory / "spool"

    def write_configuration(self) -> None:
        self.configuration.write_text(
            "version: 1\nroutes: []\n"
            f"stores: {{postgres: '{self.database}', spool: {self.spool}}}\n"
            f"usage: {{sink: {{nats: {{servers: ['{self.settings.servers[0]}'], stream: {self.settings.stream}, "
            f"ack_wait: {ACK_WAIT_SECONDS}s, quarantine: {self.settings.quarantine}}}}}}}\n"
        )

    async def start(self, name: str) -> None:
        arguments = {"shipper": ["ostiary.gateway.usage"]}.get(name, ["ostiary", "usage", "consume"])
        with (self.directory / f"{name}.log").open("ab") as log:
            self.processes[name] = await asyncio.create_subprocess_exec(
                sys.executable, "-m", *arguments, "-c", str(self.configuration), stdout=log, stderr=log
            )

    async def kill(self, name: str) -> None:
        """kill -9, and start again."""
        if name == "nats":
            await asyncio.to_thread(self.nats.kill)
            await asyncio.to_thread(self.nats.start)
            return
        process = self.processes[name]
        assert process.returncode is None, (self.directory / f"{name}.log").read_text()
        process.kill()
        await process.wait()
        await self.start(name)

    @property
    def names(self) -> list[str]:
        return ["shipper", "nats", *(f"consumer-{number}" for number in range(self.consumers))]


@asynccontextmanager
async def installation(
    directory: Path, database: str, nats: NatsServer, settings: NatsStream, *, calls_per_second: int, consumers: int = 2
) -> AsyncIterator[Installation]:
    """All of it running, and calls coming in until the block ends."""
    running = Installation(directory, database, nats, settings, consumers)
    running.write_configuration()
    # A worker's run is one life of a process that holds a lock; in this one it is the test's own.
    spool = Spool(directory=running.spool, worker="0", bytes_max=1 << 30)

    async def append() -> None:
        tick = 0.02
        while True:
            for _ in range(max(1, int(calls_per_second * tick))):
                name = f"req-{len(running.appended)}"
                assert spool.append(call(name))
                running.appended.append(name)
            spool.seal()
            await asyncio.sleep(tick)

    for name in running.names:
        if name != "nats":
            await running.start(name)
    appending = asyncio.create_task(append())
    try:
        yield running
        appending.cancel()
        spool.close()
        await _settled(running)
    finally:
        appending.cancel()
        for process in running.processes.values():
            if process.returncode is None:
                process.kill()
                await process.wait()


async def _settled(running: Installation) -> None:
    async def spool_is_empty() -> bool:
        contents = look(running.spool)
        return not contents.segments and not contents.runs

    async def stream_is_empty() -> bool:
        return await messages(running.settings) == 0

    await until(spool_is_empty, "the spool is empty", 120)
    await until(stream_is_empty, "the stream is empty", 120)


async def kill_at_random(running: Installation, *, kills: int, seed: int, pause_seconds: float) -> Counter[str]:
    """Whom, and how often."""
    chance = random.Random(seed)
    killed: Counter[str] = Counter()
    for _ in range(kills):
        await asyncio.sleep(chance.uniform(0, pause_seconds))  # not to wait for anything: the moment is the input
        name = chance.choice(running.names)
        await running.kill(name)
        killed[name] += 1
    return killed


async def delivered(database: str) -> Counter[str]:
    connection = await asyncpg.connect(database)
    try:
        found = await connection.fetch("SELECT request_id, count(*) AS calls FROM usage_events GROUP BY request_id")
    finally:
        await connection.close()
    return Counter({row["request_id"]: row["calls"] for row in found})
