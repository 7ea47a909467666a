"""A load generator beside wrk, for what wrk can't do: calls that begin when they are due, whether or not the gateway keeps
up; connections that are there before anything is measured; and messages over WebSocket.

`python -m benchmarks.paced '{"port": …}'` opens its connections and speaks with the bench as `generating.py` says."""

from __future__ import annotations

import ctypes
import json
import math
import random
import select
import socket
import ssl
import sys
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from benchmarks.generating import Broken, Outcome, block_signal, generate

_PR_SET_TIMERSLACK = 29
_TIMER_SLACK_NANOSECONDS = 1000  # the kernel's own 50 µs would be in every latency
_RECEIVE_BYTES = 1 << 18
_HANDSHAKE_SECONDS = 30
_UPGRADE = (
    b"GET %b HTTP/1.1\r\nHost: api.example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
_MASK = b"\x11\x22\x33\x44"


@dataclass(frozen=True, slots=True)
class Pace:
    """What is asked of it. `per_second` calls a second at random times (independent callers: gaps are exponentially
    distributed), or None: each connection begins the next call when the last is answered.

    Calls are the requests of a file, `request_bytes` each, the last of which is followed by the first, and answers have
    `answer_bytes` of body. With `message_bytes` the connections are upgraded at `target` instead, and calls are messages
    that come back as they are. With `certificate` and `key` (PEM files) they are of TLS, which shows these."""

    port: int
    connections: int
    seconds: float
    per_second: float | None = None
    requests: str = ""
    request_bytes: int = 0
    answer_bytes: int = 0
    target: str = ""
    message_bytes: int | None = None
    certificate: str = ""
    key: str = ""


def client_frame(payload: bytes) -> bytes:
    """One whole text message of a client (RFC 6455 §5.2)."""
    masked = bytes(byte ^ _MASK[index % 4] for index, byte in enumerate(payload))
    return _frame_head(len(payload), masked=True) + _MASK + masked


def _frame_head(length: int, *, masked: bool) -> bytes:
    bit = 0x80 if masked else 0
    if length < 126:
        return bytes((0x81, bit | length))
    if length < 1 << 16:
        return bytes((0x81, bit | 126)) + length.to_bytes(2, "big")
    return bytes((0x81, bit | 127)) + length.to_bytes(8, "big")


class Calls:
    """What is sent, and when an answer is whole. Raises OSError for a file that is not there."""

    def __init__(self, pace: Pace) -> None:
        if pace.message_bytes is None:
            content = Path(pace.requests).read_bytes()
            size = pace.request_bytes
            self._sent = [content[start : start + size] for start in range(0, len(content), size)]
            self._answer_bytes = pace.answer_bytes
            self._echo = None
        else:
            payload = b"x" * pace.message_bytes
            self._sent = [client_frame(payload)]
            self._echo = _frame_head(len(payload), masked=False) + payload
        self._next = 0

    def next(self) -> bytes:
        call = self._sent[self._next]
        self._next = (self._next + 1) % len(self._sent)
        return call

    def is_whole(self, answer: bytes) -> bool:
        """Raises Broken for what is no success."""
        if self._echo is not None:
            if len(answer) < len(self._echo):
                return False
            if answer != self._echo:
                raise Broken("a message came back as another")
            return True
        head = answer.find(b"\r\n\r\n")
        if head < 0 or len(answer) < head + 4 + self._answer_bytes:
            return False
        if answer[9:12] != b"200":
            raise Broken(answer[:60].decode("latin-1"))
        return True


class PacedLoad:
    """Connects at once; `run` makes the calls. `waits` are seconds from when a call was due to its answer, or, of those that
    have none, to the end."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._calls = Calls(pace)
        self._poll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        self._free: deque[int] = deque()
        self._due: dict[int, float] = {}  # of the calls under way
        self._partial: dict[int, bytes] = {}
        self.waits: list[float] = []
        self.answered = 0
        tls = _client_context(pace) if pace.certificate else None
        for _ in range(pace.connections):
            connection = socket.create_connection(("127.0.0.1", pace.port), timeout=_HANDSHAKE_SECONDS)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if tls is not None:
                connection = tls.wrap_socket(connection)
            if pace.message_bytes is not None:
                _upgrade(connection, pace.target)
            self._sockets[connection.fileno()] = connection
            self._free.append(connection.fileno())
            self._poll.register(connection, select.EPOLLIN)

    def run(self) -> Outcome:
        """Raises Broken, OSError."""
        begun = time.monotonic()
        end = begun + self._pace.seconds
        waiting: deque[float] = deque()  # calls that are due and have no connection
        due = begun
        while (now := time.monotonic()) < end:
            if self._pace.per_second is None:
                waiting.extend([now] * len(self._free))
                due = end
            while due <= now:
                waiting.append(due)
                due += random.expovariate(self._pace.per_second or math.inf)
            while waiting and self._free:
                self._begin(waiting.popleft())
            # select() has microseconds where epoll has milliseconds.
            if select.select([self._poll], [], [], max(0.0, min(due, end) - time.monotonic()))[0]:
                for descriptor, _ in self._poll.poll(0):
                    self._hear(descriptor)
        # Who still waits has waited at least so long; left out, a gateway that stood still would seem fast.
        if self._pace.per_second is not None:
            self.waits += [end - since for since in (*waiting, *self._due.values())]
        return Outcome(self.answered, time.monotonic() - begun, self.waits)

    def _begin(self, due: float) -> None:
        descriptor = self._free.popleft()
        self._due[descriptor] = due
        self._sockets[descriptor].sendall(self._calls.next())

    def _hear(self, descriptor: int) -> None:
        data = self._sockets[descriptor].recv(_RECEIVE_BYTES)
        if not data or descriptor not in self._due:
            raise Broken("a connection ended, or spoke without being asked")
        if self._partial:
            data = self._partial.pop(descriptor, b"") + data
        if not self._calls.is_whole(data):
            self._partial[descriptor] = data
            return
        self.waits.append(time.monotonic() - self._due.pop(descriptor))
        self.answered += 1
        self._free.append(descriptor)


def _client_context(pace: Pace) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    # A server of TLS 1.3 sends tickets after the handshake: readable, and nothing to read.
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(pace.certificate, pace.key)
    return context


def _upgrade(connection: socket.socket, target: str) -> None:
    connection.sendall(_UPGRADE % target.encode())
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        if not (data := connection.recv(1)):
            break
        answer += data
    if not answer.startswith(b"HTTP/1.1 101"):
        raise Broken(f"no upgrade: {answer[:60]!r}")


def main(text: str) -> None:
    pace = Pace(**json.loads(text))
    block_signal()
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, _TIMER_SLACK_NANOSECONDS, 0, 0, 0)
    generate(PacedLoad(pace).run)


if __name__ == "__main__":
    main(sys.argv[1])
