"""Requests as bytes, and answers as h11 reads them."""

from __future__ import annotations

import h11


def request(target: str = "/", *lines: bytes, method: bytes = b"GET", body: bytes = b"", close: bool = True) -> bytes:
    """`lines` are header lines. With `close` it is the last of its connection."""
    head = (
        method
        + b" "
        + target.encode()
        + b" HTTP/1.1\r\nHost: api.test\r\n"
        + b"".join(line + b"\r\n" for line in lines)
    )
    return head + (b"Connection: close\r\n" if close else b"") + b"\r\n" + body


def parse(data: bytes, method: bytes = b"GET") -> tuple[h11.Response, bytes]:
    """One answer as h11 reads it; raises if it is not whole."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(data)
    connection.receive_data(b"")
    body = b""
    response: h11.Response | None = None
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Response):
            response = event
        elif isinstance(event, h11.InformationalResponse):
            continue
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            assert response is not None
            return response, body
        else:
            raise AssertionError(event)
