"""Headers that say what an answer is, when it is valid and which part of it is meant: the ends' own, untouched both ways."""

from __future__ import annotations

from email.utils import parsedate_to_datetime

import pytest

from ostiary.core.model import Match
from tests.support.gateway import RunningGateway, configuration, route, running_gateway, talk, upstream
from tests.support.messages import parse, request
from tests.support.origin import Origin, answer_with

ASKED = (
    b"Range: bytes=0-1,5-",
    b'If-Range: "a"',
    b'If-None-Match: W/"a", "b"',
    b'If-Match: "c"',
    b"If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT",
    b"If-Unmodified-Since: Sun, 06 Nov 1994 08:49:37 GMT",
    b"Accept-Encoding: gzip;q=0.5, *;q=0",
    b"Cache-Control: no-store",
)
ANSWERED = (
    b"Content-Range: bytes 0-1/9",
    b"Accept-Ranges: bytes",
    b'ETag: W/"a"',
    b"Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT",
    b"Content-Encoding: gzip",
    b"Vary: Accept-Encoding",
    b"Age: 5",
    b"Date: Sun, 06 Nov 1994 08:49:37 GMT",
)


async def test_ranges_and_conditions_pass_untouched(gateway: RunningGateway, origin: Origin) -> None:
    """Rows 34, 48: a gateway that looked into them would answer for a cache that it is not."""
    head = b"HTTP/1.1 206 Partial Content\r\n" + b"".join(line + b"\r\n" for line in ANSWERED)
    origin.answer = answer_with(head + b"Content-Length: 2\r\n\r\n\x1f\x8b")
    data = await talk(gateway.port, request("/", *ASKED))
    assert [line for line in bytes(origin.raw[0]).split(b"\r\n") if line in ASKED] == list(ASKED)
    got, _, body = data.partition(b"\r\n\r\n")
    assert [line for line in got.split(b"\r\n") if line in ANSWERED] == list(ANSWERED)
    assert got.startswith(b"HTTP/1.1 206 Partial Content\r\n")
    assert body == b"\x1f\x8b"


async def test_an_answer_without_a_date_gets_one(gateway: RunningGateway, origin: Origin) -> None:
    """A recipient with a clock must add it (RFC 9110 §6.6.1); an upstream's own is kept, once."""
    response, _ = parse(await talk(gateway.port, request()))
    (date,) = [value.decode() for name, value in response.headers if name == b"date"]
    assert parsedate_to_datetime(date).tzinfo is not None


@pytest.mark.parametrize("name", ["X-Ostiary-Key", "Set-Cookie", "Content-Length", "X-API-Key"])
async def test_trailers_of_answers_are_dropped(name: str, gateway: RunningGateway, origin: Origin) -> None:
    """Row 16: a client that merged one into the head would take a late word for the upstream's answer (RFC 9110 §6.5.1)."""
    origin.answer = answer_with(
        b"HTTP/1.1 200 OK\r\nTrailer: " + name.encode() + b"\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"2\r\nok\r\n0\r\n" + name.encode() + b": evil\r\n\r\n"
    )
    data = await talk(gateway.port, request())
    assert b"evil" not in data
    assert b"trailer" not in data.lower()
    assert data.endswith(b"2\r\nok\r\n0\r\n\r\n")


@pytest.mark.parametrize("listed", ["X-Request-Id", "Date", "Transfer-Encoding", "Content-Length"])
async def test_an_upstream_s_connection_options_remove_none_of_the_gateway_s_own(
    listed: str, gateway: RunningGateway, origin: Origin
) -> None:
    """Rows 44, 103: an upstream could otherwise make an answer that has no end, or no id."""
    origin.answer = answer_with(
        b"HTTP/1.1 200 OK\r\nConnection: X-Mine, "
        + listed.encode()
        + b"\r\nX-Mine: 1\r\nX-Other: 2\r\nContent-Length: 2\r\n\r\nok"
    )
    response, body = parse(await talk(gateway.port, request()))
    names = [name for name, _ in response.headers]
    assert body == b"ok"
    assert names.count(b"x-request-id") == names.count(b"content-length") == names.count(b"date") == 1
    assert b"x-mine" not in names
    assert b"x-other" in names


async def test_absolute_form_is_served_by_the_host_it_names(origin: Origin) -> None:
    """Row 20: what is matched is what the target names, and the upstream sees the path alone."""
    routes = [route("a", match=Match("/**", hosts=("a.test",))), route("b", match=Match("/only-b", hosts=("b.test",)))]
    async with running_gateway(configuration([upstream(origin.port)], routes)) as gateway:
        for sent, status in (
            (b"GET http://a.test/x?y=1 HTTP/1.1\r\nHost: a.test\r\n", 200),
            (b"GET HTTP://A.test HTTP/1.1\r\nHost: a.test\r\n", 200),
            (b"GET http://b.test/only-b HTTP/1.1\r\nHost: a.test\r\n", 400),
            (b"GET http://c.test/x HTTP/1.1\r\nHost: c.test\r\n", 404),
        ):
            data = await talk(gateway.port, sent + b"Connection: close\r\n\r\n")
            assert data.startswith(b"HTTP/1.1 %d " % status), data
    assert [seen.target for seen in origin.seen] == ["/x?y=1", "/"]


async def test_a_chunked_answer_reaches_http_1_0_without_chunks(gateway: RunningGateway, origin: Origin) -> None:
    """HTTP/1.0 knows no chunks: it would show their sizes as text. The connection's end is the answer's."""
    origin.answer = answer_with(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    )
    data = await talk(gateway.port, b"GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n")
    head, _, body = data.partition(b"\r\n\r\n")
    assert body == b"abcde"
    assert b"transfer-encoding" not in head.lower()
    assert b"\r\nConnection: close" in head
