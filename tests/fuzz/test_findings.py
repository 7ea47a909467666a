"""What the fuzzer has found, as it printed it. Each was mended; each would be found again."""

from __future__ import annotations

import pytest

from tests.fuzz.memory import MemoryLoop
from tests.fuzz.requests import Case, run_case
from tests.fuzz.stage import Stage

FINDINGS: dict[str, Case] = {
    "a refused HEAD was answered with a body": Case(
        pieces=(b"HEAD /length HTTP/1.1\r\nContent-Length: 4\r\nHost: a.tes%00t\r\n\r\nPOST / HTTP/1.1\r\n",), eof=False
    ),
    "a HEAD whose chunks are broken was answered with a body": Case(
        pieces=(b"HEAD / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello!\r\n",), eof=True
    ),
    "a HEAD with a bare LF, byte by byte": Case(
        pieces=tuple(b"%c" % octet for octet in b"HEAD / HTTP/1.1\r\nHost: a.test\nX: 1\r\n\r\n"), eof=True
    ),
    "a half-close behind an empty line held the connection": Case(
        pieces=(b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1\r\n\r\nx\r\n",), eof=True
    ),
    "a half-close between two requests of a pipeline lost the second": Case(
        pieces=(b"DELETE /get HTTP/1.1\r\nHost: a.test\r\n\r\nGET / HTTP/1.1\r\nHost: a.test\r\n\r\n",), eof=True
    ),
    "a header without a colon whose name had been seen": Case(
        pieces=(b"GET / HTTP/1.1\r\nHost: a.test\r\nContent-Type: a\r\nContent-Type\r\n\r\n",), eof=True
    ),
    "requests behind trailers that h11 refuses, and the gateway drops": Case(
        pieces=(
            b"GET /:80/ HTTP/1.1\r\nHost: a.test\r\n\r\nPOST / HTTP/1.1\r\nHost: a.test\r\n\r\n"
            b"POST /chunked HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"3\r\nabc\r\n0\r\nX-T: 1\r\nHost: b.test\r\nContent-Length: +9\r\n\r\n"
            b"POST /length HTTP/1.1\r\nHost: a.test\r\nContent-Length: 4\r\n\r\n\r\n\r\n"
            b"PUT / HTTP/1.1\r\nHost: a.test\r\n\r\nGET /last HTTP/1.1\r\nHost: a.test\r\n\r\n",
        ),
        eof=False,
    ),
    "a half-close in a body that was asked for": Case(
        pieces=(
            b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"A\r\n0123456789\r\n4294967296\r\n\r\n",
        ),
        eof=True,
    ),
    "two empty lines before a request, in two reads": Case(
        pieces=(b"\r\n", b"\r\n", b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"), eof=True
    ),
}


@pytest.mark.parametrize("name", FINDINGS)
def test_what_was_found_once_stays_mended(name: str) -> None:
    """Rows 9, 11, 15, 37: each of these broke an invariant of tests/fuzz/requests.py."""
    loop = MemoryLoop()

    async def play() -> None:
        stage = Stage(loop)
        with stage.watching():
            await run_case(stage, FINDINGS[name])

    try:
        loop.run_until_complete(play())
    finally:
        loop.close()
