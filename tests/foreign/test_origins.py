"""What was admitted is what servers that others wrote have read: method, target, headers, body, and how many of them."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
from collections.abc import AsyncIterator
from pathlib import Path

import h11
import pytest

from tests.foreign.servers import NAMES, running_server
from tests.gateway.wire.odd import ODD, Odd
from tests.support.gateway import RunningGateway, configuration, route, running_gateway, upstream
from tests.support.origin import Answer, Seen, running_origin

# What a server will not read at all; it has then seen no other message than the one admitted, and says so.
REFUSED: dict[str, set[str]] = {name: set() for name in NAMES}


def tell() -> Answer:
    """What foreign origins do that answer for themselves (node_origin.js)."""
    numbers = itertools.count(1)

    async def answer(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = json.dumps(seen.headers).encode()
        digest = _digest(seen.method, seen.target, seen.body)
        writer.write(
            b"HTTP/1.1 200 OK\r\nX-Number: %d\r\nX-Saw: %b\r\nContent-Length: %d\r\n\r\n"
            % (next(numbers), digest.encode(), len(body))
        )
        writer.write(b"" if seen.method == "HEAD" else body)

    return answer


def _digest(method: str, target: str, body: bytes) -> str:
    return hashlib.sha256(f"{method} {target}\n".encode("latin-1") + body).hexdigest()


@pytest.fixture(params=[name if name == "gunicorn" else pytest.param(name, marks=pytest.mark.full) for name in NAMES])
def name(request: pytest.FixtureRequest) -> str:
    value: str = request.param
    return value


@pytest.fixture
async def gateway(name: str, tmp_path: Path) -> AsyncIterator[RunningGateway]:
    async with running_origin(tell()) as origin:
        with running_server(name, tmp_path, behind=origin.port) as port:
            async with running_gateway(configuration([upstream(port)], [route()])) as gateway:
                yield gateway
        assert origin.garbled == []


async def _answers(port: int, requests: list[Odd]) -> list[tuple[h11.Response, bytes]]:
    """The answers to requests that arrive in one pipeline, as h11 reads them."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"".join(odd.data for odd in requests))
    writer.write_eof()
    data = await asyncio.wait_for(reader.read(), 60)
    writer.close()
    answers = []
    for odd in requests:
        judge = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
        judge.send(h11.Request(method=odd.method, target="/", headers=[("Host", "a")]))
        judge.send(h11.EndOfMessage())
        judge.receive_data(data)
        judge.receive_data(b"")
        response, body = None, b""
        while not isinstance(event := judge.next_event(), h11.EndOfMessage):
            if isinstance(event, h11.Response):
                response = event
            elif isinstance(event, h11.Data):
                body += event.data
            else:
                raise AssertionError(event)
        assert response is not None
        answers.append((response, body))
        data = judge.trailing_data[0]
    return answers


async def test_a_foreign_origin_reads_the_message_that_was_admitted(name: str, gateway: RunningGateway) -> None:
    """Rows 15, 20, 25, 31, 43, 47: where gateway and server read a message differently, one caller speaks for another. Sent
    in one pipeline, so that a body that a server takes for the next request shows in what it has counted."""
    requests = [odd for odd in ODD if b" HTTP/1.0\r\n" not in odd.data]
    number = 0
    for odd, (response, body) in zip(requests, await _answers(gateway.port, requests), strict=True):
        headers = {key.decode(): value.decode() for key, value in response.headers}
        if odd.name in REFUSED[name]:
            assert 400 <= response.status_code < 500, odd
            continue
        assert response.status_code == 200, (odd, body)
        number += 1
        assert int(headers["x-number"]) == number, odd
        assert headers["x-saw"] == _digest(odd.method, odd.target, odd.body), odd
        if odd.method != "HEAD":
            seen = json.loads(body)
            for key, value in odd.headers:
                assert [each for header, each in seen if header == key] == [value], odd
            assert [each for header, each in seen if header in ("upgrade", "http2-settings", "trailer")] == [], odd
