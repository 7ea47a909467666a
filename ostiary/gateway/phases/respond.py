"""respond: the head the client gets, and the body after it, all but its last part: that is given once the call is metered."""

from __future__ import annotations

from email.utils import formatdate
from functools import partial

from ostiary.core.errors import ErrorCode, GatewayError
from ostiary.gateway.credentials import mtls
from ostiary.gateway.exchange import Exchange
from ostiary.gateway.keys import KeyRing, KnownKey
from ostiary.gateway.tokens import TokenCaller
from ostiary.gateway.wire.gzip_stream import SLICE_BYTES, GzipStream
from ostiary.gateway.wire.request_head import Framing
from ostiary.gateway.wire.response_head import ResponseHead
from ostiary.gateway.wire.states import State, TunnelState
from ostiary.gateway.wire.tunnel import Tunnel
from ostiary.gateway.wire.upgrade import WEBSOCKET
from ostiary.gateway.wire.upstream_failure import UpstreamFailure, UpstreamSilent


async def respond(exchange: Exchange, answer: ResponseHead, keys: KeyRing) -> bytes:
    """Sets `answer_status`. The result is what is still to be written. Raises UPSTREAM_PROTOCOL_ERROR or
    UPSTREAM_TIMEOUT when the answer breaks off; a client that has its head already must then see that the rest is missing."""
    client, upstream, route = exchange.client, exchange.upstream, exchange.route
    assert upstream is not None  # noqa: S101  forward has set it
    assert route is not None  # noqa: S101  match has set it
    if route.edge is not None:
        route.edge.dress(exchange, answer)
    if answer.status == 101:
        return await _switch(exchange, answer, keys)
    if client.state is State.BODY:
        client.keep_alive = False  # the answer comes before the request is whole: one of them has to end here
    exchange.answer_status = answer.status
    if route.compresses and route.gzip is not None:
        stream = route.gzip.stream_for(exchange.head, answer)
        if stream is not None:
            return await _respond_compressed(exchange, answer, stream)
    head, chunked = render_head(exchange, answer)
    ready = upstream.attach(client, chunked=chunked)
    if (last := upstream.tail) is None:
        client.write(head + ready)
        head = ready = b""
        upstream.watch_client(client)
        try:
            last = await upstream.rest()
        except UpstreamFailure as failure:
            raise _broken_off(failure) from failure
        finally:
            exchange.bytes_out = upstream.bytes_relayed
    else:
        exchange.bytes_out = upstream.bytes_relayed
    return head + ready + upstream.frame_tail(last)


def _broken_off(failure: UpstreamFailure) -> GatewayError:
    silent = isinstance(failure, UpstreamSilent)
    code = ErrorCode.UPSTREAM_TIMEOUT if silent else ErrorCode.UPSTREAM_PROTOCOL_ERROR
    return GatewayError(code, f"answer broke off: {failure.reason}")


async def _switch(exchange: Exchange, answer: ResponseHead, keys: KeyRing) -> bytes:
    """The call is a tunnel from here to its end. Nothing is left to be written then."""
    client, upstream, admission = exchange.client, exchange.upstream, exchange.admission
    assert upstream is not None  # noqa: S101  forward has set it
    assert admission is not None  # noqa: S101  authorize has set it
    assert admission.group is not None  # noqa: S101  authorize has refused otherwise
    if not exchange.upgrade or upstream.switched_to != WEBSOCKET:
        raise GatewayError(ErrorCode.UPSTREAM_PROTOCOL_ERROR, "a 101 that was not asked for")
    exchange.answer_status = 101
    tunnel = Tunnel(
        client,
        upstream,
        deadlines=client.deadlines,
        idle_seconds=admission.group.upstream.timeouts.upgrade_idle_seconds,
        welcome=partial(_is_valid, keys, exchange, exchange.known_key) if exchange.known_key is not None else None,
    )
    tunnel.open(render_switch(exchange, answer))
    try:
        exchange.complete = await tunnel.over is TunnelState.WHOLE
    finally:
        exchange.bytes_in = tunnel.from_client.received_bytes
        exchange.bytes_out = tunnel.from_upstream.received_bytes
        tunnel.close()
    exchange.upstream = None
    upstream.end()  # not aborted, even if the call is incomplete: what is on its way gets there
    return b""


async def _is_valid(keys: KeyRing, exchange: Exchange, known: KnownKey) -> bool:
    """Whether the caller's secret, token or certificate is neither revoked, expired nor ended. While that can't be told it is
    what it was before."""
    if isinstance(known, TokenCaller):
        return exchange.route is not None and exchange.route.tokens.stands(known)
    if exchange.scheme == "mtls":  # by no secret of the key, so by none of its generations
        return mtls.still_holds(exchange, known.key.id) and await keys.has_key(known.key.id)
    return await keys.is_in_force(known)


def render_switch(exchange: Exchange, answer: ResponseHead) -> bytes:
    """The 101 for the client: what the upstream said, but for this hop's own fields."""
    parts = [b"HTTP/1.1 ", answer.status_line, b"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"]
    parts.extend(b"%b\r\n" % line for line in answer.lines)
    if exchange.decision is not None:
        parts.append(exchange.decision.headers)
    parts.append(b"X-Request-Id: %b\r\n\r\n" % exchange.request_id)
    return b"".join(parts)


async def _respond_compressed(exchange: Exchange, answer: ResponseHead, stream: GzipStream) -> bytes:
    """The same, for an answer that is compressed on its way."""
    client, upstream = exchange.client, exchange.upstream
    assert upstream is not None  # noqa: S101  by the caller
    head, _ = render_head(exchange, answer, compressed=True)
    try:
        ready = upstream.attach_gzip(client, stream)
        last = upstream.tail
        if last is not None and len(ready) + len(last) <= SLICE_BYTES:
            return head + stream.all_at_once(ready + last)
        client.write(head)
        upstream.watch_client(client)
        if ready:
            stream.take(ready)
        if last is None:
            last = await upstream.rest()
        return await stream.finish(last)
    except UpstreamFailure as failure:
        raise _broken_off(failure) from failure
    finally:
        exchange.bytes_out = stream.bytes_out
        stream.close()


def render_head(exchange: Exchange, answer: ResponseHead, *, compressed: bool = False) -> tuple[bytes, bool]:
    """The head for the client, and whether the body is sent in chunks; it is if `compressed`, for its length is not known."""
    client = exchange.client
    old = exchange.head.minor == 0
    chunked = False
    parts = [b"HTTP/1.1 ", answer.status_line, b"\r\n"]
    if answer.lines:
        parts.append(b"\r\n".join(answer.lines))
        parts.append(b"\r\n")
    decision = exchange.decision
    if decision is not None and decision.headers:
        parts.append(decision.headers)
    elif answer.limit_lines:
        parts.append(b"\r\n".join(answer.limit_lines))
        parts.append(b"\r\n")
    if not answer.dated:
        parts.append(f"Date: {formatdate(usegmt=True)}\r\n".encode())  # RFC 9110 §6.6.1
    framing = answer.framing
    if framing is Framing.CHUNKED or framing is Framing.UNTIL_CLOSE or compressed:
        chunked = not old
        if chunked:
            parts.append(b"Transfer-Encoding: chunked\r\n")
        else:
            client.keep_alive = False
    elif answer.length >= 0 and answer.status != 204:
        parts.append(b"Content-Length: %d\r\n" % answer.length)
    if not client.keep_alive:
        parts.append(b"Connection: close\r\n")
    elif old:
        parts.append(b"Connection: keep-alive\r\n")
    parts.append(b"X-Request-Id: %b\r\n\r\n" % exchange.request_id)
    return b"".join(parts), chunked
