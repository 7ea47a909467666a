"""prepare: what goes upstream. The client's end-to-end headers as they came, then what only the gateway may say."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Final

from ostiary.gateway.exchange import Exchange
from ostiary.gateway.wire.request_head import Framing

_FORWARDING_KNOWN_MAX: Final = 16  # Hosts that one connection may name before their headers are rendered anew each time
_looks_like_our_secret: Final = re.compile(rb"\b(?:[a-z0-9]{1,12}_)?sk_(?:live|test)_").search


def prepare(exchange: Exchange) -> None:
    """Sets `upstream_head`: everything after the Host header's value, to the end of the head, and a gathered body.
    Raises Answered where the gateway answers itself."""
    head, route = exchange.head, exchange.route
    assert route is not None  # noqa: S101  match has set it
    lines = head.lines if route.edge is None else route.edge.prepare(exchange)
    parts = [b"\r\n"]
    if lines:
        parts.append(b"\r\n".join(lines))
        parts.append(b"\r\n")
    if b"authorization" in head.values:
        parts.append(_other_authorization(exchange))
    parts.append(exchange.identity)
    if exchange.subject_line:
        parts.append(exchange.subject_line)
    parts.append(_forwarding(exchange))
    parts.append(b"X-Request-Id: %b\r\n" % exchange.request_id)
    body = exchange.body
    if body is None:
        parts.append(b"\r\n" if head.length < 0 else b"Content-Length: 0\r\n\r\n")
    elif (gathered := exchange.body_bytes) is not None:
        parts.append(b"Content-Length: %d\r\n\r\n" % len(gathered))
        parts.append(gathered)
    elif (held := exchange.held_body) is not None:
        parts.append(b"Content-Length: %d\r\n\r\n" % held.length)
    elif body.framing is Framing.LENGTH:
        parts.append(b"Content-Length: %d\r\n\r\n" % body.length)
    else:
        parts.append(b"Transfer-Encoding: chunked\r\n\r\n")
    exchange.upstream_head = b"".join(parts)


def _other_authorization(exchange: Exchange) -> bytes:
    """Authorization belongs to the upstream where the route takes no credential from it, unless one of our secrets is in it:
    no credential of ours reaches an upstream, not even one sent to the wrong route."""
    route = exchange.route
    assert route is not None  # noqa: S101  match has set it
    value = exchange.head.values[b"authorization"]
    if route.reads_authorization or _looks_like_our_secret(value) is not None:
        return b""
    return b"Authorization: %b\r\n" % value


def _forwarding(exchange: Exchange) -> bytes:
    """Who asks, for which host, by which way: the same for all requests of a connection to one host."""
    client, values = exchange.client, exchange.head.values
    if exchange.ip is client.peer and b"via" not in values:
        host = values.get(b"host", b"")
        known = client.forwarding.get(host)
        if known is None:
            known = _render_forwarding(exchange, host)
            if len(client.forwarding) < _FORWARDING_KNOWN_MAX:
                client.forwarding[host] = known
        return known
    return _render_forwarding(exchange, values.get(b"host", b""))


def _render_forwarding(exchange: Exchange, host: bytes) -> bytes:
    """X-Forwarded-*, Forwarded (RFC 7239) and Via (RFC 9110 §7.6.3). What a trusted proxy has said stays in front."""
    client, values = exchange.client, exchange.head.values
    peer = client.peer.encode()
    proto = b"https" if client.secure else b"http"
    chain = peer
    if exchange.ip is not client.peer and (before := values.get(b"x-forwarded-for")) is not None:
        chain = b"%b, %b" % (before, peer)
    via = b"1.1 ostiary"
    if (before := values.get(b"via")) is not None:
        via = b"%b, 1.1 ostiary" % before
    node = _node(exchange.ip)
    return (
        b"X-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\nX-Forwarded-Host: %b\r\n"
        b'Forwarded: for=%b;host="%b";proto=%b\r\nVia: %b\r\n%b'
        % (chain, proto, host, node, host, proto, via, client.certificate_line)
    )


def _node(address: str) -> bytes:
    try:
        six = ip_address(address).version == 6
    except ValueError:
        return b"unknown"
    return f'"[{address}]"'.encode() if six else address.encode()
