"""A tap on the wire between gateways and Redis: passes every byte on as it is, and logs each decision that it carried.

What a gateway answers does not tell when it was decided; the reply of the script does, by Redis's clock."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import cast

import hiredis

from ostiary.core import keyspace
from ostiary.core.model import Plan
from ostiary.gateway.limits import script
from tests.gateway.limits.decision_log import Event, LogWriter
from tests.gateway.limits.hammer import now_us
from tests.gateway.limits.verifier import Subject

_EVENTS = {
    script.ALLOWED: Event.ALLOWED,
    script.RATE_LIMITED: Event.RATE_LIMITED,
    script.QUOTA_EXCEEDED: Event.QUOTA_EXCEEDED,
    script.CROWDED: Event.CROWDED,
}


class Names:
    """Whose calls the names in Redis stand for. Each subject is a key, named as it is, with a plan and no other limits."""

    def __init__(self, subjects: tuple[Subject, ...]) -> None:
        self._numbers: dict[bytes, int] = {}
        self._leases: dict[bytes, int] = {}
        for number, subject in enumerate(subjects):
            self._leases[keyspace.leases(subject.name).encode()] = number
            self._numbers[_first_name(subject.name, subject.plan)] = number

    def of_requests(self, names: list[bytes]) -> list[int]:
        """The subject of each request of a batch: the first name of a request tells it, a second one only follows."""
        return [self._numbers[name] for name in names if name in self._numbers]

    def of_lease(self, name: bytes) -> int:
        return self._leases[name]


def _first_name(key: str, plan: Plan) -> bytes:
    limited = plan.rate is not None or plan.windows or plan.quotas
    return (keyspace.plan_state(key) if limited else keyspace.leases(key)).encode()


class Link:
    """One connection of a worker: what it asked, what Redis said."""

    def __init__(self, names: Names, decided: Path, released: Path) -> None:
        self.logs = (decided, released)
        self._names = names
        self._decided = LogWriter(decided)
        self._released = LogWriter(released)
        self._commands = hiredis.Reader()
        self._replies = hiredis.Reader()
        self._asked: deque[list[int]] = deque()  # the subjects of each command that waits; of most there are none

    def commands(self, data: bytes) -> None:
        """Before they are passed on: until then a call that they end was under way."""
        self._commands.feed(data)
        while (command := cast("list[bytes] | bool", self._commands.gets())) is not False:
            assert isinstance(command, list)
            subjects: list[int] = []
            if command[0] == b"EVALSHA" and command[1] == script.DECIDE_SHA:
                subjects = self._names.of_requests(command[3 : 3 + int(command[2])])
            elif command[0] == b"ZREM":
                self._released.write(now_us(), Event.RELEASED, self._names.of_lease(command[1]))
            self._asked.append(subjects)

    def replies(self, data: bytes) -> None:
        self._replies.feed(data)
        while (reply := cast(object, self._replies.gets())) is not False:
            subjects = self._asked.popleft()
            if subjects and isinstance(reply, bytes):
                assert script.is_reply(reply, len(subjects)), "a batch with requests that the tap does not know"
                moment_us = script.clock_us(reply)
                for subject, (code, *_) in zip(subjects, script.answers(reply, len(subjects)), strict=True):
                    self._decided.write(moment_us, _EVENTS[code & ~script.OVERAGE], subject)

    def close(self) -> None:
        self._decided.close()
        self._released.close()


class Tap:
    """Listens on `port`. `logs` are whole once it is closed. What it can't read ends the connection and is in `errors`."""

    def __init__(self, redis_port: int, subjects: tuple[Subject, ...], directory: Path) -> None:
        self.port = 0
        self.errors: list[BaseException] = []
        self._redis_port = redis_port
        self._names = Names(subjects)
        self._directory = directory
        self._numbers = itertools.count()
        self._links: list[Link] = []
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def logs(self) -> list[Path]:
        return [log for link in self._links for log in link.logs]

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for link in self._links:
            link.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = next(self._numbers)
        link = Link(self._names, self._directory / f"tap.{number}.decided", self._directory / f"tap.{number}.released")
        self._links.append(link)
        redis_reader, redis_writer = await asyncio.open_connection("127.0.0.1", self._redis_port)
        for source, sink, hear in ((reader, redis_writer, link.commands), (redis_reader, writer, link.replies)):
            task = asyncio.get_running_loop().create_task(self._pass_on(source, sink, hear))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass_on(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, hear: Callable[[bytes], None]
    ) -> None:
        try:
            while data := await source.read(65536):
                hear(data)
                sink.write(data)
        except ConnectionError:
            pass
        except Exception as error:
            self.errors.append(error)
        finally:
            sink.close()
