"""Which request may leave HTTP, and which answer grants it: decided by values."""

from __future__ import annotations

import pytest

from ostiary.core.errors import ErrorCode, GatewayError
from ostiary.core.model import ClientLimits
from ostiary.gateway.wire.request_head import RequestHead, parse_request_head
from ostiary.gateway.wire.upgrade import allow_upgrade, granted_upgrade
from tests.support.tunnels import GRANTED, KEY, upgrade_request


def head_of(request: bytes) -> RequestHead:
    return parse_request_head(request.partition(b"\r\n\r\n")[0], ClientLimits())


def test_a_good_request_passes_with_what_asks_for_the_upgrade() -> None:
    """Without it no WebSocket gets through, or with fields of other hops."""
    head = head_of(upgrade_request(b"Sec-WebSocket-Protocol: chat", b"Cookie: a=b"))
    assert allow_upgrade(head)
    assert head.lines == [
        b"Sec-WebSocket-Key: " + KEY,
        b"Sec-WebSocket-Version: 13",
        b"Sec-WebSocket-Protocol: chat",
        b"Cookie: a=b",
        b"Connection: Upgrade",
        b"Upgrade: websocket",
    ]


@pytest.mark.parametrize("value", [b"WebSocket", b"h2c, websocket", b"WEBSOCKET ,foo/1"])
def test_websocket_is_found_however_it_is_written(value: bytes) -> None:
    """Row 32: an upstream finds it too, so the checks must hold for it (RFC 9110 §7.8: names have no case)."""
    assert allow_upgrade(head_of(upgrade_request().replace(b"Upgrade: websocket", b"Upgrade: " + value)))


@pytest.mark.parametrize("value", [b"h2c", b"", b"websocket/13", b"web socket", b"TLS/1.0"])
def test_other_protocols_are_ignored(value: bytes) -> None:
    """Row 25: another protocol is never asked for upstream, as if the client had not named it."""
    head = head_of(upgrade_request().replace(b"Upgrade: websocket", b"Upgrade: " + value))
    assert not allow_upgrade(head)
    assert not any(line.lower().startswith((b"upgrade", b"connection")) for line in head.lines)


GOOD = upgrade_request()
MALFORMED = {
    "a POST": GOOD.replace(b"GET", b"POST"),
    "a HEAD": GOOD.replace(b"GET", b"HEAD"),
    "HTTP/1.0": GOOD.replace(b"HTTP/1.1", b"HTTP/1.0"),
    "a body by length": upgrade_request(b"Content-Length: 5") + b"hello",
    "a body in chunks": upgrade_request(b"Transfer-Encoding: chunked") + b"0\r\n\r\n",
    "no Connection": GOOD.replace(b"Connection: keep-alive, Upgrade\r\n", b""),
    "Connection without upgrade": GOOD.replace(b"keep-alive, Upgrade", b"keep-alive"),
    "no key": GOOD.replace(b"Sec-WebSocket-Key: " + KEY + b"\r\n", b""),
    "an empty key": GOOD.replace(KEY, b""),
    "a short key": GOOD.replace(KEY, KEY[4:]),
    "a long key": GOOD.replace(KEY, b"AAAA" + KEY),
    "a key that is not base64": GOOD.replace(KEY, b"!" + KEY[1:]),
    "two keys": upgrade_request(b"sec-websocket-KEY: " + KEY),
    "two keys in one": GOOD.replace(KEY, KEY + b", " + KEY),
    "a key that Connection removes": GOOD.replace(b"keep-alive", b"Sec-WebSocket-Key"),
    "no version": GOOD.replace(b"Sec-WebSocket-Version: 13\r\n", b""),
    "two versions": upgrade_request(b"Sec-WebSocket-Version: 13"),
    "a version that is no number": GOOD.replace(b"Version: 13", b"Version: 13, 8"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_request_that_asks_wrongly_is_refused(name: str) -> None:
    """Row 32: what one side takes for an upgrade and the other does not gives the client an unchecked way to the upstream."""
    with pytest.raises(GatewayError) as refusal:
        allow_upgrade(head_of(MALFORMED[name]))
    assert refusal.value.code is ErrorCode.MALFORMED_REQUEST
    assert refusal.value.closes


def test_content_length_0_is_no_body() -> None:
    """Some clients send it with every request."""
    assert allow_upgrade(head_of(upgrade_request(b"Content-Length: 0")))


@pytest.mark.parametrize(
    ("change", "protocol"),
    [
        ((b"", b""), b"websocket"),
        ((b"Upgrade: websocket", b"upgrade:WebSocket"), b"websocket"),
        ((b"Upgrade: websocket", b"Upgrade: h2c"), b"h2c"),
        ((b"Upgrade: websocket", b"Upgrade: websocket, h2c"), b""),
        ((b"Upgrade: websocket", b"Upgrade: websocket\r\nUpgrade: h2c"), b""),
        ((b"Upgrade: websocket\r\n", b""), b""),
        ((b"Connection: Upgrade", b"Connection: close"), b""),
        ((b"Upgrade: websocket", b"Upgrade: websocket\r\nContent-Length: 5"), b""),
        ((b"Upgrade: websocket", b"Upgrade: websocket\r\nTransfer-Encoding: chunked"), b""),
        ((b"HTTP/1.1", b"HTTP/1.0"), b""),
    ],
)
def test_an_answer_grants_what_it_says_and_nothing_by_chance(change: tuple[bytes, bytes], protocol: bytes) -> None:
    """Row 100: a 101 to something else, or one with a body, is no tunnel."""
    assert granted_upgrade(GRANTED.partition(b"\r\n\r\n")[0].replace(*change)) == protocol
