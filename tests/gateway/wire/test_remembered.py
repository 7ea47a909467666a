"""Lines, names and hosts that were seen before are remembered: that never changes what a head means, has a bound, and keeps
no secret."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ostiary.core.errors import GatewayError
from ostiary.core.model import ClientLimits
from ostiary.gateway.wire import request_head, response_head
from ostiary.gateway.wire.grammar import LINES_KNOWN_MAX, NAMES_KNOWN_MAX
from ostiary.gateway.wire.request_head import parse_request_head
from ostiary.gateway.wire.response_head import ResponseError, parse_response_head

LIMITS = ClientLimits()
REQUEST_MEMORY = (request_head._known_lines, request_head._known_names, request_head._known_hosts)
RESPONSE_MEMORY = (response_head._known_lines, response_head._known_names, response_head._known_starts)

NAMES = st.sampled_from(
    b"Host host Content-Length Transfer-Encoding Connection Content-Type Accept X-A x_a X-Ostiary-Key Date Expect".split()
)
SEPARATORS = st.sampled_from([b": ", b":", b" : ", b":\t", b"", b": \x00", b":\r", b":\n"])
VALUES = st.sampled_from(
    [
        b"",
        b"a.test",
        b"b.test",
        b"5",
        b"05",
        b"6",
        b"chunked",
        b"CHUNKED ",
        b"close",
        b"keep-alive,host",
        b"x\x7f",
        b" \xe9",
    ]
)
LINES = st.builds(lambda name, separator, value: name + separator + value, NAMES, SEPARATORS, VALUES)
TARGETS = st.sampled_from([b"/", b"/a?b", b"http://a.test/", b"*", b"/#", b"/\xe9"])
HEADS = st.builds(
    lambda target, lines: b"\r\n".join([b"GET " + target + b" HTTP/1.1", b"Host: a.test", *lines]),
    TARGETS,
    st.lists(LINES, max_size=4),
)
ANSWERS = st.builds(
    lambda start, lines: b"\r\n".join([start, *lines]),
    st.sampled_from([b"HTTP/1.1 200 OK", b"HTTP/1.0 200", b"HTTP/1.1 304 \x00", b"HTTP/1.1 99 Low"]),
    st.lists(LINES, max_size=4),
)


def _request(head: bytes) -> object:
    try:
        parsed = parse_request_head(head, LIMITS)
    except GatewayError as error:
        return error.code, error.reason
    start = (parsed.method, parsed.target, parsed.path, parsed.minor, parsed.host)
    return start, parsed.lines, parsed.values, parsed.framing, parsed.length, parsed.keep_alive


def _answer(head: bytes) -> object:
    try:
        parsed = parse_response_head(head, b"GET")
    except ResponseError as error:
        return str(error)
    rest = (parsed.framing, parsed.length, parsed.reusable, parsed.dated)
    return parsed.status, parsed.status_line, parsed.lines, parsed.limit_lines, rest


@settings(max_examples=300)
@given(st.lists(HEADS, max_size=6), HEADS)
def test_a_head_means_the_same_whatever_came_before_it(before: list[bytes], head: bytes) -> None:
    """Rows 9, 10, 11: a line once judged good must not make a bad one pass, nor one client's line change another's."""
    for memory in REQUEST_MEMORY:
        memory.clear()
    alone = _request(head)
    for each in before:
        _request(each)
    assert _request(head) == alone
    assert _request(head) == alone


@settings(max_examples=300)
@given(st.lists(ANSWERS, max_size=6), ANSWERS)
def test_an_answer_means_the_same_whatever_came_before_it(before: list[bytes], head: bytes) -> None:
    """Row 99: the same for what upstreams send."""
    for memory in RESPONSE_MEMORY:
        memory.clear()
    alone = _answer(head)
    for each in before:
        _answer(each)
    assert _answer(head) == alone
    assert _answer(head) == alone


def test_made_up_lines_names_and_hosts_are_forgotten_at_a_bound() -> None:
    """Row 18: clients choose names and values; what is remembered of them must not grow, nor stop the useful ones from coming
    back."""
    for number in range(10_000):
        head = b"GET / HTTP/1.1\r\nHost: h%d.test\r\nAccept: %d\r\nX-N%d: 1" % (number, number, number)
        _request(head)
        _answer(b"HTTP/1.1 200 R%d\r\nServer: %d\r\nX-N%d: 1" % (number, number, number))
    for memory in (*REQUEST_MEMORY, *RESPONSE_MEMORY):
        assert len(memory) <= max(LINES_KNOWN_MAX, NAMES_KNOWN_MAX)
    _request(b"GET / HTTP/1.1\r\nHost: last.test\r\nX-Last: 1")
    assert b"X-Last" in request_head._known_names
    assert b"last.test" in request_head._known_hosts


def test_no_secret_and_no_person_is_remembered() -> None:
    """Row 10: memory that outlives a request must hold no credential of it."""
    lines = (
        b"X-API-Key: mark",
        b"Authorization: Bearer mark",
        b"Cookie: mark",
        b"X-Forwarded-For: mark",
        b"X-Any: mark",
    )
    for line in lines:
        _request(b"GET /mark HTTP/1.1\r\nHost: a.test\r\n" + line)
        _answer(b"HTTP/1.1 200 OK\r\nSet-Cookie: mark\r\nLocation: mark")
    for memory in (*REQUEST_MEMORY, *RESPONSE_MEMORY):
        assert not any(b"mark" in each for each in memory)
