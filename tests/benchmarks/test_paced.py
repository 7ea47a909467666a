from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from benchmarks.load import LoadFailed, paced_load
from benchmarks.paced import Pace, PacedLoad, client_frame
from benchmarks.processes import Processes
from tests.support.gateway_process import eventually

REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes"


class Server:
    """Answers every request with `answer`; without one it says nothing, or closes the connection."""

    def __init__(self, answer: bytes = b"", *, closes: bool = False) -> None:
        self._answer, self._closes = answer, closes
        self.answered = 0
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection = self._listener.accept()[0]
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(ConnectionResetError):  # as a generator ends that is ended
            while connection.recv(len(REQUEST), socket.MSG_WAITALL) and not self._closes:
                if self._answer:
                    connection.sendall(self._answer)
                    self.answered += 1

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@contextmanager
def serving(answer: bytes = b"", *, closes: bool = False) -> Iterator[Server]:
    server = Server(answer, closes=closes)
    try:
        yield server
    finally:
        server.close()


def pace(directory: Path, server: Server, **changes: object) -> Pace:
    path = directory / "requests"
    path.write_bytes(REQUEST)
    values = {"connections": 4, "seconds": 1.0, "per_second": 200.0, "answer_bytes": 3} | changes
    return Pace(port=server.port, requests=str(path), request_bytes=len(REQUEST), **values)  # type: ignore[arg-type]  # as above


def test_connections_are_there_before_the_load_begins(tmp_path: Path) -> None:
    """To connect would be in the CPU of the first requests."""
    with (
        serving(ANSWER) as server,
        Processes(tmp_path) as processes,
        paced_load(processes, pace(tmp_path, server)) as run,
    ):
        eventually(lambda: server.connections == 4, "all connections are there")
        assert server.answered == 0
        result = run()
        assert server.answered >= result.requests > 0
        assert 0 < result.latency_p50_us <= result.latency_p99_us
        assert server.connections == 4


def test_calls_that_are_due_and_not_answered_are_in_the_latencies(tmp_path: Path) -> None:
    """A gateway that stands still would seem fast, if those who wait for it were left out."""
    with serving() as server:
        load = PacedLoad(pace(tmp_path, server, connections=1, seconds=0.2, per_second=500.0))
        load.run()
    assert load.answered == 0
    assert len(load.waits) > 10
    assert max(load.waits) > 0.1


@pytest.mark.parametrize(
    ("answer", "closes"), [(b"HTTP/1.1 503 No\r\nContent-Length: 3\r\n\r\nno.", False), (b"", True)]
)
def test_an_answer_that_is_no_success_is_no_result(answer: bytes, closes: bool, tmp_path: Path) -> None:
    """A refusal costs less than an answer."""
    with (
        serving(answer, closes=closes) as server,
        Processes(tmp_path) as processes,
        paced_load(processes, pace(tmp_path, server)) as run,
        pytest.raises(LoadFailed, match="1 broke off"),
    ):
        run()


def test_a_message_is_a_whole_masked_frame() -> None:
    """The sample of RFC 6455 §5.7, under another mask; and the three forms of a length."""
    frame = client_frame(b"Hello")
    assert frame[:2] == b"\x81\x85"
    assert bytes(byte ^ frame[2 + index % 4] for index, byte in enumerate(frame[6:])) == b"Hello"
    assert client_frame(b"x" * 1024)[:4] == b"\x81\xfe\x04\x00"
    assert client_frame(b"x" * 65536)[:10] == b"\x81\xff" + (65536).to_bytes(8, "big")
