"""What a body costs, whatever the chunks in which it comes."""

from __future__ import annotations

import time

from ostiary.gateway.wire.request_body import RequestBody
from ostiary.gateway.wire.request_head import Framing

READ_BYTES = 64 * 1024


class Taker:
    """Counts what reaches the upstream."""

    def __init__(self) -> None:
        self.pieces = self.received_bytes = self.ends = 0

    def take_body(self, piece: bytes) -> None:
        self.pieces += 1
        self.received_bytes += len(piece)

    def end_body(self) -> None:
        self.ends += 1


class Source:
    def want_body(self) -> None:
        pass

    def hold_body(self) -> None:
        pass


def test_a_million_chunks_of_a_byte_are_a_write_for_each_read() -> None:
    """Row 14: written one by one they would be a million writes, and six times the bytes for the upstream."""
    count = 1_000_000
    data = b"1\r\nx\r\n" * count + b"0\r\n\r\n"
    body, taker = RequestBody(Framing.CHUNKED, -1, 1 << 62, Source()), Taker()
    body.stream_to(taker)
    began = time.process_time()
    for at in range(0, len(data), READ_BYTES):
        assert body.feed(data[at : at + READ_BYTES]) == b""
    assert time.process_time() - began < 20.0  # 1.3 s on an idle machine
    assert (taker.received_bytes, taker.ends, body.whole) == (count, 1, True)
    assert taker.pieces <= len(data) // READ_BYTES + 1
