"""What a connection keeps of its last head's lines saves look-ups, and changes nothing: a head means what it means alone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ostiary.core.errors import GatewayError
from ostiary.core.model import ClientLimits
from ostiary.gateway.wire.grammar import NAME_BYTES_KNOWN_MAX, HeaderLine
from ostiary.gateway.wire.request_head import parse_request_head
from ostiary.gateway.wire.response_head import ResponseError, parse_response_head

LIMITS = ClientLimits()

# Lines that differ in what they mean, in their value alone, in spelling alone, and lines that are none.
LINES = (
    *(b"Host: a.example", b"Host: b.example", b"host: a.example", b"Host:a.example ", b"Hosts: a.example"),
    *(b"Accept: */*", b"Accept:\ttext/html", b"accept: */*", b"Accept-Encoding: gzip", b"Accept: " + b"a" * 120),
    *(b"X-Nonce: 0123456789abcdef", b"X-Nonce: fedcba9876543210", b"X-Nonce:", b"x-nonce:  0123456789abcdef\t"),
    *(
        b"X-Other: 1",
        b"X-Other: 2",
        b"X-Other: 2\x00",
        b"X-Other : 2",
        b"X-Ostiary-Key: k",
        b"X_Nonce: 1",
        b"",
        b":",
        b" x: 1",
    ),
    *(b"Content-Length: 0", b"Content-Length: 5", b"Content-Length: 05", b"Content-Length: +5"),
    *(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked ", b"Transfer-Encoding:\tchunked"),
    *(
        b"Connection: close",
        b"Connection: keep-alive",
        b"Connection: x-other",
        b"Date: today",
        b"Via: 1.1 a",
        b"Via: 1.1 b",
    ),
    *(b"RateLimit: x", b"Expect: 100-continue", b"User-Agent: a", b"User-Agent: b\x7f", b"n" * 90 + b": 1"),
)
STARTS = (
    b"GET / HTTP/1.1",
    b"GET /a?b HTTP/1.1",
    b"POST / HTTP/1.0",
    b"GET / HTTP/1.1\t",
    b"BREW / HTTP/1.1",
    b"GET /# HTTP/1.1",
)
# What a head came to: classes that are compiled do not tell their slots.
OF_REQUESTS = (
    "framing",
    "host",
    "keep_alive",
    "length",
    "lines",
    "method",
    "minor",
    "path",
    "size",
    "target",
    "values",
)
OF_ANSWERS = ("dated", "framing", "length", "limit_lines", "lines", "reusable", "status", "status_line")
ANSWERS = (b"HTTP/1.1 200 OK", b"HTTP/1.0 404 Not Found", b"HTTP/1.1 204 ", b"HTTP/2 200")


def heads(starts: tuple[bytes, ...]) -> st.SearchStrategy[list[bytes]]:
    """Of one connection, one after the other."""
    head = st.builds(
        lambda start, lines: b"\r\n".join((start, *lines)),
        st.sampled_from(starts),
        st.lists(st.sampled_from(LINES), max_size=8),
    )
    return st.lists(head, min_size=1, max_size=6)


def request_said(head: bytes, layout: list[HeaderLine] | None) -> object:
    """All that a request's head came to."""
    try:
        parsed = parse_request_head(head, LIMITS, layout)
    except GatewayError as error:
        return error.code, error.reason
    return {name: getattr(parsed, name) for name in OF_REQUESTS}


def answer_said(head: bytes, layout: list[HeaderLine] | None) -> object:
    """All that an answer's head came to."""
    try:
        parsed = parse_response_head(head, b"GET", layout)
    except ResponseError as error:
        return str(error)
    return {name: getattr(parsed, name) for name in OF_ANSWERS}


@given(heads(STARTS))
def test_a_request_means_the_same_whatever_came_before_it(connection: list[bytes]) -> None:
    """A line taken for the one before would be another caller's nonce, or a second Content-Length that nobody has seen."""
    layout: list[HeaderLine] = []
    for head in connection:
        assert request_said(head, layout) == request_said(head, None)


@given(heads(ANSWERS))
def test_an_answer_means_the_same_whatever_came_before_it(connection: list[bytes]) -> None:
    """The same towards upstreams, whose connections carry the answers of many clients."""
    layout: list[HeaderLine] = []
    for head in connection:
        assert answer_said(head, layout) == answer_said(head, None)


def test_no_value_that_may_be_a_secret_is_kept() -> None:
    """A connection that idles for a minute would hold the last key in memory for as long."""
    layout: list[HeaderLine] = []
    secrets = (
        b"X-API-Key: sk_live_of_somebody",
        b"Authorization: Bearer sk_live_of_somebody",
        b"Cookie: session=sk_live",
    )
    parse_request_head(b"\r\n".join((b"GET / HTTP/1.1", b"Host: a.example", *secrets)), LIMITS, layout)
    kept = b"".join(part for line in layout for part in (line.prefix, line.lower, line.line, line.value))
    assert b"a.example" in kept
    assert b"sk_live" not in kept


def test_long_names_are_not_kept() -> None:
    """Thousands of idle connections would keep what their clients had made up, up to the bound of a head each."""
    layout: list[HeaderLine] = []
    names = (b"n" * 5000, b"m" * (NAME_BYTES_KNOWN_MAX + 1), b"k" * NAME_BYTES_KNOWN_MAX)
    for _ in range(2):
        head = b"\r\n".join((b"GET / HTTP/1.1", b"Host: a.example", *(name + b": 1" for name in names)))
        assert len(parse_request_head(head, LIMITS, layout).lines) == len(names)
    assert [len(line.prefix) - 1 for line in layout] == [4, -1, -1, NAME_BYTES_KNOWN_MAX]
