"""The side towards clients: one protocol a connection, its states in `states.py`.

It reads heads, hands each request to the request path, carries its body there and the answer back, in order, under
backpressure, and closes when where the next request begins is not certain."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from typing import TYPE_CHECKING, Final, cast

from ostiary.core.errors import ErrorCode, GatewayError
from ostiary.core.model import ClientLimits
from ostiary.gateway.exchange import ClientGone, Exchange
from ostiary.gateway.signal import Drive

from .deadlines import NEVER, Alarm, Deadlines
from .grammar import HeaderLine
from .request_body import RequestBody
from .request_head import Framing, RequestHead, parse_request_head, refuse_partial_head
from .room import Place, plain_address
from .states import (
    FOLLOWING,
    LINGER_BYTES_MAX,
    LINGER_SECONDS,
    READ_AHEAD_BYTES_MAX,
    Due,
    Event,
    ProtocolBug,
    State,
    what_is_due,
)

if TYPE_CHECKING:
    from ostiary.gateway.peer_certificate import PeerCertificate
    from ostiary.gateway.snapshot import Snapshot

    from .surroundings import RequestPath
    from .tunnel import Tunnel
    from .upstream import UpstreamConnection

logger: Final = logging.getLogger("ostiary.gateway.wire")

# What is kept for an end that takes less than comes, before the other one is read no more; one read of the loop, up to
# 256 KB, may come on top. More than this saves a fast client nothing.
WRITE_HIGH_BYTES: Final = 64 * 1024
# A FIN in the middle of an answer of unknown length: does the client only half-close, or has it left? Both look the same
# until the next byte of the answer meets a reset. An event stream may have none for hours, and the upstream would work for
# nobody: one that is silent for so long after the FIN is given up. A client that half-closes does so with its request.
HALF_CLOSED_PAUSE_SECONDS: Final = 0.25
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)  # struct linger: on, for 0 s
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

# Looked up once: a member of an enum by way of its class costs 40 ns, and a request has a dozen of them.
_IDLE: Final = State.IDLE
_HEAD: Final = State.HEAD
_BODY: Final = State.BODY
_WAITING: Final = State.WAITING
_EARLY: Final = State.EARLY
_ANSWERING: Final = State.ANSWERING
_LINGERING: Final = State.LINGERING
_CLOSED: Final = State.CLOSED
_REQUEST_WHOLE: Final = Event.REQUEST_WHOLE
_ANSWER_BEGUN: Final = Event.ANSWER_BEGUN
_ANSWER_WHOLE: Final = Event.ANSWER_WHOLE
_NO_BODY: Final = Framing.NONE


class ClientConnection:
    """One client: an asyncio protocol in all but name (see pool.as_protocol). `peer` is its address as text; `secure` whether
    TLS stands between."""

    __slots__ = (
        "_ahead",
        "_blank_line",
        "_bodiless",
        "_body",
        "_checked_bytes",
        "_clock",
        "_continue_owed",
        "_drive",
        "_eof",
        "_exchange",
        "_handle",
        "_held",
        "_layout",
        "_linger_bytes",
        "_lost",
        "_path",
        "_place",
        "_reading",
        "_relayed_bytes",
        "_stalled_bytes",
        "_turning",
        "certificate",
        "certificate_line",
        "deadline",
        "forwarding",
        "keep_alive",
        "limits",
        "peer",
        "secure",
        "source",
        "state",
        "transport",
        "tunnel",
    )

    transport: asyncio.Transport

    def __init__(self, path: RequestPath) -> None:
        self._path = path
        self.limits = path.limits
        self.state = _IDLE
        self.deadline = NEVER
        self.peer = ""
        self.secure = False
        self.certificate: PeerCertificate | None = None  # that the client came with
        self.certificate_line = b""  # the header Client-Cert, for it
        self.keep_alive = True
        self.forwarding: dict[bytes, bytes] = {}  # forwarding headers by Host, for this peer (phases/prepare.py)
        self.source: UpstreamConnection | None = None  # the upstream that is answering
        self.tunnel: Tunnel | None = None  # what has the connection, in the state TUNNEL
        self._ahead = b""
        self._blank_line = False  # an empty line has come before this request
        self._body: RequestBody | None = None
        self._bodiless = False  # what is refused is a HEAD, so its answer has no body
        self._checked_bytes = 0
        self._continue_owed = False
        self._exchange: Exchange | None = None
        self._drive: Drive | None = None
        self._eof = False
        self._held = False
        self._lost = False
        self._reading = True
        self._relayed_bytes = -1
        self._turning = False
        self._stalled_bytes = 0
        self._linger_bytes = 0
        self._layout: list[HeaderLine] = []  # of the last head
        self._clock = path.clock
        self._handle = path.handle
        self._place = Place.OUTSIDE

    # --- the connection

    def enter_with(self, certificate: PeerCertificate | None, certificate_line: bytes) -> None:
        """The client has been counted in, by its handshake."""
        self._place = Place.INSIDE
        self.certificate = certificate
        self.certificate_line = certificate_line

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are asyncio.Transport in all but name.
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES)
        peer = transport.get_extra_info("peername")
        self.peer = plain_address(peer[0]) if isinstance(peer, tuple) else "unix"
        self.secure = transport.get_extra_info("sslcontext") is not None
        path = self._path
        path.connections.add(self)
        path.deadlines.watch(self)
        self.deadline = path.deadlines.after(self.limits.keepalive_seconds)
        if len(path.connections) >= path.connections_max:
            path.on_full()
        reason = None if self._place is Place.INSIDE else path.room.enter(self.peer)
        if reason is None:
            self._place = Place.INSIDE
            if path.shut:
                self.refuse(GatewayError(ErrorCode.OVERLOADED, "memory is short", closes=True))
        elif path.room.tell():
            self._place = Place.AT_THE_DOOR
            self.refuse(GatewayError(ErrorCode.OVERLOADED, f"too many {reason}", closes=True))
        else:
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._advance(Event.CLOSED)
        path = self._path
        path.connections.discard(self)
        path.deadlines.forget(self)
        if self._place is Place.INSIDE:
            path.room.leave(self.peer)
        elif self._place is Place.AT_THE_DOOR:
            path.room.told()
        self._abandon()

    def eof_received(self) -> bool:
        """The client will send no more; it may still want its answer (RFC 9112 §9.6)."""
        self._eof = True
        if self.state in (_WAITING, _ANSWERING) or self._turning:
            if self.state is _ANSWERING and self.source is not None and not self.stalled:
                self._await_more(self.source)
            return not self.secure
        if self.state in (_BODY, _EARLY):
            self._abandon()
        return False

    def _await_more(self, source: UpstreamConnection) -> None:
        """Looks again soon whether more of the answer has come."""
        if source.head is not None and source.head.framing is not Framing.LENGTH:
            self._relayed_bytes = source.bytes_relayed
            self.deadline = self._path.deadlines.after(HALF_CLOSED_PAUSE_SECONDS)

    def _abandon(self) -> None:
        """Ends the exchange under way: nobody is there for its answer."""
        drive, self._drive = self._drive, None
        self._exchange = None
        self._body = None
        if drive is not None:
            drive.throw(ClientGone())

    def abort(self) -> None:
        """Ends the connection at once; the client sees that its answer is not whole."""
        if not self._lost:
            self._lost = True  # nothing more is written, though `connection_lost` comes a turn of the loop later
            self.transport.abort()

    def end_soon(self, limits: ClientLimits) -> None:
        """For draining: a connection ends with the next answer that says so (`Connection: close`). Where none is due, or its
        head has left and said nothing, the client may send one more request within `limits.keepalive_seconds`; for
        closing in the moment in which it writes would cost that client a request."""
        self.limits = limits
        state = self.state
        if state is _IDLE:
            self.deadline = min(self.deadline, self._path.deadlines.now + limits.keepalive_seconds)
        elif state is not _ANSWERING:
            self.keep_alive = False

    def end_idle(self, idle_seconds: float) -> bool:
        """Ends the connection if no request was begun on it for so long: it makes room. Whether it did."""
        remaining = self.deadline - self._path.deadlines.now
        if self.state is not _IDLE or self._ahead or remaining > self.limits.keepalive_seconds - idle_seconds:
            return False
        self.transport.close()
        return True

    def refuse_partial_head(self, bytes_min: int) -> None:
        """Refuses a call of whose head so much has come and not the end."""
        if self.state is _HEAD and len(self._ahead) >= bytes_min:
            self.refuse(GatewayError(ErrorCode.OVERLOADED, "memory is short", closes=True))

    def _advance(self, event: Event) -> None:
        following = FOLLOWING[self.state][event]
        if following is None:
            raise ProtocolBug(f"{event.name} in state {self.state.name}")
        self.state = following

    # --- deadlines

    def on_deadline(self) -> None:
        state = self.state
        untaken = self._stalled_bytes > 0 or (state is _LINGERING and self.transport.get_write_buffer_size() > 0)
        due = what_is_due(
            state, reading=self._reading, untaken=untaken, half_closed=self._eof and self.source is not None
        )
        if due is Due.REFUSAL:
            self._bodiless = self._ahead.startswith(b"HEAD ")
            self.refuse(GatewayError(ErrorCode.REQUEST_TIMEOUT, "head not whole in time", closes=True))
        elif due is Due.FAILURE:
            error = GatewayError(ErrorCode.REQUEST_TIMEOUT, "no more of the body in time", closes=True)
            self.fail_exchange(error)
        elif due is Due.LOOK_AT_CLIENT:
            self._look_at_client()
        elif due is Due.LOOK_AT_UPSTREAM:
            self._look_at_upstream()
        elif due is Due.ABORT:
            self.abort()
        else:
            self.deadline = NEVER
            if due is Due.CLOSE:
                self.transport.close()

    def _look_at_client(self) -> None:
        """Whether it has taken any of what waits for it."""
        left = self.transport.get_write_buffer_size()
        if self._stalled_bytes == 0 or left < self._stalled_bytes:  # slow, but it takes something
            self._stalled_bytes = left
            self.deadline = self._path.deadlines.after(self.limits.write_idle_seconds)
        else:
            self._reset()

    def _look_at_upstream(self) -> None:
        """Whether any more of the answer has come, for a client that has half-closed or left."""
        if self.source is not None and self.source.bytes_relayed != self._relayed_bytes:
            self._await_more(self.source)
        else:
            self.abort()

    def _reset(self) -> None:
        """Ends the connection and drops what the system still holds for it. A close alone would leave megabytes in its send
        buffer, for as long as a client that reads nothing answers the system's probes (minutes)."""
        if (sock := self.transport.get_extra_info("socket")) is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.abort()

    # --- bytes in

    def data_received(self, data: bytes) -> None:
        state = self.state
        if state is _IDLE or state is _HEAD:
            if self._ahead:
                data = self._ahead + data
                self._ahead = b""
            self._read_head(data)
        elif state is _BODY or state is _EARLY:
            self._read_body(data)
        elif state is _WAITING or state is _ANSWERING:
            self._ahead += data
            if len(self._ahead) > READ_AHEAD_BYTES_MAX:
                self._pause()
        elif state is _LINGERING:
            self._linger_bytes += len(data)
            if self._linger_bytes > LINGER_BYTES_MAX:
                self.abort()

    def _read_head(self, data: bytes) -> None:
        if data.startswith(b"\r\n"):
            # One empty line before a request is for old clients that end a body with it (RFC 9112 §2.2).
            data = data[2:]
            if self._blank_line or data.startswith(b"\r\n"):
                self.refuse(GatewayError(ErrorCode.MALFORMED_REQUEST, "several empty lines", closes=True))
                return
            self._blank_line = True
        if not data or data == b"\r":
            self._ahead = data
            return
        head_bytes, end, rest = data.partition(b"\r\n\r\n")
        if not end or len(head_bytes) > self.limits.head_bytes:
            if self.state is _IDLE:
                self.deadline = self._path.deadlines.after(self.limits.head_seconds)
                self._checked_bytes = 0
            if (error := refuse_partial_head(data, self._checked_bytes, self.limits)) is not None:
                self._bodiless = data.startswith(b"HEAD ")
                self.refuse(error)
                return
            self._checked_bytes = len(data)
            self._advance(Event.HEAD_BEGUN)
            self._ahead = data
            return
        try:
            head = parse_request_head(head_bytes, self.limits, self._layout)
        except GatewayError as error:
            self._bodiless = data.startswith(b"HEAD ")
            self.refuse(error)
            return
        self._begin(head, rest)

    def _begin(self, head: RequestHead, rest: bytes) -> None:
        self.keep_alive = head.keep_alive and not self._path.draining
        self._blank_line = False
        self.deadline = NEVER
        if head.framing is _NO_BODY:
            self._ahead = rest
            self._advance(_REQUEST_WHOLE)
            body = None
        else:
            self._advance(Event.BODY_EXPECTED)
            body = self._body = RequestBody(head.framing, head.length, 1 << 62, self)
            self._continue_owed = b"expect" in head.values and not rest and head.minor == 1
            self._bodiless = head.method == b"HEAD"
            if rest and not self._feed(rest):
                return
        path = self._path
        exchange = self._exchange = Exchange(
            client=self, snapshot=path.snapshot, head=head, body=body, started=self._clock()
        )
        self._drive = Drive(self._handle(exchange), self._on_bug)
        if self._drive is not None and self._drive.finished:
            self._drive = None
        if body is not None and body.held_back:
            self._pause()

    def _read_body(self, data: bytes) -> None:
        body = self._body
        if body is None:  # the answer is given, the rest of the body is of no use
            return
        if not self._feed(data):
            return
        if body.held_back:
            self._pause()

    def _feed(self, data: bytes) -> bool:
        """False when the body is refused."""
        body = self._body
        assert body is not None  # noqa: S101  by the state
        try:
            rest = body.feed(data)
        except GatewayError as error:
            self.fail_exchange(error)
            return False
        if body.whole:
            if self._body is body and self.state in (_BODY, _EARLY):
                self._body = None
                self.deadline = NEVER
                self._advance(Event.BODY_WHOLE)
                self._ahead += rest
        elif self.state is _BODY or self.state is _EARLY:
            self.deadline = body.due(self._path.deadlines.after(self.limits.body_idle_seconds))
        return True

    def fail_exchange(self, error: GatewayError) -> None:
        """The request turned out bad while it is under way: the request path answers, if it still can."""
        self.keep_alive = False
        self._body = None
        if self._drive is not None:
            self._drive.throw(error)
        elif self._exchange is None:
            self.refuse(error)

    def bound_call(self, seconds: float, error: GatewayError) -> Alarm:
        """The call under way gets `error` where it waits, `seconds` from now. Who sets the alarm ends it with the call."""

        def ring() -> None:
            if self._drive is not None:
                self._drive.throw(error)

        return Alarm(self._path.deadlines, seconds, ring)

    def _on_bug(self, error: BaseException) -> None:
        logger.error("request_path_failed", exc_info=error)
        self._drive = None
        self._exchange = None
        self.abort()

    # --- reading, paused and resumed

    def _pause(self) -> None:
        if self._reading and not self._lost and not self.transport.is_closing():
            self._reading = False
            self.transport.pause_reading()

    def _resume(self) -> None:
        if not self._reading and not self._lost and not self.transport.is_closing():
            self._reading = True
            self.transport.resume_reading()

    def hold(self) -> None:
        """After a refusal in overload: no further request is looked at until `take_back`."""
        self._held = True
        self._pause()

    def take_back(self) -> None:
        self._held = False
        if self.state is not _IDLE or self._lost:
            return
        if self._ahead:
            self._take_turn()
        else:
            self._resume()

    def want_body(self) -> None:
        """The body is wanted: ask for it if the client waits to be asked, and read it."""
        if self._continue_owed:
            self._continue_owed = False
            self.transport.write(CONTINUE)
        if self.state in (_BODY, _EARLY):
            self.deadline = self._path.deadlines.after(self.limits.body_idle_seconds)
            if self._body is not None:
                self._body.pace_from(self.deadline)
        self._resume()

    def hold_body(self) -> None:
        """The taker of the body can't keep up."""
        self._pause()

    # --- the answer

    def write(self, data: bytes) -> None:
        """Part of an answer. The first part moves the state."""
        if self._lost or self.transport.is_closing():
            return
        if self.state is _WAITING or self.state is _BODY:
            self._advance(_ANSWER_BEGUN)
        self.transport.write(data)

    def write_interim(self, head: bytes) -> None:
        """An answer below 200, before the answer. A client that takes nothing is not sent hints: they would pile up."""
        if self.state in (_WAITING, _BODY) and not (self.stalled or self._lost or self.transport.is_closing()):
            self.transport.write(head)

    def finish(self, data: bytes) -> None:
        """The last part of an answer; afterwards the next request's turn comes, or the connection ends."""
        self._exchange = None
        self._drive = None
        self.source = None
        if self._lost or self.transport.is_closing():
            return
        if data:
            self.transport.write(data)
        state = self.state
        if self.keep_alive and (state is _WAITING or state is _ANSWERING):
            self._advance(_ANSWER_WHOLE)
            self._stalled_bytes = 0
            self._next()
        else:
            self._end()

    def _next(self) -> None:
        self.deadline = self._path.deadlines.after(self.limits.keepalive_seconds)
        if self._ahead:
            if not self._turning:  # a turn of the loop each, no recursion, however many requests are pipelined
                self._turning = True
                asyncio.get_running_loop().call_soon(self._take_turn)
        elif self._eof:
            self.transport.close()
        else:
            self._resume()

    def _take_turn(self) -> None:
        self._turning = False
        if self.state is not _IDLE or self._lost or self._held or not self._ahead:
            return
        data, self._ahead = self._ahead, b""
        self._read_head(data)
        if self._eof and not self._turning and self.state in (_IDLE, _HEAD, _BODY):
            self._abandon()  # the rest of this request will never come
            self.transport.close()
        elif len(self._ahead) <= READ_AHEAD_BYTES_MAX:
            self._resume()

    def _end(self) -> None:
        """The connection ends after this answer; what the client still sends is dropped for a while."""
        self._body = None
        self._ahead = b""
        self._advance(Event.ANSWER_LAST)
        self.deadline = self._path.deadlines.after(LINGER_SECONDS)
        if self._eof or self.secure:
            self.transport.close()  # once what is written has left; the deadline ends a client that does not take it
        else:
            self.transport.write_eof()
            self._resume()

    def refuse(self, error: GatewayError) -> None:
        """Answers a request that never got as far as the request path, and ends the connection."""
        if self._lost or self.state in (_LINGERING, _CLOSED):
            return
        self.keep_alive = False
        self.transport.write(self._path.refuse(self, error, bodiless=self._bodiless))
        self._end()

    # --- an upgrade (tunnel.py)

    def enter(self, tunnel: Tunnel, head: bytes) -> bytes:
        """Answers with `head`, a 101; the connection is the tunnel's until `leave`. What the client has sent after its
        request is the result."""
        self._advance(Event.SWITCHED)
        self.tunnel = tunnel
        self.keep_alive = False
        self.deadline = NEVER
        self.transport.write(head)
        self._resume()
        waiting, self._ahead = self._ahead, b""
        return waiting

    def leave(self, *, half_closed: bool) -> None:
        """The tunnel is over. `half_closed` says whether the client has sent its FIN."""
        self.tunnel = None
        self._eof = half_closed

    @property
    def half_closed(self) -> bool:
        return self._eof

    @property
    def deadlines(self) -> Deadlines:
        return self._path.deadlines

    @property
    def snapshot(self) -> Snapshot:
        """What is in force now; a request has that which it began under."""
        return self._path.snapshot

    # --- backpressure from this client

    def pause_writing(self) -> None:
        self._stalled_bytes = self.transport.get_write_buffer_size()
        self.deadline = self._path.deadlines.after(self.limits.write_idle_seconds)
        if self.source is not None:
            self.source.hold()

    def resume_writing(self) -> None:
        self._stalled_bytes = 0
        if self.state is not _LINGERING:
            self.deadline = NEVER
        if self.source is not None:
            self.source.release()

    @property
    def stalled(self) -> bool:
        """The client takes its answer too slowly; its source should wait."""
        return self._stalled_bytes > 0
