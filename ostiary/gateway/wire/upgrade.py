"""Leaving HTTP for WebSocket: which request may ask for it, and which answer grants it. No I/O, no state.

A request that one side takes for an upgrade and the other for something else would give the client a connection to the
upstream that nobody checks. So where a route allows it, a request that asks for WebSocket is a perfect one or is refused."""

from __future__ import annotations

import re
from typing import Final

from ostiary.core.errors import ErrorCode, GatewayError

from .request_head import Framing, RequestHead

WEBSOCKET: Final = b"websocket"
# RFC 6455 §4.1: 16 bytes in base64; §4.2.1: a number, 13 in practice. Which versions it speaks is the upstream's to say.
_is_key: Final = re.compile(rb"[A-Za-z0-9+/]{22}==").fullmatch
_is_version: Final = re.compile(rb"[0-9]{1,3}").fullmatch


def allow_upgrade(head: RequestHead) -> bool:
    """Whether `head` asks for WebSocket. If it does, what asks for it will pass upstream. Raises MALFORMED_REQUEST for a
    request that asks in any other way than RFC 6455 §4.1 has it. Other protocols are ignored, as RFC 9110 §7.8 allows."""
    if WEBSOCKET not in _elements(head.values[b"upgrade"]):
        return False
    if head.method != b"GET" or head.minor == 0:
        raise _refuse("another method than GET, or HTTP/1.0")
    if head.framing is not Framing.NONE:
        raise _refuse("a body")
    if b"upgrade" not in _elements(head.values.get(b"connection", b"")):
        raise _refuse("no `Connection: Upgrade`")
    keys, versions = _all(head, b"sec-websocket-key"), _all(head, b"sec-websocket-version")
    if len(keys) != 1 or _is_key(keys[0]) is None:
        raise _refuse("not one valid Sec-WebSocket-Key")
    if len(versions) != 1 or _is_version(versions[0]) is None:
        raise _refuse("not one valid Sec-WebSocket-Version")
    head.lines = [*head.lines, b"Connection: Upgrade", b"Upgrade: websocket"]
    return True


def granted_upgrade(head: bytes) -> bytes:
    """The protocol, in lower case, that the head of a 101 (well formed otherwise) changes to; empty if it does not say so
    in the one way that RFC 9110 §7.8 and §15.2.2 have."""
    values: dict[bytes, bytes] = {}
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        lower = name.lower()
        before = values.get(lower)
        values[lower] = value if before is None else b"%b,%b" % (before, value)
    protocols = _elements(values.get(b"upgrade", b""))
    if b"content-length" in values or b"transfer-encoding" in values or len(protocols) != 1:
        return b""
    if b"upgrade" not in _elements(values.get(b"connection", b"")) or not head.startswith(b"HTTP/1.1 "):
        return b""
    return protocols[0]


def _elements(value: bytes) -> list[bytes]:
    return [element.strip(b" \t") for element in value.lower().split(b",")]


def _all(head: RequestHead, name: bytes) -> list[bytes]:
    parts = (line.partition(b":") for line in head.lines)
    return [value.strip(b" \t") for found, _, value in parts if found.lower() == name]


def _refuse(reason: str) -> GatewayError:
    return GatewayError(ErrorCode.MALFORMED_REQUEST, f"asks for WebSocket wrongly: {reason}", closes=True)
