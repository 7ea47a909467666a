"""Bodies of signed calls are held back until the signature has verified: on disk when they are long, within bounds, and with
nothing left behind however the call ends."""

from __future__ import annotations

import asyncio
import json
import os
import resource
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from ostiary.core.model import Authentication, ClientLimits, Scheme
from ostiary.core.upstream import Retries
from ostiary.gateway.wire.held_body import MEMORY_BYTES_MAX
from tests.support.gateway import (
    RunningGateway,
    configuration,
    key,
    route,
    running_gateway,
    talk,
    upstream,
)
from tests.support.messages import parse, request
from tests.support.open_files import open_files
from tests.support.origin import Origin, Seen, answer_ok
from tests.support.signatures import signed_upload

MIB = 1 << 20
BODY_MAX = 2 * MIB
DISK_MAX = 3 * MIB


SCHEMES = ("hmac", "hmac-body", "http-signature")
every_scheme = pytest.mark.parametrize("scheme", SCHEMES)


def signed(scheme: str, body: bytes, *, method: str = "POST", chunk: int = 0, close: bool = True) -> bytes:
    """A signed request; its body in chunks of that size, if one is given."""
    target = f"/{scheme}/upload?a=1"
    lines = signed_upload(scheme, target, body, method=method)
    if not chunk:
        head = request(target, *lines, b"Content-Length: %d" % len(body), method=method.encode(), close=close)
        return head + body
    pieces = [body[at : at + chunk] for at in range(0, len(body), chunk)]
    head = request(target, *lines, b"Transfer-Encoding: chunked", method=method.encode(), close=close)
    return head + b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


@pytest.fixture
async def gateway(origin: Origin, tmp_path: Path) -> AsyncIterator[RunningGateway]:
    routes = [
        route(
            scheme,
            f"/{scheme}/**",
            authentication=Authentication(schemes=frozenset({Scheme(scheme)})),
            signed_body_bytes_max=BODY_MAX,
        )
        for scheme in SCHEMES
    ]
    retries = Retries(attempts=2, on=frozenset({"connect", "reset"}))
    settings = configuration(
        [upstream(origin.port, retries=retries)],
        routes,
        keys=[key()],
        client_limits=ClientLimits(held_body_bytes=DISK_MAX),
    )
    settings = replace(settings, stores=replace(settings.stores, spool=str(tmp_path)))
    async with running_gateway(settings) as gateway:
        yield gateway
        assert on_disk(gateway) == 0  # whatever the test did
        assert os.listdir(tmp_path) == []


def on_disk(gateway: RunningGateway) -> int:
    return gateway.gateway.snapshot.held_bodies.bytes_on_disk


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110  what is waited for are the gateway's own counts, which nobody announces
            await asyncio.sleep(0.005)


async def ask(gateway: RunningGateway, data: bytes) -> tuple[int, str]:
    response, body = parse(await talk(gateway.port, data, seconds=20), data.split(b" ", 1)[0])
    return response.status_code, json.loads(body)["code"] if response.status_code >= 400 else ""


@every_scheme
@pytest.mark.parametrize("chunk", [0, 10_000])
@pytest.mark.parametrize("size", [1, MEMORY_BYTES_MAX, MEMORY_BYTES_MAX + 1, BODY_MAX])
async def test_a_held_body_reaches_the_upstream_as_it_was_sent(
    size: int, chunk: int, scheme: str, gateway: RunningGateway, origin: Origin
) -> None:
    """Row 61: from memory or from disk, with its exact length, whatever it was framed with."""
    body = os.urandom(size)
    assert await ask(gateway, signed(scheme, body, chunk=chunk)) == (200, "")
    assert origin.seen[0].body == body
    assert origin.seen[0].one("content-length") == str(size)
    assert origin.seen[0].all("transfer-encoding") == []


@every_scheme
@pytest.mark.parametrize("chunk", [0, 100_000])
@pytest.mark.parametrize("size", [1000, MIB])
async def test_the_upstream_sees_nothing_of_a_body_that_was_changed(
    size: int, chunk: int, scheme: str, gateway: RunningGateway, origin: Origin
) -> None:
    """Row 63: not a byte, let alone a complete request; nor before the last byte has come."""
    data = bytearray(signed(scheme, b"x" * size, chunk=chunk))
    data[data.rindex(b"x")] ^= 1
    assert await ask(gateway, bytes(data)) == (401, "credentials_invalid")
    assert b"".join(origin.raw) == b""


@every_scheme
async def test_a_long_body_waits_on_disk_without_a_name_until_it_is_whole(
    scheme: str, gateway: RunningGateway, origin: Origin, tmp_path: Path
) -> None:
    """Row 63: a file that has no name is gone with its process, however that ends."""
    data = signed(scheme, b"x" * MIB)
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(data[:-1])
    await until(lambda: on_disk(gateway) > MIB - 2)
    assert os.listdir(tmp_path) == []
    assert b"".join(origin.raw) == b""
    assert sum(str(tmp_path) in name for name in open_files(os.getpid()).values()) == 1
    writer.write(data[-1:])
    assert b" 200 " in await reader.readline()
    writer.close()
    await until(lambda: on_disk(gateway) == 0)
    assert origin.seen[0].body == b"x" * MIB


@every_scheme
async def test_a_body_past_the_bound_is_413(scheme: str, gateway: RunningGateway, origin: Origin) -> None:
    """Row 33: at once where its length is known, at the bound where it is not."""
    data = signed(scheme, b"x" * (BODY_MAX + 1))
    head = data[: data.index(b"\r\n\r\n") + 4]
    assert await ask(gateway, head) == (413, "body_too_large")
    assert await ask(gateway, signed(scheme, b"x" * (BODY_MAX + 1), chunk=500_000)) == (413, "body_too_large")
    assert b"".join(origin.raw) == b""


@every_scheme
async def test_when_there_is_no_more_room_on_disk_a_call_is_503_and_others_go_on(
    scheme: str, gateway: RunningGateway, origin: Origin
) -> None:
    """A bound for all bodies together: who may send one may send many."""
    half = signed(scheme, b"x" * BODY_MAX)
    _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(half[:-1])
    await until(lambda: on_disk(gateway) > BODY_MAX - 2)
    response, body = parse(await talk(gateway.port, signed(scheme, b"y" * BODY_MAX), seconds=20))
    assert (response.status_code, json.loads(body)["code"]) == (503, "overloaded")
    assert dict(response.headers)[b"retry-after"] == b"2"
    assert await ask(gateway, signed(scheme, b"y" * 1000)) == (200, "")  # a small one needs none
    writer.close()
    await until(lambda: on_disk(gateway) == 0)
    assert await ask(gateway, signed(scheme, b"y" * BODY_MAX)) == (200, "")


@contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """The system takes no more than that into any file: an error of a disk, at a chosen byte."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@every_scheme
async def test_a_disk_that_takes_no_more_is_a_clear_error_and_leaks_nothing(
    scheme: str, gateway: RunningGateway, origin: Origin
) -> None:
    """Row 63: 503, not a hang and not half a body; the call after it works."""
    files = len(os.listdir("/proc/self/fd"))
    with files_end_at(300_000):
        for _ in range(5):
            assert await ask(gateway, signed(scheme, b"x" * MIB)) == (503, "overloaded")
    assert on_disk(gateway) == 0
    assert gateway.gateway.snapshot.held_bodies.failures == 5
    await until(lambda: len(os.listdir("/proc/self/fd")) <= files)
    assert await ask(gateway, signed(scheme, b"x" * MIB)) == (200, "")
    assert len(origin.seen) == 1


async def test_a_client_that_leaves_leaves_nothing(gateway: RunningGateway, origin: Origin) -> None:
    """Row 37: its file is closed when its connection is."""
    _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(signed("hmac", b"x" * MIB)[:-1])
    await until(lambda: on_disk(gateway) > MIB - 2)
    writer.transport.abort()
    await until(lambda: on_disk(gateway) == 0)
    assert b"".join(origin.raw) == b""


async def test_a_held_body_is_sent_again_when_the_first_attempt_fails(gateway: RunningGateway, origin: Origin) -> None:
    """Row 97: it is all here, so a PUT can be tried again; as one that is streamed can't."""
    body = os.urandom(MIB)
    attempts = []

    async def reset_once(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        attempts.append(seen.body)
        if len(attempts) == 1:
            writer.transport.abort()
        else:
            await answer_ok(seen, reader, writer)

    origin.answer = reset_once
    assert await ask(gateway, signed("http-signature", body, method="PUT")) == (200, "")
    assert attempts == [body, body]


async def test_an_upstream_that_answers_early_ends_the_upload(gateway: RunningGateway) -> None:
    """Row 101: what it has not read is not sent any more, and the next call has a connection of its own."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Much\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=4096)
    async with server:
        snapshot = gateway.gateway.snapshot
        settings = replace(snapshot.configuration, upstreams={"origin": upstream(server.sockets[0].getsockname()[1])})
        gateway.gateway.reload(settings)
        response, _ = parse(await talk(gateway.port, signed("hmac", b"x" * BODY_MAX), seconds=20))
        assert response.status_code == 413
        await until(lambda: on_disk(gateway) == 0)
