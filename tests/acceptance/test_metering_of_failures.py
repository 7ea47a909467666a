"""Calls that do not end well are metered like all others: once, and as what they were. Rows are read from Postgres."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time
from collections.abc import AsyncIterator, Iterator
from itertools import count
from typing import Any

import asyncpg
import pytest

from ostiary.control_plane.db import migrate
from ostiary.demo.stores import EmbeddedPostgres
from tests.acceptance import stack
from tests.acceptance.conftest import Connection
from tests.support.gateway_process import SECRET, GatewayProcess
from tests.support.origin import Answer, Origin, Seen, answer_ok, answer_with, running_origin

UPSTREAM = json.dumps(
    {
        "retries": {"attempts": 2, "on": ["connect", "reset", 503]},
        "timeouts": {"connect": "2s", "first_byte": "10s", "idle": "10s"},
    }
)
_numbers = count()


@pytest.fixture(scope="module")
def origin_port() -> Iterator[int]:
    """Kept for the origins of these tests, one after the other."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@pytest.fixture
async def origin(origin_port: int) -> AsyncIterator[Origin]:
    async with running_origin(port=origin_port) as origin:
        yield origin


@pytest.fixture(scope="module")
def module_database(postgres_server: EmbeddedPostgres) -> str:
    """The URL of a database of this module's own, with every table."""

    async def create() -> None:
        admin = await asyncpg.connect(postgres_server.url())
        await admin.execute("CREATE DATABASE metering_of_failures")
        await admin.close()
        await migrate(postgres_server.url("metering_of_failures"))

    asyncio.run(create())
    return postgres_server.url("metering_of_failures")


@pytest.fixture
async def rows(module_database: str) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(module_database)
    yield connection
    await connection.close()


@pytest.fixture(scope="module")
def gateway(
    origin_port: int, module_database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    directory = tmp_path_factory.mktemp("gateway")
    with stack.gateway(
        directory, {"/**": origin_port}, postgres=module_database, workers=1, upstream=UPSTREAM
    ) as gateway:
        yield gateway


def request(method: str = "GET", body: bytes = b"", *, length: int | None = None) -> tuple[str, bytes]:
    """A request and its id. `length` promises another body than is sent."""
    name = f"metered-{next(_numbers)}"
    framing = f"Content-Length: {len(body) if length is None else length}\r\n" if method == "POST" else ""
    head = f"{method} /x HTTP/1.1\r\nHost: a\r\nX-API-Key: {SECRET}\r\nX-Request-Id: {name}\r\n{framing}\r\n"
    return name, head.encode() + body


async def open_client(gateway: GatewayProcess) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", gateway.port)


def reset(writer: asyncio.StreamWriter) -> float:
    """Ends the connection as a client that has crashed; when that was, as Unix time."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    return time.time()


async def ask(gateway: GatewayProcess, data: bytes) -> bytes:
    """What comes back until the connection ends, or is whole with its Content-Length."""
    reader, writer = await open_client(gateway)
    try:
        async with asyncio.timeout(10):
            writer.write(data)
            head = await reader.readuntil(b"\r\n\r\n")
            length = next((line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), b":-1")
            try:
                return head + await reader.readexactly(int(length.partition(b":")[2]))
            except (asyncio.IncompleteReadError, ValueError) as error:
                rest = error.partial if isinstance(error, asyncio.IncompleteReadError) else await reader.read()
                return head + rest
    finally:
        writer.close()


async def event_of(rows: Connection, name: str) -> Any:
    """The one event of a request."""
    async with asyncio.timeout(10):
        while not (found := await stack.usage_rows(rows, [name])):  # noqa: ASYNC110  another process writes it
            await asyncio.sleep(0.02)
    (event,) = found
    return event


async def only_event_of(rows: Connection, gateway: GatewayProcess, origin: Origin, name: str) -> Any:
    """As `event_of`, once the event of a later call is there: the spool keeps the order, so a second one would be too."""
    origin.answer = answer_ok
    later, data = request()
    await ask(gateway, data)
    await event_of(rows, later)
    return await event_of(rows, name)


def failing_once(first: Answer) -> Answer:
    answers = iter([first])

    async def answer(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await next(answers, answer_ok)(seen, reader, writer)

    return answer


UNAVAILABLE = b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy"


@pytest.mark.parametrize(
    "first",
    [answer_with(b"", reset=True), answer_with(b"", close=True), answer_with(UNAVAILABLE)],
    ids=["reset", "close", "503"],
)
async def test_a_call_that_was_asked_twice_is_metered_once(
    first: Answer, gateway: GatewayProcess, origin: Origin, rows: Connection
) -> None:
    """Row 97: a retry is the gateway's own affair; whoever pays per call must not pay for it."""
    origin.answer = failing_once(first)
    name, data = request()
    assert (await ask(gateway, data)).startswith(b"HTTP/1.1 200")
    assert [seen.one("x-request-id") for seen in origin.seen] == [name, name]
    event = await only_event_of(rows, gateway, origin, name)
    assert (event["status"], event["complete"], event["bytes_out"]) == (200, True, 2)


@pytest.mark.parametrize(("method", "tries"), [("GET", 2), ("POST", 1)])
async def test_a_call_that_failed_is_metered_once_with_its_error(
    method: str, tries: int, gateway: GatewayProcess, origin: Origin, rows: Connection
) -> None:
    """Row 97: a failed call is a call; a POST is asked once, for it may have been done."""
    origin.answer = answer_with(b"", reset=True)
    name, data = request(method, b"pay" if method == "POST" else b"")
    assert (await ask(gateway, data)).startswith(b"HTTP/1.1 502")
    assert len(origin.seen) == tries
    event = await only_event_of(rows, gateway, origin, name)
    assert (event["status"], event["complete"]) == (502, True)
    assert event["bytes_in"] == (3 if method == "POST" else 0)


HEAD_LENGTH = b"HTTP/1.1 201 Created\r\nContent-Length: 1000\r\n\r\n"
HEAD_CHUNKED = b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize(
    "part", [HEAD_LENGTH + b"x" * 100, HEAD_CHUNKED + b"64\r\n" + b"x" * 100 + b"\r\n"], ids=["length", "chunked"]
)
async def test_an_answer_that_broke_off_is_metered_as_incomplete(
    part: bytes, how: str, gateway: GatewayProcess, origin: Origin, rows: Connection
) -> None:
    """Row 98: it keeps the status that the client saw, counts the bytes that it got, and is not taken for a whole one."""
    origin.answer = answer_with(part, close=how == "close", reset=how == "reset")
    name, data = request()
    got = await ask(gateway, data)
    assert got.startswith(b"HTTP/1.1 201")
    assert not got.endswith(b"0\r\n\r\n")
    event = await only_event_of(rows, gateway, origin, name)
    assert (event["status"], event["complete"]) == (201, False)
    # A reset may overtake the bytes before it, on their way to the gateway.
    assert event["bytes_out"] == 100 or (how == "reset" and event["bytes_out"] == 0)


@pytest.mark.parametrize("frame", ["length", "chunked"])
async def test_a_client_that_leaves_ends_its_upstream_and_is_metered_within_a_second(
    frame: str, gateway: GatewayProcess, origin: Origin, rows: Connection
) -> None:
    """Rows 37, 105: an answer that nobody reads would cost the service behind it, and the call be forgotten."""
    left = asyncio.get_running_loop().create_future()

    async def endless(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD_CHUNKED if frame == "chunked" else HEAD_LENGTH.replace(b"1000", b"1000000000"))
        try:
            while True:
                writer.write(b"4\r\ndata\r\n" if frame == "chunked" else b"data")
                await writer.drain()
                if await _ended(reader, 0.01):
                    return
        except ConnectionError:
            return
        finally:
            left.set_result(time.time())

    origin.answer = endless
    name, data = request()
    reader, writer = await open_client(gateway)
    writer.write(data)
    await asyncio.wait_for(reader.readuntil(b"data"), 5)
    left_at = reset(writer)
    assert await asyncio.wait_for(left, 10) - left_at <= 1.0
    event = await only_event_of(rows, gateway, origin, name)
    assert event["occurred_at"].timestamp() - left_at <= 1.0
    assert (event["status"], event["complete"]) == (201, False)
    assert event["bytes_out"] >= 4


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_client_that_leaves_before_its_answer_is_metered_as_gone(
    method: str, gateway: GatewayProcess, origin: Origin, rows: Connection
) -> None:
    """Rows 37, 105: it was asked for and cost the upstream; no status was sent, so the log's 499 stands for it."""
    asked, left = asyncio.Event(), asyncio.get_running_loop().create_future()

    async def silent(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await _ended(reader, 10)
        left.set_result(time.time())

    origin.answer = silent
    name, data = request(method, b"body" if method == "POST" else b"")
    _, writer = await open_client(gateway)
    writer.write(data)
    await asyncio.wait_for(asked.wait(), 5)
    left_at = reset(writer)
    assert await asyncio.wait_for(left, 10) - left_at <= 1.0
    event = await only_event_of(rows, gateway, origin, name)
    assert event["occurred_at"].timestamp() - left_at <= 1.0
    assert (event["status"], event["complete"], event["bytes_out"]) == (499, False, 0)


async def test_a_client_that_leaves_in_its_request_is_metered_as_gone(
    gateway: GatewayProcess, origin: Origin, rows: Connection
) -> None:
    """Rows 15, 37: the upstream has seen a part of a request; it must never take it for the whole."""
    name, data = request("POST", b"half", length=8)
    _, writer = await open_client(gateway)
    writer.write(data)
    async with asyncio.timeout(5):
        while not any(b"half" in raw for raw in origin.raw):  # noqa: ASYNC110  the origin tells of whole requests alone
            await asyncio.sleep(0.01)
    left_at = reset(writer)
    event = await only_event_of(rows, gateway, origin, name)
    assert event["occurred_at"].timestamp() - left_at <= 1.0
    assert (event["status"], event["complete"], event["bytes_in"]) == (499, False, 4)
    assert [seen.method for seen in origin.seen] == ["GET"]  # the later call alone was whole
    assert len(origin.raw) == 2  # and came on another connection


async def _ended(reader: asyncio.StreamReader, seconds: float) -> bool:
    """Whether the peer has ended the connection; waits for it up to `seconds`."""
    try:
        return await asyncio.wait_for(reader.read(1), seconds) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True
