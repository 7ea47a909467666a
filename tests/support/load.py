"""A steady load, on new connections or on kept ones, which tells what failed."""

from __future__ import annotations

import socket
import threading
import time

from tests.support.gateway_process import eventually

BODY_BYTES = 10  # of every answer that these clients expect
# Between two calls of a client: a load that is steady, and leaves the machine to the gateway.
PAUSE_SECONDS = 0.002


class Load:
    """Clients that each make one call after the other until told to stop or turned away: every call on a new connection, or
    with `keep` on one connection until an answer says `Connection: close`.

    A connection that was refused was never let in. One that was accepted and ended without a whole answer is a failure; a
    kept one too, since these clients pause for much less than the grace that idle connections get."""

    def __init__(self, port: int, *, clients: int = 4, keep: bool = False) -> None:
        self.closes = 0  # answers that ended their connection
        self.answered = 0
        self.failures: list[str] = []
        self.refused_at: float | None = None
        self._port = port
        self._stop = threading.Event()
        self._keep = keep
        self._threads = [threading.Thread(target=self._client) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def _client(self) -> None:
        while not self._stop.is_set():
            try:
                sock = socket.create_connection(("127.0.0.1", self._port), timeout=10)
            except OSError:
                self.refused_at = self.refused_at or time.monotonic()
                return
            with sock:
                while self._call(sock) and self._keep and not self._stop.is_set():
                    time.sleep(PAUSE_SECONDS)
            time.sleep(PAUSE_SECONDS)

    def _call(self, sock: socket.socket) -> bool:
        """Whether the connection may take another one."""
        try:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = b""
            while len(answer.partition(b"\r\n\r\n")[2]) < BODY_BYTES:
                if not (data := sock.recv(1000)):
                    break
                answer += data
        except OSError as error:
            self.failures.append(repr(error))
            return False
        head, _, body = answer.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200") or len(body) != BODY_BYTES:
            self.failures.append(repr(answer))
            return False
        self.answered += 1
        if b"connection: close" in head.lower():
            self.closes += 1
            return False
        return True

    def wait_until_answered(self, more: int) -> None:
        until = self.answered + more
        eventually(lambda: self.answered >= until, f"{more} more answers")

    def stop(self) -> None:
        self._stop.set()
        self.join()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(20)
