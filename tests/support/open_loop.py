"""Callers that come when they come, whether or not the gateway keeps up: calls begin at a fixed rate, each on a connection
that is free at that moment. A closed loop would slow down with the gateway, and could never overload it.

`python -m tests.support.open_loop '{"port": …}'` runs it as a process of its own and prints what it counted as JSON."""

from __future__ import annotations

import json
import math
import select
import socket
import sys
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

IN_TIME_SECONDS = 1.0
_STATUS = slice(9, 12)


@dataclass
class Tally:
    """What became of the calls of one path."""

    begun: int = 0
    served: int = 0  # 200, in time
    late: int = 0  # 200 after that
    refused: int = 0  # 503 with Retry-After
    failed: int = 0  # anything else
    seconds_of_served: list[float] = field(default_factory=list)


class OpenLoop:
    """`rate` calls a second for `seconds`, the paths in turn; inf for as many as the connections take (a closed loop).

    A call for which no connection is free is not made, and counted as `unmade`: the callers' own bound."""

    def __init__(self, *, port: int, rate: float, seconds: float, connections: int, paths: Sequence[str]) -> None:
        self._rate = rate
        self._seconds = seconds
        self._requests = [
            (path, f"GET {path} HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\n\r\n".encode()) for path in paths
        ]
        self._turn = 0
        self._sockets: dict[int, socket.socket] = {}
        self._free: deque[int] = deque()
        self._begun: dict[int, tuple[float, str]] = {}
        self._partial: dict[int, bytes] = {}
        self._poll = select.epoll()
        self.tallies = {path: Tally() for path in paths}
        self.unmade = 0
        self.failures: Counter[str] = Counter()
        for _ in range(connections):
            sock = socket.create_connection(("127.0.0.1", port), timeout=10)
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets[sock.fileno()] = sock
            self._free.append(sock.fileno())
            self._poll.register(sock, select.EPOLLIN)

    def run(self) -> None:
        start = time.monotonic()
        end = start + self._seconds
        made = 0
        while (now := time.monotonic()) < end:
            due = len(self._free) if self._rate == math.inf else int((now - start) * self._rate) - made
            made += due
            for _ in range(min(due, len(self._free))):
                self._begin(now)
            if self._rate != math.inf and due > 0:
                self.unmade += max(0, due - self._taken)
            self._taken = 0
            for descriptor, _ in self._poll.poll(0.001, 4096):
                self._hear(descriptor)
        until = time.monotonic() + 5
        while self._begun and time.monotonic() < until:
            for descriptor, _ in self._poll.poll(0.1):
                self._hear(descriptor)
        for _, path in self._begun.values():
            self.tallies[path].failed += 1
            self.failures["no answer"] += 1
        for sock in self._sockets.values():
            sock.close()

    _taken = 0

    def _begin(self, now: float) -> None:
        path, request = self._requests[self._turn % len(self._requests)]
        self._turn += 1
        self._taken += 1
        descriptor = self._free.popleft()
        tally = self.tallies[path]
        tally.begun += 1
        try:
            self._sockets[descriptor].send(request)
        except OSError:
            tally.failed += 1
            self._poll.unregister(descriptor)
            return
        self._begun[descriptor] = (now, path)

    def _hear(self, descriptor: int) -> None:
        try:
            data = self._sockets[descriptor].recv(4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        begun = self._begun.get(descriptor)
        if not data:
            self._poll.unregister(descriptor)
            if begun is not None:
                self.tallies[self._begun.pop(descriptor)[1]].failed += 1
            else:
                self._free.remove(descriptor)
            return
        if self._partial:
            data = self._partial.pop(descriptor, b"") + data
        if not data.endswith(_end_of(data)) or begun is None:
            self._partial[descriptor] = data
            return
        del self._begun[descriptor]
        self._free.append(descriptor)
        seconds = time.monotonic() - begun[0]
        tally = self.tallies[begun[1]]
        if data[_STATUS] == b"200":
            if seconds <= IN_TIME_SECONDS:
                tally.served += 1
                tally.seconds_of_served.append(seconds)
            else:
                tally.late += 1
        elif data[_STATUS] == b"503" and b"\r\nRetry-After: " in data and b'"code": "overloaded"' in data:
            tally.refused += 1
        else:
            tally.failed += 1
            self.failures[data.partition(b"\r\n")[0].decode("latin-1")] += 1


def _end_of(answer: bytes) -> bytes:
    """How an answer ends: a problem of the gateway's, a compressed one, or one that was left as it is."""
    if b"\r\nContent-Type: application/problem+json\r\n" in answer:
        return b"}\n"
    return b"\r\n0\r\n\r\n" if b"\r\nTransfer-Encoding: chunked\r\n" in answer else b"}]"


def quantile(values: Sequence[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * part))] if values else 0.0


def main() -> None:
    load = OpenLoop(**json.loads(sys.argv[1]))
    load.run()
    tallies = {}
    for path, tally in load.tallies.items():
        counts = asdict(tally)
        seconds = counts.pop("seconds_of_served")
        tallies[path] = counts | {"p50": quantile(seconds, 0.5), "p99": quantile(seconds, 0.99)}
    print(json.dumps({"unmade": load.unmade, "failures": load.failures, "paths": tallies}))


if __name__ == "__main__":
    main()
