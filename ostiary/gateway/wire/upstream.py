"""The side towards upstreams: one protocol a connection, one request on it at a time.

The answer's head goes to the request path; its body goes straight to the client, re-framed, under backpressure, all but the
last part: that is handed to the request path, which meters the call before the client can have it whole."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, cast

from ostiary.gateway.signal import Signal

from .chunked import LAST_CHUNK, ChunkedDecoder, ChunkedError, encode_chunk
from .deadlines import NEVER, Deadlines
from .dialing import refused_in_handshake
from .grammar import HeaderLine
from .held_body import HeldBody
from .request_body import RequestBody
from .request_head import Framing
from .response_head import HEAD_BYTES_MAX, ResponseError, ResponseHead, parse_response_head
from .upgrade import granted_upgrade
from .upstream_failure import UpstreamFailure, UpstreamGarbled, UpstreamReset, UpstreamSilent

if TYPE_CHECKING:
    from .client import ClientConnection
    from .gzip_stream import GzipStream
    from .pool import TargetPool

_NO_BODY: Final = Framing.NONE
_LENGTH: Final = Framing.LENGTH
_CHUNKED: Final = Framing.CHUNKED
_UNTIL_CLOSE: Final = Framing.UNTIL_CLOSE

INTERIM_ANSWERS_MAX: Final = 32  # 1xx before the answer: a hint or two is usual, a stream of them an attack
WRITE_HIGH_BYTES: Final = 64 * 1024


class UpstreamConnection:
    """An asyncio protocol in all but name (see pool.as_protocol).

    `reused` tells a kept connection from a fresh one. `answer` is set with the head of the next answer; after one below 200
    there is a new `answer` for the next, but after a 101: `switched_to` is then the protocol that it grants. `tail` is the
    last part of the final answer's body, None before it has come."""

    __slots__ = (
        "_body",
        "_broken",
        "_chunked_out",
        "_client",
        "_deadlines",
        "_decoder",
        "_first_byte",
        "_first_byte_seconds",
        "_gzip",
        "_held",
        "_idle_seconds",
        "_interim",
        "_layout",
        "_left",
        "_lost",
        "_method",
        "_partial",
        "_pool",
        "_ready",
        "_request_whole",
        "_rest",
        "_sending_chunked",
        "answer",
        "busy",
        "bytes_relayed",
        "deadline",
        "head",
        "reused",
        "switched_to",
        "tail",
        "transport",
    )

    transport: asyncio.Transport

    def __init__(self, pool: TargetPool, deadlines: Deadlines) -> None:
        self._pool = pool
        self._deadlines = deadlines
        self.deadline = NEVER
        self.reused = False
        self.busy = False
        self._lost = False
        self._held = False
        self.answer: Signal[ResponseHead] = Signal()
        self.head: ResponseHead | None = None
        self.tail: bytes | None = None  # the last part of the answer, once it has come
        self.bytes_relayed = 0
        self.switched_to = b""
        self._rest: Signal[bytes] | None = None
        self._broken: UpstreamFailure | None = None
        self._partial = b""
        self._layout: list[HeaderLine] = []  # of the last head
        self._ready: list[bytes] = []  # of the body, before the client is attached
        self._decoder: ChunkedDecoder | None = None
        self._left = 0
        self._interim = 0
        self._first_byte = False
        self._client: ClientConnection | None = None
        self._body: RequestBody | HeldBody | None = None
        self._chunked_out = False
        self._gzip: GzipStream | None = None

    # --- one request

    def send(
        self,
        head: bytes,
        method: bytes,
        body: RequestBody | HeldBody | None,
        *,
        first_byte_seconds: float,
        idle_seconds: float,
    ) -> Signal[ResponseHead]:
        """Writes a request (`head` with whatever body it has gathered); `body` streams after it. The signal gets the head of
        the answer, or fails with UpstreamFailure; with ConnectFailed when the connection was none yet."""
        self.busy = True
        self._pool.in_flight += 1
        if self._lost or self.transport.is_closing():
            self.answer.fail(UpstreamReset("the upstream closed the connection"))
            return self.answer
        self._method = method
        self._idle_seconds = idle_seconds
        self._first_byte_seconds = first_byte_seconds
        self._request_whole = body is None
        self.deadline = self._deadlines.after(first_byte_seconds)
        self.transport.write(head)
        if body is not None:
            self._body = body
            self._sending_chunked = body.framing is _CHUNKED
            body.stream_to(self)
        return self.answer

    def take_body(self, piece: bytes) -> None:
        if self._lost or self.transport.is_closing():
            return
        self.transport.write(encode_chunk(piece) if self._sending_chunked else piece)
        if self.tail is None:
            # The client's pace is not the upstream's: its time for the first byte begins with the end of the request, and an
            # answer that has begun early may wait for more of the upload.
            self.deadline = self._deadlines.after(self._idle_seconds)

    def end_body(self) -> None:
        self._request_whole = True
        if self._sending_chunked and not self._lost and not self.transport.is_closing():
            self.transport.write(LAST_CHUNK)
        if self.head is None and not self._lost:
            self.deadline = self._deadlines.after(self._first_byte_seconds)

    # --- the answer arrives

    def data_received(self, data: bytes) -> None:
        if self.head is not None:
            self._read_body(data)
            return
        if not self.busy:
            self._fail(UpstreamGarbled("bytes without a request"))
            return
        self._first_byte = True
        if self._partial:
            data = self._partial + data
            self._partial = b""
        while True:
            head_bytes, end, rest = data.partition(b"\r\n\r\n")
            if not end or len(head_bytes) > HEAD_BYTES_MAX:
                if len(data) > HEAD_BYTES_MAX:
                    self._fail(UpstreamGarbled("the head of the answer is too long", answered=True))
                elif b"HTTP/1."[: len(data)] != data[:7]:
                    self._fail(UpstreamGarbled("not an HTTP/1.1 answer", answered=True))
                else:
                    self._partial = data
                return
            try:
                head = parse_response_head(head_bytes, self._method, self._layout)
            except ResponseError as error:
                self._fail(UpstreamGarbled(str(error), answered=True))
                return
            if head.status >= 200:
                break
            if head.status == 101:
                self._switch(head, head_bytes, rest)
                return
            self._interim += 1
            if self._interim > INTERIM_ANSWERS_MAX:
                self._fail(UpstreamGarbled("too many interim answers", answered=True))
                return
            if head.status != 100:  # the client was told to go on by the gateway itself (RFC 9110 §15.2)
                answer, self.answer = self.answer, Signal()
                answer.set(head)
            data = rest
        self._begin_answer(head, rest)

    def _switch(self, head: ResponseHead, raw: bytes, rest: bytes) -> None:
        """No HTTP comes after this. Whether it was asked for is the request path's to know."""
        self.head = head
        head.reusable = False
        self.deadline = NEVER
        self.switched_to = granted_upgrade(raw)
        if rest:
            self._ready.append(rest)
        self.answer.set(head)

    def enter(self) -> bytes:
        """The connection is a tunnel's from now on. What has come after the 101 is the result."""
        ready, self._ready = b"".join(self._ready), []
        return ready

    def _begin_answer(self, head: ResponseHead, rest: bytes) -> None:
        if rest and head.framing is _NO_BODY and (head.status == 204 or head.status == 304):
            self._fail(UpstreamGarbled("a body where there can be none", answered=True))
            return
        self.head = head
        if head.framing is _LENGTH:
            self._left = head.length
        elif head.framing is _CHUNKED:
            self._decoder = ChunkedDecoder()
        if head.framing is _NO_BODY:
            self._end_of_answer(b"", rest)
        elif rest:
            self._read_body(rest)
        else:
            self.deadline = self._deadlines.after(self._idle_seconds)
        self.answer.set(head)  # resumes the request path, which attaches the client

    def _read_body(self, data: bytes) -> None:
        head = self.head
        assert head is not None  # noqa: S101  by the caller
        if self.tail is not None:  # the answer has ended; its last part may still be waiting for the request path
            head.reusable = False
            self._break()
        elif head.framing is _LENGTH:
            left = self._left
            if len(data) >= left:
                self._left = 0
                self._end_of_answer(data[:left], data[left:]) if len(data) > left else self._end_of_answer(data, b"")
            else:
                self._left = left - len(data)
                self._relay(data)
        elif self._decoder is not None:
            try:
                pieces, rest = self._decoder.feed(data)
            except ChunkedError as error:
                self._fail(UpstreamGarbled(f"chunked answer: {error}", answered=True))
                return
            piece = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            if self._decoder.finished:
                self._end_of_answer(piece, rest)
            elif piece:
                self._relay(piece)
        elif head.framing is _UNTIL_CLOSE:
            self._relay(data)

    def _relay(self, piece: bytes) -> None:
        self.deadline = self._deadlines.after(self._idle_seconds)
        self.bytes_relayed += len(piece)
        if self._client is None:
            self._ready.append(piece)
        elif self._gzip is not None:
            self._gzip.take(piece)
        else:
            self._client.write(encode_chunk(piece) if self._chunked_out else piece)

    def _end_of_answer(self, piece: bytes, rest: bytes) -> None:
        """The last part waits in `tail` for the request path; the connection may carry the next request."""
        self.bytes_relayed += len(piece)
        self.deadline = NEVER
        head = self.head
        assert head is not None  # noqa: S101  by the callers
        if rest or not self._request_whole:
            head.reusable = False  # it said more than one answer, or did not wait for the request
        self.tail = piece
        if self._rest is not None:
            self._rest.set(piece)

    def rest(self) -> Signal[bytes]:
        """Gets the last part of the answer when it comes, or fails with UpstreamFailure."""
        rest = self._rest = Signal()
        if self.tail is not None:
            rest.set(self.tail)
        elif self._broken is not None:
            rest.fail(self._broken)
        return rest

    def attach(self, client: ClientConnection, *, chunked: bool) -> bytes:
        """From now on the body goes to `client`, framed as chunks if it should be. What has arrived is returned."""
        self._client = client
        self._chunked_out = chunked
        ready = self._ready
        if not ready:
            return b""
        self._ready = []
        piece = ready[0] if len(ready) == 1 else b"".join(ready)
        return encode_chunk(piece) if chunked else piece

    def attach_gzip(self, client: ClientConnection, stream: GzipStream) -> bytes:
        """As `attach`, by way of `stream`. What has arrived is returned as it came."""
        stream.begin(client, self)
        self._gzip = stream
        return self.attach(client, chunked=False)

    def watch_client(self, client: ClientConnection) -> None:
        """More of the body is to come: let the client's pace be ours."""
        client.source = self
        if client.stalled:
            self.hold()

    def frame_tail(self, piece: bytes) -> bytes:
        """The last part as the client gets it."""
        if not self._chunked_out:
            return piece
        return encode_chunk(piece) + LAST_CHUNK if piece else LAST_CHUNK

    # --- the connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are asyncio.Transport in all but name.
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES)
        self._deadlines.watch(self)

    def eof_received(self) -> bool:
        if self.head is not None and self.head.framing is _UNTIL_CLOSE and self.tail is None:
            self._end_of_answer(b"", b"")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._deadlines.forget(self)
        self._pool.discard(self)
        if not self.busy:
            return
        if exc is not None and not self.reused and not self._first_byte and self._body is None:
            refused = refused_in_handshake(exc)
            if refused is not None:
                self.answer.fail(refused)
        self._fail(UpstreamReset(self._ended(exc), answered=self._first_byte))

    def _ended(self, exc: Exception | None) -> str:
        how = "closed" if exc is None else "reset"
        if self.head is not None:
            return f"the upstream {how} the connection within the body of its answer"
        return f"the upstream {how} the connection " + (
            "within the head of its answer" if self._first_byte else "unasked"
        )

    def _fail(self, error: UpstreamFailure) -> None:
        self.deadline = NEVER
        self._break()
        if self.head is None:
            self.answer.fail(error)
        elif self.tail is None:
            self.head.reusable = False
            self._broken = error
            if self._rest is not None:
                self._rest.fail(error)
            self.answer.set(self.head)

    def abort(self) -> None:
        """Gives the request up: whoever waited has gone, or will ask another upstream."""
        if self.busy:
            self.busy = False
            self._pool.in_flight -= 1
        self.deadline = NEVER
        self._client = None
        self._gzip = None
        self._body = None  # which may go to another connection now
        self._pool.discard(self)
        self._break()

    def _break(self) -> None:
        if not self._lost:
            self._lost = True  # nothing more is written, though `connection_lost` comes a turn of the loop later
            self.transport.abort()

    def end(self) -> None:
        """The answer is whole and relayed: back into the pool, or closed."""
        reusable = self.head is not None and self.head.reusable and not self._lost
        self.busy = False
        self._pool.in_flight -= 1
        self._client = None
        self._gzip = None
        self._body = None
        if self._held:
            self.release()
        if not reusable:
            self._pool.discard(self)
            if not self._request_whole:
                self._break()  # it has answered without the rest of the upload: that is not sent any more
            elif not self._lost:
                self.transport.close()
                self.deadline = self._deadlines.after(self._idle_seconds)  # for what is still to be written
            return
        self.answer = Signal()
        self.head = self.tail = self._rest = self._decoder = None
        self.bytes_relayed = self._interim = 0
        self._first_byte = self._chunked_out = False
        self.reused = True
        self._pool.give_back(self)

    def on_deadline(self) -> None:
        if not self.busy:
            self._pool.discard(self)
            if self.transport.is_closing():
                self._break()  # it does not take what was left to be written
            else:
                self.transport.close()
                self.deadline = NEVER
        elif self._held:  # the client is slow, not the upstream
            self.deadline = self._deadlines.after(self._idle_seconds)
        else:
            self._fail(UpstreamSilent(self._silence(), answered=self._first_byte))

    def _silence(self) -> str:
        if self.head is not None:
            return f"no more of the body of the answer within {self._idle_seconds:g} s"
        if not self._request_whole:
            return f"the upload stood still for {self._idle_seconds:g} s"
        return f"no head of an answer within {self._first_byte_seconds:g} s"

    # --- backpressure

    def hold(self) -> None:
        """The client can't take more for now."""
        if not self._held and not self._lost and not self.transport.is_closing():
            self._held = True
            self.transport.pause_reading()

    def release(self) -> None:
        if self._held:
            self._held = False
            if self._lost or self.transport.is_closing():
                return
            self.transport.resume_reading()
            if self.busy:
                self.deadline = self._deadlines.after(self._idle_seconds)

    def pause_writing(self) -> None:
        if self._body is not None and not self._body.whole:
            self._body.hold()

    def resume_writing(self) -> None:
        if self._body is not None and not self._body.whole:
            self._body.release()
