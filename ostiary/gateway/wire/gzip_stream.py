"""The body of one answer on its way from upstream to client, compressed: in slices, so that no answer holds up the loop, with
bounded memory, and without holding back what the upstream has sent."""

from __future__ import annotations

import asyncio
import zlib
from collections import deque
from typing import TYPE_CHECKING, Final

from ostiary.gateway.signal import Signal

from .chunked import LAST_CHUNK, encode_chunk

if TYPE_CHECKING:
    from .client import ClientConnection
    from .upstream import UpstreamConnection

# 32 KiB of JSON take 0.3 to 0.6 ms at this level; 6, zlib's own, takes half as much again and saves 3 % more.
LEVEL: Final = 5
SLICE_BYTES: Final = 32 * 1024
_GZIP_WINDOW: Final = 16 + 15  # the gzip format, the usual window
_MEMORY_LEVEL: Final = 8

# A stream takes 268 KiB of zlib's, and at most two reads of the upstream (256 KiB each). Past so many at a time in a worker,
# answers go out as they are.
STREAMS_MAX: Final = 256


class GzipStreams:
    """How many streams are open in a worker."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0

    def open(self) -> GzipStream | None:
        """A new stream, or None at the bound."""
        if self.count >= STREAMS_MAX:
            return None
        self.count += 1
        return GzipStream(self)


class GzipStream:
    """`bytes_out` counts what it gave, without the framing in chunks."""

    __slots__ = ("_client", "_closed", "_last", "_streams", "_turning", "_upstream", "_waiting", "_zlib", "bytes_out")

    def __init__(self, streams: GzipStreams) -> None:
        self._streams = streams
        self._zlib = zlib.compressobj(LEVEL, zlib.DEFLATED, _GZIP_WINDOW, _MEMORY_LEVEL)
        self._waiting: deque[bytes] = deque()
        self._client: ClientConnection | None = None
        self._upstream: UpstreamConnection | None = None
        self._last: Signal[bytes] | None = None
        self._turning = False
        self._closed = False
        self.bytes_out = 0

    def all_at_once(self, body: bytes) -> bytes:
        """A whole body, framed; for one that is not longer than a slice."""
        compressed = self._zlib.compress(body) + self._zlib.flush()
        self.bytes_out = len(compressed)
        return encode_chunk(compressed) + LAST_CHUNK

    def begin(self, client: ClientConnection, upstream: UpstreamConnection) -> None:
        """From now on what it is given goes to `client`, and `upstream` waits while it has enough."""
        self._client = client
        self._upstream = upstream

    def take(self, piece: bytes) -> None:
        """The next piece of the body."""
        self._waiting.append(piece)
        if not self._turning:
            self._turn()
        elif self._upstream is not None:
            self._upstream.hold()

    def finish(self, piece: bytes) -> Signal[bytes]:
        """The last piece, which may be empty. The signal gets what the client gets last, framed."""
        last = self._last = Signal()
        self.take(piece)
        return last

    def close(self) -> None:
        """Gives back what it holds, whether the body is whole or not."""
        if not self._closed:
            self._closed = True
            self._waiting.clear()
            self._streams.count -= 1

    def _turn(self) -> None:
        """One slice. The next has its turn after whatever else the loop has to do."""
        self._turning = False
        if self._closed or self._client is None or self._upstream is None or not self._waiting:
            return
        piece = self._waiting.popleft()
        if len(piece) > SLICE_BYTES:
            self._waiting.appendleft(piece[SLICE_BYTES:])
            piece = piece[:SLICE_BYTES]
        compressed = self._zlib.compress(piece)
        if self._waiting:
            self._write(compressed)
            self._turning = True
            self._upstream.hold()
            asyncio.get_running_loop().call_soon(self._turn)
        elif self._last is not None:
            compressed += self._zlib.flush()
            self.bytes_out += len(compressed)
            self._last.set(encode_chunk(compressed) + LAST_CHUNK)
        else:
            # All that has come is given out: an upstream that pauses may be waiting for the client to act on it.
            self._write(compressed + self._zlib.flush(zlib.Z_SYNC_FLUSH))
            if not self._client.stalled:
                self._upstream.release()

    def _write(self, compressed: bytes) -> None:
        if compressed and self._client is not None:
            self.bytes_out += len(compressed)
            self._client.write(encode_chunk(compressed))
