"""What is odd and legal reaches the upstream as it is meant, whole or in pieces, alone or behind others; h11 reads it."""

from __future__ import annotations

import asyncio

import pytest

from ostiary.core.model import ClientLimits
from tests.gateway.wire.odd import ODD, Odd
from tests.support.gateway import RunningGateway, configuration, route, running_gateway, talk, upstream
from tests.support.origin import Origin, Seen

HOP_BY_HOP = {"te", "trailer", "keep-alive", "proxy-connection", "upgrade", "http2-settings", "x-consumer-id"}


def judge(odd: Odd, seen: Seen) -> None:
    assert (seen.method, seen.target, seen.body) == (odd.method, odd.target, odd.body)
    for name, value in odd.headers:
        assert seen.all(name) == [value]
    assert not HOP_BY_HOP & {name for name, _ in seen.headers}
    assert len(seen.all("host")) == 1


@pytest.mark.parametrize("size", [1 << 20, 7, 1])
@pytest.mark.parametrize("odd", ODD, ids=lambda odd: odd.name)
async def test_an_odd_request_means_the_same_upstream_whole_or_in_pieces(
    odd: Odd, size: int, gateway: RunningGateway, origin: Origin
) -> None:
    """Rows 20, 25, 31, 43, 47: what the gateway has judged and what the upstream serves must be one message.

    Accepted because RFC 9112 allows it and clients do it: absolute-form (any case, `https` as well) whose authority is the
    Host's, one empty line before a request, `CHUNKED`, zeros before a chunk size, chunk extensions, tabs around values,
    a Host with a dot at its end, HTTP/1.0 without Host, a body with any method."""
    data = odd.data
    if size < len(data) > 1000:
        size = 701  # a byte at a time tells nothing more about a long one
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    answer = await talk(gateway.port, *pieces, eof=True)
    assert answer.startswith(b"HTTP/1.1 200 ")
    (seen,) = origin.seen
    judge(odd, seen)


async def test_odd_requests_in_one_pipeline_are_told_apart(gateway: RunningGateway, origin: Origin) -> None:
    """Rows 15, 27, 31: each begins where the one before it ends; one byte off, and a body would be served as a request."""
    pipeline = [odd for odd in ODD if b" HTTP/1.0\r\n" not in odd.data]
    answer = await talk(gateway.port, b"".join(odd.data for odd in pipeline), eof=True, seconds=20)
    assert answer.count(b"HTTP/1.1 200 ") == len(pipeline)
    assert len(origin.seen) == len(pipeline)
    for odd, seen in zip(pipeline, origin.seen, strict=True):
        judge(odd, seen)


async def test_ten_thousand_parameters_pass_byte_for_byte(origin: Origin) -> None:
    """Row 43: a gateway that takes a query apart and puts it together again breaks signatures and caches."""
    target = "/q?" + "&".join(f"p{number}={number}%2f" for number in range(10_000))
    limits = ClientLimits(request_line_bytes=256 * 1024, head_bytes=512 * 1024)
    async with running_gateway(configuration([upstream(origin.port)], [route()], client_limits=limits)) as gateway:
        await talk(gateway.port, f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode(), eof=True)
    (seen,) = origin.seen
    assert seen.target == target


async def test_a_half_close_behind_an_empty_line_ends_the_connection(gateway: RunningGateway, origin: Origin) -> None:
    """Row 37: old clients end a body with an empty line; one that then half-closes would hold its connection for a minute."""
    data = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx\r\n"
    assert (await talk(gateway.port, data, eof=True)).count(b"HTTP/1.1 200 ") == 1
    assert not gateway.gateway.connections


async def test_a_status_without_a_reason_keeps_its_space(gateway: RunningGateway, origin: Origin) -> None:
    """Row 99: RFC 9112 §4 wants the space even where no reason follows; some clients look for it."""

    async def bare(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n")

    origin.answer = bare
    assert (await talk(gateway.port, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", eof=True)).startswith(b"HTTP/1.1 200 \r\n")
