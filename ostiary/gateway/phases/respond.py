"""respond: the head the client gets, and the body after it, all but its last part: that is given once the call is metered."""

from __future__ import annotations

from email.utils import formatdate

from ostiary.core.errors import ErrorCode, GatewayError
from ostiary.gateway.exchange import Exchange
from ostiary.gateway.wire.request_head import Framing
from ostiary.gateway.wire.response_head import ResponseHead
from ostiary.gateway.wire.states import State
from ostiary.gateway.wire.upstream import UpstreamFailure, UpstreamSilent


async def respond(exchange: Exchange, answer: ResponseHead) -> bytes:
    """Sets `answer_status`. The result is what is still to be written. Raises UPSTREAM_PROTOCOL_ERROR or
    UPSTREAM_TIMEOUT when the answer breaks off; a client that has its head already must then see that the rest is missing."""
    client, upstream = exchange.client, exchange.upstream
    assert upstream is not None  # noqa: S101  forward has set it
    if client.state is State.BODY:
        client.keep_alive = False  # the answer comes before the request is whole: one of them has to end here
    exchange.answer_status = answer.status
    head, chunked = render_head(exchange, answer)
    ready = upstream.attach(client, chunked=chunked)
    if (last := upstream.tail) is None:
        client.write(head + ready)
        head = ready = b""
        upstream.watch_client(client)
        try:
            last = await upstream.rest()
        except UpstreamFailure as failure:
            silent = isinstance(failure, UpstreamSilent)
            code = ErrorCode.UPSTREAM_TIMEOUT if silent else ErrorCode.UPSTREAM_PROTOCOL_ERROR
            raise GatewayError(code, f"answer broke off: {failure.reason}") from failure
        finally:
            exchange.bytes_out = upstream.bytes_relayed
    else:
        exchange.bytes_out = upstream.bytes_relayed
    return head + ready + upstream.frame_tail(last)


def render_head(exchange: Exchange, answer: ResponseHead) -> tuple[bytes, bool]:
    """The head for the client, and whether the body is sent in chunks."""
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
    if framing is Framing.CHUNKED or framing is Framing.UNTIL_CLOSE:
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
