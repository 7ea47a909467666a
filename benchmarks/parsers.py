"""Head parsing, alternatives side by side: this engine's parser against llhttp (httptools) doing the same job.

    python -m benchmarks.parsers

The job is what the request path needs of a head: checked, sorted into what passes on and what the gateway reads, and ready to
be written upstream. llhttp's callbacks alone are shown too; they are not the whole job."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import httptools

from ostiary.core.model import ClientLimits
from ostiary.gateway.wire.grammar import REQUEST_HEADERS, RequestHeader
from ostiary.gateway.wire.request_head import parse_request_head

HEAD = (
    b"GET /v1/clients?limit=10 HTTP/1.1\r\nHost: api.example.com\r\n"
    b"X-API-Key: ak_test_abc:" + b"0123456789abcdef" * 4 + b"\r\n"
    b"X-Timestamp: 1763800000\r\nX-Nonce: 0123456789abcdef\r\nAccept: application/json\r\n"
    b"User-Agent: python-requests/2.32.3\r\n"
    b"Accept-Encoding: gzip, deflate\r\nX-Request-Id: 0123456789abcdef0123456789abcdef\r\n"
    b"Cookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\n\r\n"
)
LIMITS = ClientLimits()
ROUNDS, CALLS = 15, 10_000


class Callbacks:
    """What llhttp calls, at the least."""

    def on_message_begin(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []

    def on_url(self, target: bytes) -> None:
        self.target = target

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_message_complete(self) -> None:
        pass


class Job(Callbacks):
    """The same, sorted and ready to be written."""

    def on_message_begin(self) -> None:
        self.passing: list[bytes] = []
        self.values: dict[bytes, bytes] = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        lower = name.lower()
        kind = REQUEST_HEADERS.get(lower, RequestHeader.PASS)
        if kind is RequestHeader.PASS or kind is RequestHeader.NOTED:
            self.passing.append(b"%b: %b" % (name, value))
        if kind is not RequestHeader.PASS:
            self.values[lower] = value


def _micros(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    for _ in range(CALLS):
        call()
    return (time.perf_counter() - start) / CALLS * 1e6


def main() -> None:
    bare, job = httptools.HttpRequestParser(Callbacks()), httptools.HttpRequestParser(Job())
    head = HEAD[:-4]
    candidates: dict[str, Callable[[], object]] = {
        "llhttp, callbacks alone": lambda: bare.feed_data(HEAD),
        "llhttp, the whole job": lambda: job.feed_data(HEAD),
        "parse_request_head": lambda: parse_request_head(head, LIMITS),
    }
    figures: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(ROUNDS):  # alternating, so that a noisy machine is noisy for all
        for name, call in candidates.items():
            figures[name].append(_micros(call))
    print(f"{'':26}{'min':>8}{'median':>8}{'max':>8}  µs a head")
    for name, values in figures.items():
        print(f"{name:26}{min(values):8.2f}{statistics.median(values):8.2f}{max(values):8.2f}")


if __name__ == "__main__":
    main()
