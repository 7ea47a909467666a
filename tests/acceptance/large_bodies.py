"""Bodies larger than a worker may keep, both ways, and how much memory that costs it. For the test and for the proof."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self
from zlib import crc32

from tests.acceptance.raw_origin import PATTERN
from tests.support.gateway_process import SECRET, eventually

MIB = 1 << 20
GROWTH_BYTES_MAX = 4 * MIB
STILL_SECONDS = 0.5
FRAMES = ("length", "chunked")


def under_way_bytes_max() -> int:
    """What the system itself may hold between origin and client: the largest buffers to send and to receive, for each of
    two connections. Past that, and a little for the programs, somebody in between is gathering."""
    settings = Path("/proc/sys/net/ipv4")
    largest = [int((settings / name).read_text().split()[2]) for name in ("tcp_rmem", "tcp_wmem")]
    return 2 * sum(largest) + 4 * MIB


def resident_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    line = next(line for line in lines if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


class ResidentMemory:
    """Samples the resident memory of a process from `with` to its end; `growth_bytes` is the most above `since_bytes`."""

    def __init__(self, pid: int, *, since_bytes: int) -> None:
        self._pid = pid
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._since_bytes = since_bytes
        self.most_bytes = 0
        self.samples = 0

    def __enter__(self) -> Self:
        self.most_bytes = resident_bytes(self._pid)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.most_bytes = max(self.most_bytes, resident_bytes(self._pid))

    @property
    def growth_bytes(self) -> int:
        return self.most_bytes - self._since_bytes

    def _sample(self) -> None:
        while not self._stop.wait(0.01):
            self.most_bytes = max(self.most_bytes, resident_bytes(self._pid))
            self.samples += 1


def open_connection(port: int, *, receive_buffer_bytes: int = 0) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    sock = socket.socket()
    if receive_buffer_bytes:  # before it connects: the window is agreed upon then
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
    sock.settimeout(120)
    sock.connect(("127.0.0.1", port))
    connection.sock = sock
    return connection


def ask(port: int, path: str) -> bytes:
    """A small GET on a connection of its own."""
    connection = open_connection(port)
    connection.request("GET", path, headers={"X-API-Key": SECRET})
    body = connection.getresponse().read()
    connection.close()
    return body


def bytes_sent_by_origin(port: int) -> int:
    return int(json.loads(ask(port, "/raw/sent"))["sent"])


class Download:
    """A body of `size` bytes of the pattern, read as fast or as slowly as wanted; every byte is compared."""

    def __init__(self, port: int, size: int, frame: str, *, receive_buffer_bytes: int = 0) -> None:
        self._connection = open_connection(port, receive_buffer_bytes=receive_buffer_bytes)
        self._connection.request("GET", f"/raw/source?bytes={size}&frame={frame}", headers={"X-API-Key": SECRET})
        self._response = self._connection.getresponse()
        assert self._response.status == 200
        assert (self._response.getheader("Content-Length") is None) == (frame == "chunked")
        self._buffer = memoryview(bytearray(256 * 1024))
        self._size = size
        self.read_bytes = 0

    @property
    def socket(self) -> socket.socket:
        sock = self._connection.sock
        assert sock is not None
        return sock

    def read(self, count: int) -> int:
        """Up to `count` bytes more; 0 at the end."""
        got = self._response.readinto(self._buffer[:count])
        at = self.read_bytes % MIB
        expected = PATTERN[at : at + got]
        expected += PATTERN[: got - len(expected)]
        assert self._buffer[:got] == expected, f"bytes after {self.read_bytes} differ"
        self.read_bytes += got
        return got

    def read_rest(self) -> None:
        while self.read(256 * 1024):
            pass
        assert self.read_bytes == self._size
        self._connection.close()

    def close(self) -> None:
        """Leaves without the rest."""
        self._response.close()
        self._connection.close()


class Upload:
    """Sends `size` bytes of the pattern; `sent_bytes` is how far it is. The origin must have got each of them."""

    def __init__(self, port: int, size: int, frame: str, *, hold: bool = False) -> None:
        self._port, self._size, self._frame, self._hold = port, size, frame, hold
        self._checksum = 0
        self.sent_bytes = 0

    def run(self) -> None:
        headers = {"X-API-Key": SECRET, "Content-Type": "application/octet-stream"}
        if self._hold:
            headers["X-Hold"] = "1"
        chunked = self._frame == "chunked"
        headers |= {"Transfer-Encoding": "chunked"} if chunked else {"Content-Length": str(self._size)}
        connection = open_connection(self._port)
        connection.request("POST", "/raw/sink", body=self._pieces(), headers=headers, encode_chunked=chunked)
        response = connection.getresponse()
        body = response.read()
        connection.close()
        assert response.status == 200, body
        assert json.loads(body) == {"bytes": self._size, "crc32": self._checksum}

    def _pieces(self) -> Iterator[bytes]:
        while self.sent_bytes < self._size:
            at = self.sent_bytes % MIB
            piece = PATTERN[at : at + min(256 * 1024, self._size - self.sent_bytes)]
            self._checksum = crc32(piece, self._checksum)
            yield piece
            self.sent_bytes += len(piece)


def once_it_stands_still(question: Callable[[], int], what: str) -> int:
    """The value of `question` once it has been the same, and not 0, for `STILL_SECONDS`."""
    last, since = -1, time.monotonic()

    def still() -> int | None:
        nonlocal last, since
        value, now = question(), time.monotonic()
        if value != last:
            last, since = value, now
        return value if value and now - since >= STILL_SECONDS else None

    return eventually(still, what)
