"""What is not certain is refused: before any upstream hears of it, without an echo, and with the connection closed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import httptools
import pytest

from ostiary.core.model import ClientLimits
from tests.gateway.wire.corpus import BAD, MARK, Bad
from tests.support.gateway import RunningGateway, configuration, route, running_gateway, talk, upstream
from tests.support.origin import Origin, running_origin


@pytest.fixture
async def origin() -> AsyncIterator[Origin]:
    async with running_origin() as origin:
        yield origin


@pytest.fixture
async def gateway(origin: Origin) -> AsyncIterator[RunningGateway]:
    async with running_gateway(configuration([upstream(origin.port)], [route()])) as gateway:
        yield gateway


class Judge:
    """One answer, read by llhttp."""

    def __init__(self, data: bytes) -> None:
        self.headers: list[tuple[str, str]] = []
        self.body = b""
        self.whole = 0
        parser = httptools.HttpResponseParser(self)
        parser.feed_data(data)
        self.status = parser.get_status_code()

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.decode().lower(), value.decode()))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.whole += 1


@pytest.mark.parametrize("bad", BAD, ids=[f"row {bad.row} {bad.name[:40]}" for bad in BAD])
async def test_a_bad_request_is_refused_and_nothing_reaches_the_upstream(
    bad: Bad, gateway: RunningGateway, origin: Origin
) -> None:
    """A request that two parsers could read differently would let one caller speak for another.

    Rows 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 30, 38, 40, 41, 42, 45:
    refused with the exact status, `Connection: close`, and nothing upstream."""
    answer = Judge(await talk(gateway.port, bad.data))
    assert answer.status == bad.status
    headers = dict(answer.headers)
    assert headers["connection"] == "close"
    assert headers["content-type"] == "application/problem+json"
    problem = json.loads(answer.body)
    assert problem["status"] == bad.status
    assert problem["request_id"] == headers["x-request-id"]
    assert MARK not in answer.body
    assert MARK.decode() not in str(answer.headers)
    assert gateway.count("gateway_errors_total", code=problem["code"]) == 1
    assert origin.seen == []
    assert answer.whole == 1
    if bad.status == 405:
        assert "GET" in headers["allow"]


@pytest.mark.parametrize("size", [1, 7])
@pytest.mark.parametrize(
    "bad", [bad for bad in BAD if len(bad.data) < 1000], ids=lambda bad: f"{bad.row} {bad.name[:30]}"
)
async def test_a_bad_request_in_small_pieces_is_refused_all_the_same(
    bad: Bad, size: int, gateway: RunningGateway, origin: Origin
) -> None:
    """Rows 1, 5, 9, 12: a parser that judged by what one read brings could be led around by slicing."""
    pieces = [bad.data[at : at + size] for at in range(0, len(bad.data), size)]
    answer = Judge(await talk(gateway.port, *pieces))
    assert answer.status == bad.status
    assert origin.seen == []


async def test_a_bad_request_behind_a_good_one_is_refused_and_ends_the_connection(
    gateway: RunningGateway, origin: Origin
) -> None:
    """Rows 28, 15: what follows bytes of unknown meaning must never be served."""
    good = b"GET /good HTTP/1.1\r\nHost: a.test\r\n\r\n"
    bad = b"POST /bad HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    data = await talk(gateway.port, good + bad + good)
    assert data.startswith(b"HTTP/1.1 200 OK\r\n")
    assert data.count(b"HTTP/1.1 200") == 1
    assert data.count(b"HTTP/1.1 400") == 1
    assert [seen.target for seen in origin.seen] == ["/good"]


async def test_a_line_without_a_colon_is_refused_though_its_name_is_known(
    gateway: RunningGateway, origin: Origin
) -> None:
    """Row 11: names that were seen before are remembered; a line is still judged as a whole."""
    good = b"GET / HTTP/1.1\r\nHost: a.test\r\nX-Seen: 1\r\nConnection: close\r\n\r\n"
    assert (await talk(gateway.port, good)).startswith(b"HTTP/1.1 200")
    assert (await talk(gateway.port, good.replace(b": 1", b""))).startswith(b"HTTP/1.1 400")
    assert len(origin.seen) == 1


async def test_a_head_that_does_not_come_is_answered_with_408(origin: Origin) -> None:
    """Row 35: a client that sends a head forever would hold its connection forever."""
    limits = ClientLimits(head_seconds=0.1)
    settings = configuration([upstream(origin.port)], [route()], client_limits=limits)
    async with running_gateway(settings) as gateway:
        answer = Judge(await talk(gateway.port, b"GET / HTTP/1.1\r\nHost: a"))
        assert answer.status == 408


async def test_a_body_that_stops_coming_is_answered_with_408(origin: Origin) -> None:
    """Row 35: the same for a body."""
    limits = ClientLimits(body_idle_seconds=0.1)
    settings = configuration([upstream(origin.port)], [route()], client_limits=limits)
    async with running_gateway(settings) as gateway:
        answer = Judge(await talk(gateway.port, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc"))
        assert answer.status == 408
    assert origin.seen == []


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_past_the_route_s_bound_is_refused(chunked: bool, origin: Origin) -> None:
    """Row 33: 413 at once by Content-Length, at the bound when chunked; the upstream never has a whole request."""
    settings = configuration([upstream(origin.port)], [route(body_bytes_max=1000)])
    async with running_gateway(settings) as gateway:
        if chunked:
            body = b"1f4\r\n" + b"a" * 500 + b"\r\n"
            data = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + body * 3 + b"0\r\n\r\n"
        else:
            data = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n"
        answer = Judge(await talk(gateway.port, data))
        assert answer.status == 413
        assert json.loads(answer.body)["code"] == "body_too_large"
    assert origin.seen == []
