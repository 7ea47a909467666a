"""A request's body on its way from the client to whoever wants it: an upstream, or the check of a signature.

Bodies are never gathered unless a signature needs them whole (held_body.py). Before there is a taker, what has arrived
waits here and the client is not read further past `WAITING_BYTES_MAX`."""

from __future__ import annotations

from typing import Final, Protocol

from ostiary.core.errors import ErrorCode, GatewayError

from .chunked import ChunkedDecoder, ChunkedError
from .deadlines import NEVER
from .request_head import Framing

WAITING_BYTES_MAX: Final = 64 * 1024
# A body must come at this pace, after a first `body_idle_seconds` in which it need not. A kilobit a second is less than any
# network gives; without a pace, a byte every so often would hold its connection and one of the upstream's for ever.
BYTES_PER_SECOND_MIN: Final = 128


class BodyTaker(Protocol):
    """Where a body streams to."""

    def take_body(self, piece: bytes) -> None: ...

    def end_body(self) -> None: ...


class BodySource(Protocol):
    """The client's side: what a body may ask of it."""

    def want_body(self) -> None:
        """Someone wants the body now: answer `Expect: 100-continue`, read on."""
        ...

    def hold_body(self) -> None:
        """Whoever takes the body can't keep up: stop reading."""
        ...


class RequestBody:
    """`received_bytes` counts payload. `whole` once the last byte is here. `length` is what is known, else -1."""

    __slots__ = (
        "_decoder",
        "_due",
        "_left",
        "_source",
        "_taker",
        "_waiting",
        "bytes_max",
        "framing",
        "length",
        "received_bytes",
        "whole",
    )

    def __init__(self, framing: Framing, length: int, bytes_max: int, source: BodySource) -> None:
        self.framing = framing
        self.length = length
        self.bytes_max = bytes_max
        self.received_bytes = 0
        self.whole = False
        self._left = length
        self._due = NEVER  # when its first byte is, at the pace that it must have
        self._decoder = ChunkedDecoder() if framing is Framing.CHUNKED else None
        self._source = source
        # One buffer, not a list of pieces: a client may send a byte at a time, and an object costs 40 bytes.
        self._waiting = bytearray()
        self._taker: BodyTaker | None = None

    # --- from the client's side

    def feed(self, data: bytes) -> bytes:
        """Takes what belongs to the body and gives back what does not (the next request).

        Raises GatewayError MALFORMED_REQUEST or BODY_TOO_LARGE; both close the connection."""
        rest = b""
        if self._decoder is not None:
            try:
                pieces, rest = self._decoder.feed(data)
            except ChunkedError as error:
                raise GatewayError(ErrorCode.MALFORMED_REQUEST, f"chunked body: {error}", closes=True) from error
            if len(pieces) == 1:
                self._deliver(pieces[0])
            elif pieces:  # in one piece: chunks of a byte would cost the upstream six bytes and a write each
                self._deliver(b"".join(pieces))
            self.whole = self._decoder.finished
        else:
            if len(data) > self._left:
                data, rest = data[: self._left], data[self._left :]
            self._left -= len(data)
            self._deliver(data)
            self.whole = self._left == 0
        if self.whole:
            self._finish()
        return rest

    def _deliver(self, piece: bytes) -> None:
        self.received_bytes += len(piece)
        if self.received_bytes > self.bytes_max:
            raise GatewayError(ErrorCode.BODY_TOO_LARGE, "the body is longer than the route takes", closes=True)
        if self._taker is not None:
            self._taker.take_body(piece)
        else:
            self._waiting += piece

    def _finish(self) -> None:
        if self._taker is not None:
            self._taker.end_body()

    def pace_from(self, deadline: float) -> None:
        """It is wanted, and more of it is due at `deadline`. The time in which nobody wanted it is not the client's."""
        self._due = deadline - self.received_bytes / BYTES_PER_SECOND_MIN

    def due(self, deadline: float) -> float:
        """When more of it is due: at `deadline`, or before that at its pace."""
        return min(deadline, self._due + self.received_bytes / BYTES_PER_SECOND_MIN)

    # --- from the request path's side

    @property
    def held_back(self) -> bool:
        """Nobody takes the body yet and enough of it waits."""
        return self._taker is None and len(self._waiting) >= WAITING_BYTES_MAX

    def limit(self, bytes_max: int) -> None:
        """Lowers the bound to the route's. Raises GatewayError BODY_TOO_LARGE when it is passed already, or will be."""
        self.bytes_max = bytes_max
        if self.length > bytes_max or self.received_bytes > bytes_max:
            raise GatewayError(ErrorCode.BODY_TOO_LARGE, "the body is longer than the route takes", closes=True)

    def take_whole(self, bytes_max: int) -> bytes | None:
        """All of it, if it is here, was not begun to be taken and is at most so long: else None, and nothing is taken."""
        if not self.whole or self._taker is not None or len(self._waiting) > bytes_max:
            return None
        waiting, self._waiting = bytes(self._waiting), bytearray()
        return waiting

    def stream_to(self, taker: BodyTaker) -> None:
        """From now on the body goes to `taker`, what waits first."""
        self._taker = taker
        if self._waiting:
            waiting, self._waiting = bytes(self._waiting), bytearray()
            taker.take_body(waiting)
        if self.whole:
            taker.end_body()
        else:
            self._source.want_body()

    # --- from the taker's side

    def hold(self) -> None:
        self._source.hold_body()

    def release(self) -> None:
        self._source.want_body()
