"""Listening sockets, and what the connections that they accept inherit of them."""

from __future__ import annotations

import socket

import pytest

from ostiary.gateway.listening import UNSENT_BYTES_MAX, bind_shared, reserve


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_kernel_takes_little_of_an_answer_that_its_client_does_not_read(host: str) -> None:
    """Row 35: it would take 4 MiB for each of a thousand slow readers, and a worker would be busy copying."""
    with reserve(host, 0) as held, bind_shared(host, held.getsockname()[1]) as listening:
        listening.listen()
        listening.setblocking(True)
        with socket.socket(listening.family) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(listening.getsockname())
            connection, _ = listening.accept()
            with connection:
                assert UNSENT_BYTES_MAX <= taken_by(connection) < 2 * UNSENT_BYTES_MAX


def taken_by(connection: socket.socket) -> int:
    """How many bytes can be written to it before it has to be waited for; not more than 64 MiB are tried."""
    connection.setblocking(False)
    taken = 0
    try:
        while taken < 64 << 20:
            taken += connection.send(bytes(64 * 1024))
    except BlockingIOError:
        pass
    return taken
