"""Connections that do nothing, and the memory that a worker spends on them. For the test and for the proof."""

from __future__ import annotations

import resource
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from tests.acceptance.slow_clients import open_connections
from tests.support.gateway_process import GatewayProcess, eventually

REQUEST = b"GET /raw/source?bytes=200&frame=length HTTP/1.1\r\nHost: api.example.com\r\nUser-Agent: idle\r\n\r\n"
# The first connections pay for pools that the later ones use too.
WARM_UP = 200


def raise_descriptor_limit() -> int:
    """To what the machine allows; the limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def proportional_bytes(pid: int) -> int:
    """Memory of a process, its share of what it shares (PSS)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no Pss in smaps_rollup")


@dataclass(frozen=True)
class Held:
    connections: int
    asked: bool
    bytes_each: int
    answered: int
    next_seconds: float

    def __str__(self) -> str:
        what = "after a request on each" if self.asked else "before any request"
        return (
            f"{self.connections:6} connections {what:24} {self.bytes_each:6} bytes each; "
            f"one more call in {self.next_seconds * 1e3:.1f} ms"
        )


class Idle:
    """Connections from several addresses, as many as one can give ports to each."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._sockets: list[socket.socket] = []
        self.answered = 0

    def open(self, count: int, *, ask: bool) -> None:
        for _ in range(count):
            source = f"127.0.0.{2 + len(self._sockets) // 5_000}"
            sock = socket.create_connection(("127.0.0.1", self._port), timeout=30, source_address=(source, 0))
            self._sockets.append(sock)
            if ask:
                self.answered += answered(sock)

    def close(self) -> None:
        for sock in self._sockets:
            sock.close()


def answered(sock: socket.socket) -> bool:
    sock.sendall(REQUEST)
    data = b""
    while len(data.partition(b"\r\n\r\n")[2]) < 200:
        piece = sock.recv(4096)
        if not piece:
            return False
        data += piece
    return data.startswith(b"HTTP/1.1 200 ")


def hold(gateway: GatewayProcess, connections: int, *, ask: bool) -> Held:
    """Opens them, reads what the worker grew by, makes one more call, closes them."""
    (pid,) = gateway.worker_pids()
    idle = Idle(gateway.port)
    try:
        idle.open(WARM_UP, ask=True)
        eventually(lambda: open_connections(gateway) >= WARM_UP, "the first are open")
        idle.answered = 0
        before = proportional_bytes(pid)
        idle.open(connections, ask=ask)
        eventually(lambda: open_connections(gateway) >= WARM_UP + connections, "all are open")
        grown = proportional_bytes(pid) - before
        began = time.monotonic()
        idle.open(1, ask=True)
        seconds = time.monotonic() - began
    finally:
        idle.close()
    eventually(lambda: open_connections(gateway) == 0, "all are closed")
    return Held(connections, ask, max(0, grown) // connections, idle.answered, seconds)
