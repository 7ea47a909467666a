"""What another parser, h11, reads in a stream of requests or of answers."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final, Literal

import h11

EVENT_BYTES_MAX = 1 << 24

# h11 judges framing headers in trailers; here trailers are dropped whatever they say (row 16), so h11 has no say about these.
framed_by_trailers: Final = re.compile(
    rb"\n0+(?:;[^\r\n]*)?\r\n(?:[^\r\n]+\r\n)*?(?:transfer-encoding|content-length):", re.IGNORECASE
).search

Headers = list[tuple[bytes, bytes]]


@dataclass
class Message:
    """One request or answer. `start` is method or status, `target` that of a request."""

    start: bytes
    target: bytes = b""
    headers: Headers = field(default_factory=list)
    body: bytes = b""


class RequestReader:
    """Reads the requests of one connection as they come. `garbled` is what h11 says against it, if anything."""

    def __init__(self, *, one: bool = False) -> None:
        self.messages: list[Message] = []
        self.garbled: str | None = None
        self.rest = b""  # what follows the first request, for a reader of one
        self._one = one
        self._judge = h11.Connection(h11.SERVER, max_incomplete_event_size=EVENT_BYTES_MAX)
        self._current: Message | None = None

    @property
    def begun(self) -> bool:
        """A request has begun and is not whole."""
        return self._current is not None or bool(self._judge.trailing_data[0])

    def feed(self, data: bytes) -> int:
        """The number of requests that `data` has made whole."""
        before = len(self.messages)
        if self.garbled is None:
            try:
                self._judge.receive_data(data)
                self._read()
            except h11.RemoteProtocolError as error:
                self.garbled = str(error)
        return len(self.messages) - before

    def _read(self) -> None:
        while True:
            event = self._judge.next_event()
            if isinstance(event, h11.Request):
                self._current = Message(bytes(event.method), bytes(event.target), list(event.headers))
            elif isinstance(event, h11.Data):
                assert self._current is not None
                self._current.body += event.data
            elif isinstance(event, h11.EndOfMessage):
                assert self._current is not None
                self.messages.append(self._current)
                self._current = None
                rest = self._judge.trailing_data[0]
                if self._one:
                    self.rest = bytes(rest)
                    return
                self._judge = h11.Connection(h11.SERVER, max_incomplete_event_size=EVENT_BYTES_MAX)
                if rest:
                    self._judge.receive_data(rest)
            else:
                return


@dataclass
class Answers:
    """The final answers of one connection in order, and how it ended; "interim": after a 1xx, with no other answer begun."""

    messages: list[Message]
    end: Literal["clean", "interim", "partial", "garbled"]
    why: str = ""


def read_answers(data: bytes, methods: list[bytes]) -> Answers:
    """Everything that came to a client, which had sent requests of these methods, as h11 reads it to the end."""
    messages: list[Message] = []
    for method in methods:
        if not data:
            return Answers(messages, "clean")
        judge = h11.Connection(h11.CLIENT, max_incomplete_event_size=EVENT_BYTES_MAX)
        judge.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
        judge.send(h11.EndOfMessage())
        judge.receive_data(data)
        judge.receive_data(b"")
        message = None
        try:
            while not isinstance(event := judge.next_event(), h11.EndOfMessage):
                if isinstance(event, h11.Response):
                    message = Message(b"%d" % event.status_code, b"", list(event.headers))
                elif isinstance(event, h11.Data):
                    assert message is not None
                    message.body += event.data
                elif not isinstance(event, h11.InformationalResponse):
                    return Answers(messages, "partial", repr(event))
        except h11.RemoteProtocolError as error:
            if message is None and "event type ConnectionClosed" in str(error):
                return Answers(messages, "interim", str(error))
            partial = "closed" in str(error) or "without sending" in str(error)
            return Answers(messages, "partial" if partial else "garbled", str(error))
        assert message is not None
        messages.append(message)
        data = judge.trailing_data[0]
    return Answers(messages, "garbled" if data else "clean", f"more than was asked for: {data[:60]!r}" if data else "")


def read_requests(data: bytes) -> list[Message]:
    """The requests that h11 sees in all that a client has sent, up to where it gives up. One empty line before each is left
    out: RFC 9112 §2.2 allows it, h11 does not."""
    messages: list[Message] = []
    while data := data.removeprefix(b"\r\n"):
        reader = RequestReader(one=True)
        if not reader.feed(data):
            break
        messages += reader.messages
        data = reader.rest
    return messages
