"""Client processes that call over keep-alive connections, one call after the other on each, and remember every call."""

from __future__ import annotations

import asyncio
import itertools
import json
import multiprocessing
import time
from collections.abc import Iterable, Sequence
from ctypes import c_bool, c_uint64
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import RawArray, RawValue
from typing import Any, NamedTuple

import uvloop

from tests.support.gateway_process import eventually

# Longer than any answer may take here, so that a call that hangs is told as one.
ANSWER_SECONDS = 10.0
# Between attempts to connect where nobody listens.
CONNECT_PAUSE_SECONDS = 0.01
# Of calls that were due while the machine was busy: more than that would be another load than was asked for.
CATCH_UP_SECONDS = 1.0
_jobs = itertools.count()


@dataclass(frozen=True, slots=True)
class Stream:
    """What every process does on `connections` connections: GET `path` with `headers`, a pause, and again. After a refusal
    the pause is `refused_pause_seconds`.

    With `interval_seconds` there is no pause: on each connection a call is due so often, the connections one after the other,
    whatever the calls before it took. One that is late is made at once, so that a machine that was busy catches up."""

    name: str
    port: int
    path: str
    headers: tuple[tuple[str, str], ...] = ()
    connections: int = 1
    pause_seconds: float = 0.004
    refused_pause_seconds: float = 0.004
    interval_seconds: float | None = None


class Call(NamedTuple):
    """One call. Times are of the monotonic clock, which all processes share. `status` is 0 when there was no whole answer,
    and `failure` then says why. `code` is of the problem document; `local_port` tells the connection, and `first` that it was
    made for this call, from `connected_ns` on."""

    request_id: str
    stream: str
    local_port: int
    first: bool
    connected_ns: int
    began_ns: int
    ended_ns: int
    status: int
    code: str
    retry_after: str
    failure: str

    @property
    def seconds(self) -> float:
        return (self.ended_ns - self.began_ns) / 1e9


class Callers:
    """`processes` that wait for work. One load at a time; close it at the end."""

    def __init__(self, processes: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.processes = processes
        self._stop = RawValue(c_bool, False)
        self._counts = RawArray(c_uint64, processes)
        self._running: list[tuple[Any, Connection]] = []
        for number in range(processes):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_process, args=(theirs, number, self._stop, self._counts), name=f"caller-{number}", daemon=True
            )
            process.start()
            theirs.close()
            self._running.append((process, ours))
        for _, pipe in self._running:
            assert pipe.recv() == "waiting"

    def start(self, streams: Sequence[Stream]) -> None:
        """Every process makes every stream."""
        self._stop.value = False
        number = next(_jobs)
        for _, pipe in self._running:
            pipe.send((number, tuple(streams)))

    def connections(self, streams: Iterable[Stream]) -> int:
        return self.processes * sum(stream.connections for stream in streams)

    @property
    def answered(self) -> int:
        """Whole answers of all loads so far."""
        return sum(self._counts)

    def wait_until_answered(self, more: int) -> None:
        until = self.answered + more
        eventually(lambda: self.answered >= until, f"{more} more answers")

    def stop(self) -> list[Call]:
        """Ends the load: every call under way still gets its answer. All its calls, in order of their beginning."""
        self._stop.value = True
        calls = [Call(*fields) for _, pipe in self._running for fields in pipe.recv()]
        return sorted(calls, key=lambda call: call.began_ns)

    def close(self) -> None:
        self._stop.value = True
        for process, pipe in self._running:
            pipe.close()
            process.join(ANSWER_SECONDS)
            process.kill()


def whole(calls: Iterable[Call]) -> list[Call]:
    """Those that were answered whole, whatever the answer."""
    return [call for call in calls if call.status]


def broken(calls: Iterable[Call]) -> list[Call]:
    return [call for call in calls if not call.status]


def _process(pipe: Connection, number: int, stop: c_bool, counts: Any) -> None:
    pipe.send("waiting")
    while True:
        try:
            job, streams = pipe.recv()
        except (EOFError, OSError):
            return
        pipe.send(uvloop.run(_job(f"{job}.{number}", streams, number, stop, counts)))


async def _job(
    prefix: str, streams: Sequence[Stream], number: int, stop: c_bool, counts: Any
) -> list[tuple[object, ...]]:
    calls: list[tuple[object, ...]] = []

    async def converse(stream: Stream, connection: int) -> None:
        ids = (f"{stream.name}.{prefix}.{connection}.{call}" for call in itertools.count())
        while not stop.value:
            connecting_ns = time.monotonic_ns()
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", stream.port)
            except OSError as error:
                moments = (connecting_ns, connecting_ns, time.monotonic_ns())
                calls.append(("", stream.name, 0, True, *moments, 0, "", "", f"connect: {error!r}"))
                await asyncio.sleep(CONNECT_PAUSE_SECONDS)
                continue
            try:
                await _calls(stream, connection / stream.connections, connecting_ns, ids, reader, writer)
            finally:
                writer.close()

    async def _calls(
        stream: Stream,
        part: float,
        connecting_ns: int,
        ids: Iterable[str],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        port = writer.get_extra_info("sockname")[1]
        pace = _Pace(stream, part)
        await pace.first()
        fields = "".join(f"{name}: {value}\r\n" for name, value in stream.headers)
        head = f"GET {stream.path} HTTP/1.1\r\nHost: gateway.test\r\n{fields}X-Request-Id: "
        for position, request_id in enumerate(ids):
            about = (request_id, stream.name, port, position == 0, connecting_ns, time.monotonic_ns())
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    writer.write(f"{head}{request_id}\r\n\r\n".encode())
                    status, headers = _parse(await reader.readuntil(b"\r\n\r\n"))
                    body = await reader.readexactly(int(headers["content-length"]))
            except (OSError, EOFError) as error:
                calls.append((*about, time.monotonic_ns(), 0, "", "", repr(error)))
                return
            ended_ns = time.monotonic_ns()
            counts[number] += 1
            code = "" if status == 200 else str(json.loads(body)["code"])
            calls.append((*about, ended_ns, status, code, headers.get("retry-after", ""), ""))
            if stop.value or headers.get("connection") == "close":
                return
            await pace.next(status)
            if stop.value:
                return

    await asyncio.gather(*(converse(stream, number) for stream in streams for number in range(stream.connections)))
    return calls


class _Pace:
    """When the calls of one connection are due; `part` of an interval later than those of the first connection."""

    def __init__(self, stream: Stream, part: float) -> None:
        self._stream = stream
        self._due = time.monotonic() + part * (stream.interval_seconds or 0)

    async def first(self) -> None:
        if self._stream.interval_seconds is not None:
            await asyncio.sleep(self._due - time.monotonic())

    async def next(self, status: int) -> None:
        """After a call that was answered with `status`."""
        stream = self._stream
        if stream.interval_seconds is None:
            await asyncio.sleep(stream.pause_seconds if status == 200 else stream.refused_pause_seconds)
            return
        now = time.monotonic()
        self._due = max(self._due + stream.interval_seconds, now - CATCH_UP_SECONDS)
        await asyncio.sleep(max(0.0, self._due - now))


def _parse(head: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = head.decode("latin-1").split("\r\n")
    fields = (line.partition(": ") for line in lines if line)
    return int(first.split(" ")[1]), {name.lower(): value for name, _, value in fields}
