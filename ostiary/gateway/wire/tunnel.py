"""After a 101: bytes from end to end, unread, until both ends have sent all they had.

Each of the two connections gets a new protocol that hands what comes to the other. An end that can't take more holds the
other back, so a tunnel's memory is two write buffers. An end that half-closes may still be spoken to. What an end says in
WebSocket is between the ends: frames are not looked at. Who opened the tunnel must stay welcome while it is open."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

from ostiary.gateway.signal import Drive, Signal

from .deadlines import Deadlines
from .pool import as_protocol
from .states import TUNNEL_TRANSITIONS, ProtocolBug, TunnelEvent, TunnelState

if TYPE_CHECKING:
    from .client import ClientConnection
    from .upstream import UpstreamConnection

logger: Final = logging.getLogger("ostiary.gateway.wire")

# A call with a revoked key is refused within a second; a tunnel lives for hours, and ends little later than that.
WELCOME_SECONDS: Final = 0.5
_WHOLE: Final = TunnelState.WHOLE
_BROKEN: Final = TunnelState.BROKEN
_CLIENT_ENDS: Final = TunnelEvent.CLIENT_ENDS
_UPSTREAM_ENDS: Final = TunnelEvent.UPSTREAM_ENDS
_BREAKS: Final = TunnelEvent.BREAKS


class TunnelEnd:
    """One of the two connections, as the protocol of its transport. `received_bytes` counts what came from there;
    `ends` is what it means to the tunnel when no more will come."""

    __slots__ = ("_held", "_owner", "_tunnel", "ended", "ends", "other", "received_bytes", "transport")

    other: TunnelEnd

    def __init__(self, tunnel: Tunnel, owner: ClientConnection | UpstreamConnection, ends: TunnelEvent) -> None:
        self._tunnel = tunnel
        self._owner = owner
        self._held = False
        self.transport: asyncio.Transport = owner.transport
        self.ends = ends
        self.ended = False
        self.received_bytes = 0

    def data_received(self, data: bytes) -> None:
        self.received_bytes += len(data)
        self._tunnel.touch()
        self.other.write(data)

    def write(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(data)

    def eof_received(self) -> bool:
        """Whether this end may still be spoken to. Event loops have no half-closed TLS."""
        self.ended = True
        self._tunnel.end_from(self)
        return self.transport.can_write_eof() and not self.transport.is_closing()

    def write_end(self) -> bool:
        """Says that no more will come, once all before it is written; False where that can't be said."""
        if self.transport.is_closing() or not self.transport.can_write_eof():
            return False
        self.transport.write_eof()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._owner.connection_lost(exc)
        self._tunnel.advance(_BREAKS)

    # --- backpressure: what this end can't take yet, the other must not send

    def pause_writing(self) -> None:
        self.other.hold()

    def resume_writing(self) -> None:
        self._tunnel.touch()
        self.other.release()

    def hold(self) -> None:
        if not self._held and not self.ended and not self.transport.is_closing():
            self._held = True
            self.transport.pause_reading()

    def release(self) -> None:
        if self._held:
            self._held = False
            if not self.transport.is_closing():
                self.transport.resume_reading()


class Tunnel:
    """`over` gets the last state: WHOLE, or BROKEN, also when both ends were silent for `idle_seconds`. `welcome` says
    whether the caller still is; it is asked every WELCOME_SECONDS, and not at all if it is None."""

    __slots__ = (
        "_asking",
        "_deadlines",
        "_idle_seconds",
        "_silent_at",
        "_state",
        "_welcome",
        "client",
        "deadline",
        "from_client",
        "from_upstream",
        "over",
        "upstream",
    )

    def __init__(
        self,
        client: ClientConnection,
        upstream: UpstreamConnection,
        *,
        deadlines: Deadlines,
        idle_seconds: float,
        welcome: Callable[[], Coroutine[Any, None, bool]] | None,
    ) -> None:
        self.client = client
        self.upstream = upstream
        self.over: Signal[TunnelState] = Signal()
        self._deadlines = deadlines
        self._idle_seconds = idle_seconds
        self._silent_at = deadlines.after(idle_seconds)
        self._welcome = welcome
        self._asking: Drive | None = None
        self.deadline = self._next_look()
        self._state = TunnelState.OPEN
        self.from_client = TunnelEnd(self, client, _CLIENT_ENDS)
        self.from_upstream = TunnelEnd(self, upstream, _UPSTREAM_ENDS)
        self.from_client.other = self.from_upstream
        self.from_upstream.other = self.from_client

    def open(self, head: bytes) -> None:
        """Answers the client with `head`, and takes both connections over. What either end sent ahead goes first."""
        self._deadlines.watch(self)
        client_stalled, client_ended = self.client.stalled, self.client.half_closed
        from_client, from_upstream = self.client.enter(self, head), self.upstream.enter()
        self.from_client.transport.set_protocol(as_protocol(self.from_client))
        self.from_upstream.transport.set_protocol(as_protocol(self.from_upstream))
        if client_stalled:
            self.from_upstream.hold()
        if from_client:
            self.from_client.data_received(from_client)
        if from_upstream:
            self.from_upstream.data_received(from_upstream)
        if client_ended:
            self.from_client.eof_received()

    def close(self) -> None:
        """Gives the connections back to their owners, who end them. What is on its way to either still gets there."""
        self._deadlines.forget(self)
        self.client.leave(half_closed=self.from_client.ended)
        for end, owner in ((self.from_client, self.client), (self.from_upstream, self.upstream)):
            if not end.transport.is_closing():
                end.release()
                end.transport.set_protocol(as_protocol(owner))

    def cut(self) -> None:
        """Ends the tunnel, whatever its ends still had to say."""
        self.advance(_BREAKS)

    def touch(self) -> None:
        self._silent_at = self._deadlines.after(self._idle_seconds)

    def on_deadline(self) -> None:
        if self._silent_at <= self._deadlines.now:
            self.advance(_BREAKS)
            return
        self.deadline = self._next_look()
        if self._welcome is not None and (self._asking is None or self._asking.finished):
            self._asking = Drive(self._ask(self._welcome), self._on_bug)

    def _next_look(self) -> float:
        if self._welcome is None:
            return self._silent_at
        return min(self._silent_at, self._deadlines.after(WELCOME_SECONDS))

    async def _ask(self, welcome: Callable[[], Coroutine[Any, None, bool]]) -> None:
        if not await welcome():
            self.advance(_BREAKS)

    def _on_bug(self, error: BaseException) -> None:
        logger.error("tunnel_failed", exc_info=error)
        self.advance(_BREAKS)

    def end_from(self, end: TunnelEnd) -> None:
        """No more comes from `end`. Where that can't be told to the other alone, both have ended."""
        self.advance(end.ends)
        if not end.other.write_end() or not end.transport.can_write_eof():
            self.advance(end.other.ends)

    def advance(self, event: TunnelEvent) -> None:
        if self._state is _WHOLE or self._state is _BROKEN:
            return  # connections end one after the other
        following = TUNNEL_TRANSITIONS[self._state].get(event)
        if following is None:
            raise ProtocolBug(f"{event.name} in a tunnel that is {self._state.name}")
        self._state = following
        if following is _WHOLE or following is _BROKEN:
            self.over.set(following)
