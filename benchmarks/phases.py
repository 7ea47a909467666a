"""Parts of the gateway by themselves: µs of CPU for one signed request, phase by phase, with the gateway's own functions.

`scripts/bench phases` prints them in the order of the request path, so that a regression has an address. What the whole job
costs beyond their sum is the event loop, the two protocols and the kernel."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click
import uvloop

from benchmarks import cpu
from benchmarks.path import MemoryPath
from benchmarks.processes import OTHER_CORE, PROXY_CORE
from benchmarks.rendering import TEMPLATES, render
from benchmarks.report import table
from benchmarks.requests import KEY_ID, SECRET, bearer_request, signed_request, unchanging_request
from benchmarks.rig import SMALL_ANSWER_BYTES, common_values
from benchmarks.routes import finding, routes_targets
from benchmarks.statistics import Spread
from benchmarks.timing import BATCHES, cost_us
from benchmarks.tokens import BenchIssuer
from ostiary.core.config import load_text
from ostiary.core.http_signing import sign_http_request
from ostiary.core.model import Authentication, Configuration, FailedAttempts, Scheme
from ostiary.core.signing import EMPTY_BODY_SHA256, Signer, hmac_message, sign_request
from ostiary.demo.stores import EmbeddedValkey
from ostiary.gateway.exchange import Exchange
from ostiary.gateway.failed_attempts import AttemptTable, Gate
from ostiary.gateway.keys import KeyRing
from ostiary.gateway.limits import Limiter, QuotaEvents, UnobservedLimiter
from ostiary.gateway.phases.admit import RequestIds, admit
from ostiary.gateway.phases.authenticate import authenticate
from ostiary.gateway.phases.authorize import authorize
from ostiary.gateway.phases.limit import limit
from ostiary.gateway.phases.match import match
from ostiary.gateway.phases.prepare import prepare
from ostiary.gateway.phases.record import Recorder
from ostiary.gateway.phases.respond import render_head
from ostiary.gateway.service import Gateway
from ostiary.gateway.signal import Drive
from ostiary.gateway.telemetry.meters import RouteMeters
from ostiary.gateway.telemetry.metrics import Metrics
from ostiary.gateway.tokens import TokenRing
from ostiary.gateway.usage import Spool, encode
from ostiary.gateway.wire.client import ClientConnection
from ostiary.gateway.wire.grammar import HeaderLine
from ostiary.gateway.wire.request_body import RequestBody
from ostiary.gateway.wire.request_head import Framing, parse_request_head
from ostiary.gateway.wire.response_head import parse_response_head

TARGET = "/v1/clients?limit=10"
# As the upstream of the bench answers.
ANSWER_HEAD = (
    b"HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Sun, 22 Nov 2026 12:00:00 GMT\r\n"
    b"Content-Type: application/json\r\nContent-Length: 121\r\nConnection: keep-alive"
)
# Requests of one loop tick at full load are about as many as there are connections waiting: 64, less those under way.
TICK_REQUESTS = 32
TICKS = 300
SPOOL_BYTES_MAX = 1 << 30  # nothing ships it; a measurement writes some hundred MB


_SIGNER = Signer(SECRET.encode())


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table. `counts` is false for what is in another line already, or in another process."""

    name: str
    cost: Spread
    counts: bool = True


def drive(coroutine: Coroutine[object, None, object]) -> None:
    """Runs a coroutine that does not have to wait, as the gateway's `Drive` does. Raises RuntimeError if it waits."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise RuntimeError("a phase that is measured by itself waits for something")


class Subject:
    """One signed request, and the parts of a worker that it passes, made as `worker.py` makes them."""

    def __init__(
        self, configuration: Configuration, *, gateway: Gateway, keys: KeyRing, metrics: Metrics, spool: Spool
    ) -> None:
        request = signed_request(TARGET, timestamp=int(time.time()), nonce="n" * 22)
        self.request_head = request.removesuffix(b"\r\n\r\n")
        self.limits = configuration.gateway.client_limits
        self.client = ClientConnection(gateway)
        self.client.peer = "127.0.0.1"
        self.gateway = gateway
        self.keys = keys
        self.spool = spool
        self.ids = RequestIds()
        self.recorder = Recorder(
            metrics=metrics, spool=spool, unrouted=RouteMeters(metrics, "none"), quota_events=QuotaEvents()
        )
        self.head = parse_request_head(self.request_head, self.limits)
        self.answer = parse_response_head(ANSWER_HEAD, b"GET")
        self.exchange = self.begin()
        for step in (self.admit, self.match, self.authenticate, self.authorize, self.prepare):
            step()
        self.exchange.upstream_started = self.exchange.started + 0.0001
        self.exchange.upstream_answered = self.exchange.started + 0.0004
        self.exchange.answer_status = self.answer.status

    def begin(self) -> Exchange:
        gateway = self.gateway
        return Exchange(
            client=self.client, snapshot=gateway.snapshot, head=self.head, body=None, started=gateway.clock()
        )

    def admit(self) -> None:
        admit(self.exchange, self.ids)

    def match(self) -> None:
        match(self.exchange)

    def authenticate(self) -> None:
        drive(authenticate(self.exchange, self.keys))

    def authorize(self) -> None:
        authorize(self.exchange)

    def prepare(self) -> None:
        prepare(self.exchange)

    def verify(self) -> bool:
        values = self.head.values
        message = hmac_message(
            self.head.method, self.head.target, values[b"x-timestamp"], values[b"x-nonce"], EMPTY_BODY_SHA256
        )
        return _SIGNER.verify(message, values[b"x-api-key"][-64:])

    def find_key(self) -> object:
        return self.keys.find(KEY_ID)

    def find_route(self) -> object:
        return self.exchange.snapshot.table.match(self.head.host, self.head.path, "GET")

    def open_and_record(self) -> None:
        """Before the call goes upstream, and when it has ended: what is opened takes a slot, which recording frees."""
        self.recorder.open(self.exchange, self.exchange.started)
        self.recorder.record(self.exchange, self.exchange.started + 0.0005)

    def append_usage(self) -> None:
        exchange, admission, route = self.exchange, self.exchange.admission, self.exchange.route
        assert admission is not None
        assert route is not None
        agent = self.head.values.get(b"user-agent")
        self.spool.append(
            encode(
                *(admission.caller, route.usage, exchange.request_id, 1.8e9, self.head.method, 200, 500, 300, 0, 121),
                *("127.0.0.1", agent, False, True),
            )
        )

    def lines(self, cost: Callable[[Callable[[], object]], Spread], *, many_routes: bool = True) -> Iterator[Line]:
        """Every phase but `limit`, which needs Redis, in the order of the path, each followed by its parts; `cost` says
        what a call costs. Ten thousand routes take long to make where each instruction does."""
        layout: list[HeaderLine] = []  # as of a connection that has had such heads before
        yield Line("request head", cost(lambda: parse_request_head(self.request_head, self.limits, layout)))
        yield Line("begin", cost(self.begin))
        yield Line("admit", cost(self.admit))
        yield Line("match", cost(self.match))
        yield Line("of it: find the route", cost(self.find_route), counts=False)
        yield Line("so, with 10 routes in turn", cost(finding(10, targets=routes_targets(10))), counts=False)
        if many_routes:
            targets = routes_targets(10_000)
            yield Line("so, the same 10 among 10 000", cost(finding(10_000, targets=targets[:10])), counts=False)
            yield Line("so, with 10 000 in turn", cost(finding(10_000, targets=targets)), counts=False)
        yield Line("authenticate", cost(self.authenticate))
        yield Line("of it: find the key", cost(self.find_key), counts=False)
        yield Line("of it: verify the signature", cost(self.verify), counts=False)
        for scheme in (Scheme.HMAC, Scheme.HTTP_SIGNATURE):
            for body, what in ((b"", "without a body"), (b"x" * 200, "with 200 bytes")):
                call = SignedCall(self.gateway.snapshot.configuration, scheme, keys=self.keys, body=body)
                yield Line(f"so, by {scheme}, {what}", cost(call.authenticate), counts=False)
                yield Line("  of that: to make the exchange and its body", cost(call.make), counts=False)
        yield Line("authorize", cost(self.authorize))
        yield Line("prepare", cost(self.prepare))
        answers: list[HeaderLine] = []
        yield Line("response head", cost(lambda: parse_response_head(ANSWER_HEAD, b"GET", answers)))
        yield Line("respond", cost(lambda: render_head(self.exchange, self.answer)))
        yield Line("open and record", cost(self.open_and_record))
        yield Line("of it: encode and append usage", cost(self.append_usage), counts=False)


class SignedCall:
    """The same request, with a body or without, signed by one scheme on a route that takes that alone: `hmac`, or RFC 9421 as
    `http-message-signatures` does."""

    def __init__(self, configuration: Configuration, scheme: Scheme, *, keys: KeyRing, body: bytes) -> None:
        authentication = Authentication(schemes=frozenset({scheme}))
        routes = tuple(replace(route, authentication=authentication) for route in configuration.routes)
        limiter = Limiter(url=None, deadline_seconds=1.0, workers=1, observe=UnobservedLimiter())
        metrics = Metrics.in_memory()
        gate = Gate(AttemptTable.alone(), settings=FailedAttempts(), trusted=(), metrics=metrics)
        gateway = Gateway(
            configuration=replace(configuration, routes=routes),
            metrics=metrics,
            spool=None,
            keys=keys,
            limiter=limiter,
            gate=gate,
        )
        method = "POST" if body else "GET"
        url = f"http://127.0.0.1:8080{TARGET}"
        secret = SECRET.encode()
        if scheme is Scheme.HMAC:
            headers = sign_request(key_id=KEY_ID, secret=secret, method=method, target=TARGET, body=body)
        else:
            headers = sign_http_request(
                key_id=KEY_ID, secret=secret, method=method, url=url, target=TARGET, body=body
            ).headers
        lines = [f"{method} {TARGET} HTTP/1.1", "Host: 127.0.0.1:8080", "User-Agent: wrk", "Accept: */*"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        lines += [f"Content-Length: {len(body)}"] if body else []
        self._body = body
        self._client = ClientConnection(gateway)
        self._client.peer = "127.0.0.1"
        self._gateway = gateway
        self._keys = keys
        self._head = parse_request_head("\r\n".join(lines).encode(), gateway.limits)
        self._lines = self._head.lines

    def authenticate(self) -> None:
        """With the making of the exchange, since a body can be read once."""
        drive(authenticate(self.make(), self._keys))

    def make(self) -> Exchange:
        gateway, head = self._gateway, self._head
        head.lines = self._lines
        body = None
        if self._body:
            body = RequestBody(Framing.LENGTH, len(self._body), 1 << 62, self._client)
            body.feed(self._body)
        exchange = Exchange(client=self._client, snapshot=gateway.snapshot, head=head, body=body, started=0.0)
        exchange.ip = self._client.peer
        exchange.route = gateway.snapshot.routes[0]
        return exchange


class LimitPhase:
    """`limit` as it runs under load: the requests of a loop tick in one command to Redis, each resumed by its reply."""

    def __init__(self, subject: Subject, limiter: Limiter) -> None:
        self._limiter = limiter
        self._numbers = itertools.count(time.time_ns())
        self._exchanges = [subject.begin() for _ in range(TICK_REQUESTS)]
        for exchange in self._exchanges:
            exchange.ip, exchange.route = subject.exchange.ip, subject.exchange.route
            exchange.known_key = subject.exchange.known_key
            authorize(exchange)

    async def tick(self) -> None:
        """One tick of requests. Raises GatewayError if any of them is refused."""
        whole: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        left = len(self._exchanges)

        async def one(exchange: Exchange) -> None:
            nonlocal left
            await limit(exchange, self._limiter)
            left -= 1
            if not left:
                whole.set_result(None)

        for exchange in self._exchanges:
            exchange.nonce = f"{next(self._numbers):022}"
            Drive(one(exchange), whole.set_exception)
        await whole

    async def lines(self, redis_pid: int) -> list[Line]:
        """What a request costs this process, and what it costs Redis."""
        await self.tick()
        requests, ours, theirs = TICKS * TICK_REQUESTS, [], []
        for _ in range(BATCHES):
            began, before = time.thread_time(), cpu.thread_times([redis_pid])
            for _ in range(TICKS):
                await self.tick()
            ours.append((time.thread_time() - began) / requests * 1e6)
            theirs.append(cpu.seconds_between(before, cpu.thread_times([redis_pid])) / requests * 1e6)
        if alone := self._limiter.status()["decided_without_store"]:
            raise RuntimeError(f"{alone} requests were decided without Redis; there is nothing to measure")
        return [
            Line(f"limit ({TICK_REQUESTS} requests a tick)", Spread.of(ours)),
            Line("besides, in Redis", Spread.of(theirs), counts=False),
        ]


@asynccontextmanager
async def subject_of(directory: Path) -> AsyncIterator[Subject]:
    """The parts of a worker of the whole job, without sockets; its usage goes to a spool in the directory."""
    whole_job = configuration("ostiary-whole-job.yaml", directory)
    metrics = Metrics.in_memory()
    gate = Gate(AttemptTable.alone(), settings=FailedAttempts(), trusted=(), metrics=metrics)
    keys = KeyRing(file_keys=whole_job.keys, postgres_url=None, envelope=None, stale_seconds=3600.0, gate=gate)
    spool = Spool(directory=directory / "spool", worker="bench", bytes_max=SPOOL_BYTES_MAX)
    limiter = Limiter(url=None, deadline_seconds=1.0, workers=1, observe=UnobservedLimiter())
    gateway = Gateway(configuration=whole_job, metrics=metrics, spool=spool, keys=keys, limiter=limiter, gate=gate)
    try:
        yield Subject(whole_job, gateway=gateway, keys=keys, metrics=metrics, spool=spool)
    finally:
        spool.close()


def memory_path(
    directory: Path, *, template: str = "ostiary-plain.yaml", request: bytes = unchanging_request(TARGET)
) -> MemoryPath:
    """A request under a configuration that lets it wait for nothing: by default an anonymous one under that of `plain`."""
    loaded = configuration(template, directory)
    keys = KeyRing(file_keys=loaded.keys, postgres_url=None, envelope=None, stale_seconds=3600.0)
    limiter = Limiter(url=None, deadline_seconds=1.0, workers=1, observe=UnobservedLimiter())
    metrics = Metrics.in_memory()
    gate = Gate(AttemptTable.alone(), settings=FailedAttempts(), trusted=(), metrics=metrics)
    gateway = Gateway(configuration=loaded, metrics=metrics, spool=None, keys=keys, limiter=limiter, gate=gate)
    (member,) = gateway.snapshot.groups["api"].members
    answer = ANSWER_HEAD + b"\r\n\r\n" + b"x" * SMALL_ANSWER_BYTES
    return MemoryPath(gateway, member.pool, request=request, answer=answer)


def caller_lines(directory: Path, cost: Callable[[Callable[[], object]], Spread]) -> Iterator[Line]:
    """What it costs to know a caller by a secret and by a token, as whole requests without sockets, in alternation: the two
    are to be compared. Then a token that was not seen before, by itself."""
    issuer = BenchIssuer(directory)
    token = issuer.token()
    whole = "an unlimited request, its whole path without sockets"
    by_key = memory_path(directory, template="ostiary-callers.yaml", request=bearer_request(TARGET))
    by_token = memory_path(directory, template="ostiary-callers.yaml", request=bearer_request(TARGET, token))
    for path in (by_key, by_token):
        path.call()
        if not path.client_side.written.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"a caller was not let in: {path.client_side.written[:200]!r}")
    for turn in ("", ", again"):
        yield Line(f"bearer: {whole}{turn}", cost(by_key.call), counts=False)
        yield Line(f"jwt, remembered: {whole}{turn}", cost(by_token.call), counts=False)
    corp = configuration("ostiary-callers.yaml", directory).issuers["corp"]
    ring = TokenRing(directory=None, metrics=Metrics.in_memory())
    ring.follow({"corp": corp})
    sent = token.encode()
    yield Line("jwt, verified anew (RS256)", cost(lambda: drive(ring.verify(sent, {corp.url: corp}))), counts=False)


def configuration(template: str, directory: Path) -> Configuration:
    """One that Ostiary runs under in the bench; its ports and stores are not used here."""
    text = render(
        (TEMPLATES / template).read_text(),
        {
            **common_values(directory),
            "port": 18080,
            "admin_port": 19090,
            "upstream_port": 19000,
            "redis_port": 16379,
            "postgres_url": "postgresql://127.0.0.1/unused",
        },
    )
    return load_text(text, name=str(directory / "ostiary.yaml"), environment={"BENCH_KEY_SECRET": SECRET})


async def measure(directory: Path) -> list[Line]:
    """All lines, in the order of the request path."""
    with EmbeddedValkey(directory / "valkey") as valkey:
        for thread in os.listdir(f"/proc/{valkey.pid}/task"):
            os.sched_setaffinity(int(thread), {OTHER_CORE})
        # A deadline that no disturbance reaches: what is measured is the decision by Redis.
        limiter = Limiter(url=valkey.url(), deadline_seconds=5.0, workers=1, observe=UnobservedLimiter())
        async with subject_of(directory) as subject:
            await limiter.start()
            try:
                limited = await LimitPhase(subject, limiter).lines(valkey.pid)
            finally:
                await limiter.close()
            lines = list(subject.lines(cost_us))
    place = next(index for index, line in enumerate(lines) if line.name == "prepare")
    whole = Line(
        "an anonymous request, its whole path without sockets", cost_us(memory_path(directory).call), counts=False
    )
    return [*lines[:place], *limited, *lines[place:], whole, *caller_lines(directory, cost_us)]


def text(lines: Sequence[Line]) -> str:
    """The table; parts stand indented below their phase, and are not added again."""
    rows = [["phase", "min", "median", "max"]]
    whole = sum(line.cost.median for line in lines if line.counts)
    for line in lines:
        figures = [f"{value:.2f}" for value in (line.cost.least, line.cost.median, line.cost.most)]
        rows.append([line.name if line.counts else f"  {line.name}", *figures])
    return table([*rows, ["sum of the phases", "", f"{whole:.2f}", ""]])


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Where to write all figures."
)
def main(json_file: Path | None) -> None:
    """Measure parts of the gateway by themselves: µs of CPU for one signed request, phase by phase.

    \b
    Example:
      ./scripts/bench phases
    """
    os.sched_setaffinity(0, {PROXY_CORE})
    with tempfile.TemporaryDirectory(prefix="ostiary-bench-") as directory:
        lines = uvloop.run(measure(Path(directory)))
    click.echo(f"µs of CPU a request, {BATCHES} batches each\n\n{text(lines)}")
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps([asdict(line) for line in lines], indent=1) + "\n")


if __name__ == "__main__":
    main(prog_name="scripts/bench phases")
