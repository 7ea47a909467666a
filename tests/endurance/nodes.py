"""Two gateway nodes before one Redis, hammered over HTTP, each decision read off the wire to Redis.

`hammer_nodes` is importable with its parameters, so that a longer run needs no other code than the test."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from ctypes import c_uint64
from dataclasses import dataclass
from functools import partial
from multiprocessing.sharedctypes import RawArray
from pathlib import Path
from typing import Any, cast

import uvloop

from ostiary.core.model import Period, Plan, Quota, Rate, Window
from tests.endurance.tap import Tap
from tests.gateway.limits.decision_log import Event, merged
from tests.gateway.limits.hammer import ASK_SECONDS, REST_SECONDS
from tests.gateway.limits.verifier import Subject
from tests.support.gateway_process import DEADLINE_SECONDS, GatewayProcess

NODES = 2
WORKERS = 2
PAUSE_SECONDS = 0.05  # of a client after a refusal: 200 clients ask for as much as two processors can do

# As those of tests/gateway/limits/hammer.py, with a tenth of the limits and the windows that a configuration can have.
HTTP_SUBJECTS = (
    Subject("bucket", Plan("bucket", rate=Rate(30, 1, 20))),
    Subject("bursts", Plan("bursts", rate=Rate(30, 1, 15)), rests=True),
    Subject("slots", Plan("slots", windows=(Window(1500, 60),))),
    Subject("waves", Plan("waves", windows=(Window(125, 1),)), rests=True),
    Subject("exact_log", Plan("exact_log", windows=(Window(30, 1),))),
    Subject("quota", Plan("quota", quotas=(Quota(500, Period.HOUR),))),
    Subject("concurrency", Plan("concurrency", concurrency=4), hold_seconds=0.1),
    Subject(
        "several",
        Plan("several", Rate(30, 1, 10), (Window(20, 1), Window(1100, 60)), (Quota(10**6, Period.DAY),), concurrency=8),
        hold_seconds=0.01,
    ),
)

_PER = {1: "second", 60: "minute", 3600: "hour", 86_400: "day"}


@dataclass(frozen=True)
class HammeredNodes:
    """`failures` are answers that were neither 200 nor 429, and what the logs and the answers disagree about."""

    logs: list[Path]
    answered: int
    seconds: float
    failures: list[str]


def configuration(redis_port: int, origin_port: int) -> str:
    """JSON, which is YAML."""
    return json.dumps(
        {
            "version": 1,
            "gateway": {
                "listen": {"host": "127.0.0.1", "port": 0, "workers": WORKERS},
                "admin": {"host": "127.0.0.1", "port": 0},
            },
            # A deadline that no busy machine misses: a decision without Redis would be no decision of Redis.
            "stores": {"redis": f"redis://127.0.0.1:{redis_port}/0", "redis_deadline": "10s", "spool": "spool"},
            "plans": {subject.name: _plan(subject.plan) for subject in HTTP_SUBJECTS},
            "upstreams": {"origin": {"targets": [{"url": f"http://127.0.0.1:{origin_port}"}]}},
            "routes": [
                {
                    "name": "all",
                    "match": {"path": "/**"},
                    "upstream": "origin",
                    "auth": {"schemes": ["bearer"]},
                    "on_store_failure": "closed",
                }
            ],
            "keys": [
                {"id": subject.name, "secret": f"file:{subject.name}", "plan": subject.name, "environment": "live"}
                for subject in HTTP_SUBJECTS
            ],
        }
    )


def secret(subject: Subject) -> str:
    return f"{subject.name}-{'0123456789' * 4}"


def _plan(plan: Plan) -> dict[str, object]:
    said: dict[str, object] = {}
    if plan.rate is not None:
        rate = plan.rate
        said["rate"] = {"requests": rate.requests, "per": _PER[rate.per_seconds], "burst": rate.burst}
    if plan.windows:
        said["limits"] = [{"requests": each.requests, "per": _PER[each.window_seconds]} for each in plan.windows]
    if plan.quotas:
        said["quotas"] = [{"requests": each.requests, "per": each.period.value} for each in plan.quotas]
    if plan.concurrency is not None:
        said["concurrency"] = plan.concurrency
    return said


def hammer_nodes(
    redis_port: int,
    directory: Path,
    *,
    calls: int,
    clients: int = 200,
    processes: int = 2,
    progress: Callable[[int], None] | None = None,
) -> HammeredNodes:
    """`clients` connections, half of them at each node, spread over the subjects, until about `calls` are answered. The
    routes refuse without Redis, so a decision that was not Redis's is among the failures."""
    with ExitStack() as stack:
        tap, origin_port = stack.enter_context(_tap_and_origin(redis_port, directory))
        nodes = [stack.enter_context(_node(directory / f"node-{n}", tap.port, origin_port)) for n in range(NODES)]
        began = time.monotonic()
        counts = _load([node.port for node in nodes], calls, clients=clients, processes=processes, progress=progress)
        seconds = time.monotonic() - began
    failures = [repr(error) for error in tap.errors]
    return HammeredNodes(tap.logs, sum(counts), seconds, failures + _disagreements(counts, tap.logs))


def _disagreements(counts: list[int], logs: list[Path]) -> list[str]:
    """Between what the clients were answered and what was decided."""
    decided = Counter(
        (entry.subject, entry.event is Event.ALLOWED) for entry in merged(logs) if entry.event is not Event.RELEASED
    )
    failures = []
    for number, subject in enumerate(HTTP_SUBJECTS):
        allowed, refused, other = counts[number * ANSWERS : (number + 1) * ANSWERS]
        if other:
            failures.append(f"{subject.name}: {other} answers were neither 200 nor 429")
        let_in, kept_out = decided[number, True], decided[number, False]
        if (allowed, refused) != (let_in, kept_out):
            failures.append(
                f"{subject.name}: {allowed} answers were 200 and {refused} were 429, but Redis let {let_in} calls in and "
                f"refused {kept_out}"
            )
    return failures


# --- what the clients talk to -----------------------------------------------------------------------------------------


@contextmanager
def _node(directory: Path, redis_port: int, origin_port: int) -> Iterator[GatewayProcess]:
    directory.mkdir()
    path = directory / "gateway.yaml"
    path.write_text(configuration(redis_port, origin_port))
    for subject in HTTP_SUBJECTS:
        (directory / subject.name).write_text(secret(subject))
    with GatewayProcess(["ostiary", "gateway", "-c", str(path)]) as node:
        yield node.wait_ready()


@contextmanager
def _tap_and_origin(redis_port: int, directory: Path) -> Iterator[tuple[Tap, int]]:
    """In a thread of their own. The logs of the tap are complete at the end."""
    started: Future[tuple[Tap, int, Callable[[], object]]] = Future()

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        over = asyncio.Event()
        tap = Tap(redis_port, HTTP_SUBJECTS, directory)
        await tap.start()
        origin = await loop.create_server(Origin, "127.0.0.1", 0, backlog=1024)
        port = origin.sockets[0].getsockname()[1]
        started.set_result((tap, port, lambda: loop.call_soon_threadsafe(over.set)))
        await over.wait()
        origin.close()
        await tap.close()

    thread = threading.Thread(target=uvloop.run, args=(serve(),), name="tap-and-origin")
    thread.start()
    tap, port, end = started.result(DEADLINE_SECONDS)
    try:
        yield tap, port
    finally:
        end()
        thread.join(DEADLINE_SECONDS)


class Origin(asyncio.Protocol):
    """Answers `GET /50` after 50 ms."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._loop = asyncio.get_running_loop()
        self._unread = b""

    def data_received(self, data: bytes) -> None:
        self._unread += data
        while b"\r\n\r\n" in self._unread:
            head, _, self._unread = self._unread.partition(b"\r\n\r\n")
            answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
            self._loop.call_later(int(head.split(b" ", 2)[1][1:]) / 1000, self._transport.write, answer)


# --- the clients ------------------------------------------------------------------------------------------------------

ANSWERS = 3  # kinds of answers that are counted: 200, 429, any other


def _load(
    ports: list[int], calls: int, *, clients: int, processes: int, progress: Callable[[int], None] | None
) -> list[int]:
    """How many answers of each kind, for each subject in turn."""
    context = multiprocessing.get_context("spawn")
    shared = [RawArray(c_uint64, len(HTTP_SUBJECTS) * ANSWERS) for _ in range(processes)]
    each = clients // processes
    running: list[Any] = []
    for number, counts in enumerate(shared):
        numbers = range(number * each, (number + 1) * each)
        running.append(context.Process(target=_clients, args=(ports, numbers, calls // processes, counts), daemon=True))
        running[-1].start()
    while any(process.is_alive() for process in running):
        running[0].join(1) if running[0].is_alive() else running[-1].join(1)
        if progress is not None:
            progress(sum(sum(counts) for counts in shared))
    assert [process.exitcode for process in running] == [0] * processes
    return [sum(kinds) for kinds in zip(*shared, strict=True)]


def _clients(ports: list[int], numbers: range, calls: int, counts: Any) -> None:
    uvloop.run(_converse(ports, numbers, calls, counts))


async def _converse(ports: list[int], numbers: range, calls: int, counts: Any) -> None:
    loop = asyncio.get_running_loop()
    left = [calls]
    clients = [Client(number % len(HTTP_SUBJECTS), left, counts) for number in numbers]
    for number, client in zip(numbers, clients, strict=True):
        port = ports[number // len(HTTP_SUBJECTS) % NODES]
        await loop.create_connection(partial(_itself, client), "127.0.0.1", port)
    await asyncio.gather(*(client.ended for client in clients))


def _itself(client: Client) -> Client:
    return client


class Client(asyncio.Protocol):
    """One connection with one call after the other on it, until none is left. `ended` fails when the connection does."""

    def __init__(self, number: int, left: list[int], counts: Any) -> None:
        subject = HTTP_SUBJECTS[number]
        self._rests = subject.rests
        self._request = (
            f"GET /{subject.hold_seconds * 1000:.0f} HTTP/1.1\r\nHost: gateway.test\r\n"
            f"Authorization: Bearer {secret(subject)}\r\n\r\n"
        ).encode()
        self._first = number * ANSWERS
        self._left = left
        self._counts = counts
        self._loop = asyncio.get_running_loop()
        self._answer = b""
        self.ended: asyncio.Future[None] = self._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._ask()

    def data_received(self, data: bytes) -> None:
        self._answer += data
        head, found, body = self._answer.partition(b"\r\n\r\n")
        if not found:
            return
        at = head.lower().index(b"content-length: ") + len(b"content-length: ")
        if len(body) < int(head[at:].split(b"\r\n", 1)[0]):
            return
        self._answer = b""
        status = head[9:12]
        self._counts[self._first + {b"200": 0, b"429": 1}.get(status, 2)] += 1
        self._loop.call_later(0 if status == b"200" else PAUSE_SECONDS, self._ask)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_exception(exc or ConnectionError("the gateway ended the connection"))

    def _ask(self) -> None:
        if self._rests and (moment := self._loop.time() % (ASK_SECONDS + REST_SECONDS)) > ASK_SECONDS:
            self._loop.call_later(ASK_SECONDS + REST_SECONDS - moment, self._ask)
        elif self._left[0] > 0:
            self._left[0] -= 1
            self._transport.write(self._request)
        elif not self.ended.done():
            self.ended.set_result(None)
            self._transport.close()
