"""A steady load of new connections, which tells what failed."""

from __future__ import annotations

import socket
import threading
import time

from tests.support.gateway_process import eventually

BODY_BYTES = 10  # of every answer that these clients expect


class Load:
    """Clients that each make one call after the other, every call on a new connection, until told to stop or turned away.

    A connection that was refused was never let in. One that was accepted and ended without a whole answer is a failure."""

    def __init__(self, port: int, *, clients: int = 4) -> None:
        self.answered = 0
        self.failures: list[str] = []
        self.refused_at: float | None = None
        self._port = port
        self._stop = threading.Event()
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
                try:
                    sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                    answer = b""
                    while not answer.partition(b"\r\n\r\n")[2]:
                        if not (data := sock.recv(1000)):
                            break
                        answer += data
                except OSError as error:
                    self.failures.append(repr(error))
                    continue
            if answer.startswith(b"HTTP/1.1 200") and len(answer.partition(b"\r\n\r\n")[2]) == BODY_BYTES:
                self.answered += 1
            else:
                self.failures.append(repr(answer))

    def wait_until_answered(self, more: int) -> None:
        until = self.answered + more
        eventually(lambda: self.answered >= until, f"{more} more answers")

    def stop(self) -> None:
        self._stop.set()
        self.join()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(20)
