from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.generating import Broken
from benchmarks.handshakes import NewClients, run
from benchmarks.load import handshake_load
from benchmarks.processes import Processes
from benchmarks.sweeps.certificates import write_certificate

REQUEST = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


class Server:
    """Answers one request of each connection; `resumed` says of each whether it took up a session."""

    def __init__(self, directory: Path, status: int) -> None:
        pair = write_certificate(directory)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(pair.cert, pair.key)
        self._answer = f"HTTP/1.1 {status} Said\r\nConnection: close\r\n\r\nyes".encode()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.resumed: list[bool | None] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                plain = self._listener.accept()[0]
            except OSError:
                return
            with plain, self._context.wrap_socket(plain, server_side=True) as connection:
                self.resumed.append(connection.session_reused)
                connection.recv(4096)
                connection.sendall(self._answer)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@contextmanager
def serving(directory: Path, *, status: int = 200) -> Iterator[Server]:
    server = Server(directory, status)
    try:
        yield server
    finally:
        server.close()


def test_every_request_has_a_whole_handshake_of_its_own(tmp_path: Path) -> None:
    """A session that is taken up again costs a gateway half of it, and would be measured as a new client."""
    with (
        serving(tmp_path) as server,
        Processes(tmp_path) as processes,
        handshake_load(processes, NewClients(server.port, 2, 0.3, REQUEST)) as load,
    ):
        result = load()
        assert result.requests == len(server.resumed) > 2
        assert not any(server.resumed)
        assert 0 < result.latency_p50_us <= result.latency_p99_us


def test_a_refusal_is_no_result(tmp_path: Path) -> None:
    """It costs less than an answer."""
    with serving(tmp_path, status=503) as server, pytest.raises(Broken, match="503"):
        run(NewClients(server.port, 1, 0.3, REQUEST))
