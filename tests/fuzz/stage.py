"""A gateway in memory between a client that a case plays and an origin that h11 reads."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from ostiary.core.model import Authentication, ClientLimits, Match, PathPolicy, Scheme
from ostiary.core.upstream import UNIX, Retries, Target
from ostiary.gateway.failed_attempts import AttemptTable, Gate
from ostiary.gateway.keys import KeyRing
from ostiary.gateway.limits import Limiter, UnobservedLimiter
from ostiary.gateway.service import Gateway
from ostiary.gateway.telemetry.metrics import Metrics
from ostiary.gateway.wire.client import ClientConnection
from ostiary.gateway.wire.pool import as_protocol
from ostiary.gateway.wire.states import State
from tests.fuzz.judging import Message, RequestReader
from tests.fuzz.memory import MemoryLoop, MemoryTransport
from tests.support.gateway import configuration, key, route, upstream

BODY_BYTES_MAX: Final = 64 * 1024
# Turns of the loop in which nothing happens: more than it takes to connect, which is the longest wait in memory.
QUIET_TURNS: Final = 8
TURNS_MAX: Final = 2000


class Finding(AssertionError):
    """An invariant that does not hold. The text is a case that repeats it."""


class OriginConnection:
    """One connection of the gateway to the origin."""

    transport: MemoryTransport

    def __init__(self, stage: Stage) -> None:
        self.reader = RequestReader()
        self._stage = stage

    def take(self, data: bytes) -> None:
        for _ in range(self.reader.feed(data)):
            message = self.reader.messages[-1]
            self._stage.requests.append(message)
            self._stage.answer(self, message)
        if self.reader.garbled is not None:
            self._stage.complain(f"h11 would not take what went upstream: {self.reader.garbled}: {data[:300]!r}")

    def gone(self) -> None:
        if self.reader.begun:
            self._stage.unfinished += 1


class _ClientSide:
    """Gathers what the client gets."""

    def __init__(self) -> None:
        self.got = bytearray()

    def take(self, data: bytes) -> None:
        self.got += data

    def gone(self) -> None:
        pass


class _Complaints(logging.Handler):
    def __init__(self, stage: Stage) -> None:
        super().__init__(logging.ERROR)
        self._stage = stage

    def emit(self, record: logging.LogRecord) -> None:
        cause = record.exc_info[1] if record.exc_info else None
        self._stage.complain(f"logged: {record.getMessage()}: {cause!r}")


class Stage:
    """`requests` are the whole ones that reached the origin in this case, `unfinished` those that were broken off. `answer`
    says what the origin does about one."""

    def __init__(self, loop: MemoryLoop) -> None:
        self._loop = loop
        loop.accept = lambda: self._accept()
        loop.set_exception_handler(lambda _, context: self.complain(f"in the loop: {context}"))
        bearer = Authentication(schemes=frozenset({Scheme.BEARER}))
        routes = [
            route(body_bytes_max=BODY_BYTES_MAX),
            route("raw", "/raw/**", paths=PathPolicy.RAW),
            route("normalize", "/normalize/**", paths=PathPolicy.NORMALIZE),
            route("private", "/private/**", authentication=bearer),
            route("get", match=Match(path="/get", methods=frozenset({"GET"}))),
        ]
        settings = configuration(
            [upstream(targets=(Target(UNIX, "/in/memory", 0),), retries=Retries(attempts=1, on=frozenset()))],
            routes,
            keys=[key()],
            client_limits=ClientLimits(),
        )
        metrics = Metrics.in_memory()
        self.gateway = Gateway(
            configuration=settings,
            metrics=metrics,
            spool=None,
            # What is refused a thousand times here is to be refused the same way each time.
            gate=Gate(AttemptTable.alone(), settings=None, trusted=(), metrics=metrics),
            keys=KeyRing(file_keys=settings.keys, postgres_url=None, envelope=None, stale_seconds=3600.0),
            limiter=Limiter(url=None, deadline_seconds=1.0, workers=1, observe=UnobservedLimiter()),
        )
        self.requests: list[Message] = []
        self.unfinished = 0
        self.origins: list[OriginConnection] = []
        self.answer: Callable[[OriginConnection, Message], None] = lambda origin, message: None
        self._complaints: list[str] = []

    def later(self, call: Callable[..., None], *arguments: object) -> None:
        """In a turn of the loop to come, as what comes from a socket does."""
        self._loop.call_soon(call, *arguments)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """What the gateway logs as an error becomes a finding."""
        handler = _Complaints(self)
        logger = logging.getLogger("ostiary")
        logger.addHandler(handler)
        try:
            yield
        finally:
            logger.removeHandler(handler)

    def complain(self, what: str) -> None:
        self._complaints.append(what)

    def _accept(self) -> OriginConnection:
        origin = OriginConnection(self)
        self.origins.append(origin)
        return origin

    # --- a case

    def begin(self) -> None:
        self.requests = []
        self.unfinished = 0
        self._complaints = []
        self.origins = [origin for origin in self.origins if not origin.transport.closing]
        side = _ClientSide()
        self.client = ClientConnection(self.gateway)
        self.transport = MemoryTransport(as_protocol(self.client), side, self._loop)
        self.got = side.got
        self.client.connection_made(self.transport)

    async def send(self, pieces: Sequence[bytes], *, eof: bool) -> None:
        """The client sends, half-closes if asked, and waits until nothing more happens."""
        for piece in pieces:
            if self.transport.closing:
                break
            self.transport.arrive(piece)
            await asyncio.sleep(0)
        if eof and not self.transport.closing:
            self.transport.arrive_eof()
        await self.settle()

    def _moves(self) -> int:
        return self.transport.moves + sum(origin.transport.moves for origin in self.origins) + len(self.origins)

    async def settle(self) -> None:
        quiet, before = 0, self._moves()
        for _ in range(TURNS_MAX):
            await asyncio.sleep(0)
            now = self._moves()
            quiet = quiet + 1 if now == before else 0
            before = now
            if quiet >= (QUIET_TURNS if self.client.state in (State.WAITING, State.BODY) else 3):
                return
        self.complain("no end of turns")

    async def abandon(self) -> None:
        """After a finding: clears up, so that the next case is one of its own."""
        try:
            await self.end()
        except Finding:
            pass

    async def end(self) -> None:
        """Ends the case: the client goes, and everything it held must be given back. Raises Finding."""
        if not self.transport.closing:
            self.transport.reset()
        await self.settle()
        if self.gateway.connections:
            self.complain("a connection is left over")
            self.gateway.connections.clear()
        for group in self.gateway.snapshot.groups.values():
            for pool in (member.pool for member in group.members):
                if pool.in_flight:
                    self.complain(f"{pool.in_flight} requests in flight after the end")
                    pool.in_flight = 0
        if self._complaints:
            raise Finding("; ".join(self._complaints))
