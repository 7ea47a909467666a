"""A load generator of new clients over TLS: each request has a connection of its own, and a whole handshake. (wrk comes back
with the ticket of its last session.)

`python -m benchmarks.handshakes '{"port": …}'` speaks with the bench as `generating.py` says."""

from __future__ import annotations

import json
import socket
import ssl
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from benchmarks.generating import Broken, Outcome, block_signal, generate

_PATIENCE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class NewClients:
    """`clients` at a time; each sends `request`, which asks for the connection's end, reads the answer to that end, and comes
    as another."""

    port: int
    clients: int
    seconds: float
    request: str


class Client:
    """One after another, in a thread of its own: OpenSSL lets go of the interpreter meanwhile."""

    def __init__(self, wanted: NewClients) -> None:
        self._wanted = wanted
        self._request = wanted.request.encode()
        # No session is given to a connection, so none is taken up.
        self._context = ssl.create_default_context()
        self._context.check_hostname, self._context.verify_mode = False, ssl.CERT_NONE

    def run(self, end: float) -> list[float]:
        """The seconds that each took, from the connection's beginning to its end; one at least, however late it is already.
        Raises Broken, OSError."""
        took: list[float] = []
        now = time.monotonic()
        while not took or now < end:
            begun = now
            self._call()
            now = time.monotonic()
            took.append(now - begun)
        return took

    def _call(self) -> None:
        address = ("127.0.0.1", self._wanted.port)
        with (
            socket.create_connection(address, timeout=_PATIENCE_SECONDS) as plain,
            self._context.wrap_socket(plain) as connection,
        ):
            if connection.session_reused:
                raise Broken("a session was taken up, which is not to be measured here")
            connection.sendall(self._request)
            answer = b""
            while data := connection.recv(65536):
                answer += data
        if answer[9:12] != b"200":
            raise Broken(answer[:60].decode("latin-1"))


def run(wanted: NewClients) -> Outcome:
    """Raises Broken, OSError."""
    begun = time.monotonic()
    with ThreadPoolExecutor(wanted.clients) as pool:
        runs = [pool.submit(Client(wanted).run, begun + wanted.seconds) for _ in range(wanted.clients)]
        took = [seconds for each in runs for seconds in each.result()]
    return Outcome(len(took), time.monotonic() - begun, took)


def main(text: str) -> None:
    wanted = NewClients(**json.loads(text))
    block_signal()
    generate(lambda: run(wanted))


if __name__ == "__main__":
    main(sys.argv[1])
