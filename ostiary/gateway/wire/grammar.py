"""The character classes of RFC 9110 §5.6 and RFC 9112, and what each header name means to a gateway."""

from __future__ import annotations

import re
from enum import IntEnum
from ipaddress import IPv6Address
from typing import Final

from ostiary.core.decimals import parse_decimal

TOKEN_CHARACTERS: Final = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

# What may stand in a head: HTAB, SP, visible ASCII and obs-text (RFC 9110 §5.5), and the CR and LF between lines. The table
# changes nothing else into itself, so `head.translate(HEAD_TABLE) == head` says whether a head has that alone; translating
# costs half of deleting, and gives back the same object when nothing changes.
HEAD_TABLE: Final = bytes(
    octet if octet in b"\t\r\n" or 0x20 <= octet < 0x7F or octet >= 0x80 else octet ^ 0x80 for octet in range(256)
)
# The same for a line without its end: CR and LF are changed too.
_LINE_TABLE: Final = bytes(octet ^ 0x80 if octet in b"\r\n" else changed for octet, changed in enumerate(HEAD_TABLE))

is_token: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch
LENGTH_DIGITS_MAX: Final = 18  # 10^18 bytes are an exabyte; more digits are an attack

# host[:port] of RFC 9110 §7.2, narrowed to what a name or an address can be: no userinfo, no path, no list, no empty label
# (but for the root, RFC 1034 §3.1).
_host: Final = re.compile(
    rb"((?:[A-Za-z0-9_-]{1,63}\.){0,127}[A-Za-z0-9_-]{1,63}\.?|\[([0-9A-Fa-f:.]{2,45})\])(?::([0-9]{1,5}))?"
).fullmatch
_HOST_BYTES_MAX: Final = 255


def has_line_characters(line: bytes) -> bool:
    """Whether a line, or several without what ended them, has the characters of a head alone: no control, CR or LF."""
    return line.translate(_LINE_TABLE) == line


def parse_content_length(value: bytes) -> int | None:
    """Digits and nothing else (RFC 9110 §8.6); None for what is no length."""
    return parse_decimal(value, digits_max=LENGTH_DIGITS_MAX)


def parse_host(value: bytes) -> bytes | None:
    """The lower-case host without port, or None when `value` is no host."""
    if (match := _host(value)) is None:
        return None
    host, address, port = match.groups()
    if len(host) > _HOST_BYTES_MAX or (port is not None and int(port) > 65535):
        return None
    if address is not None:
        try:
            IPv6Address(address.decode())
        except ValueError:
            return None
    return bytes(host.lower())


class RequestHeader(IntEnum):
    """What the gateway does with a request header. Everything not named here is passed on as it came."""

    PASS = 0
    SINGLE = 1  # read by the gateway, may come once, never passed on as it came
    CONNECTION = 2  # hop-by-hop: read for its options, then dropped
    DROP = 3  # hop-by-hop, or a name that only the gateway may set
    LIST = 4  # read by the gateway, may come several times (RFC 9110 §5.3), then replaced
    NOTED = 5  # passed on, and looked at
    FRAMING = 6  # may come once; says where the body ends, or what the client waits for
    NOTED_LIST = 7  # passed on, and read by the gateway where it comes several times, too


REQUEST_HEADERS: Final[dict[bytes, RequestHeader]] = {
    b"host": RequestHeader.SINGLE,
    b"content-length": RequestHeader.FRAMING,
    b"transfer-encoding": RequestHeader.FRAMING,
    b"expect": RequestHeader.FRAMING,
    b"authorization": RequestHeader.SINGLE,
    b"x-api-key": RequestHeader.SINGLE,
    b"x-timestamp": RequestHeader.SINGLE,
    b"x-nonce": RequestHeader.SINGLE,
    b"x-request-id": RequestHeader.LIST,
    b"x-forwarded-for": RequestHeader.LIST,
    b"x-forwarded-proto": RequestHeader.LIST,
    b"x-forwarded-host": RequestHeader.LIST,
    b"via": RequestHeader.LIST,
    b"connection": RequestHeader.CONNECTION,
    b"user-agent": RequestHeader.NOTED,
    b"accept": RequestHeader.NOTED,
    b"origin": RequestHeader.NOTED,
    b"access-control-request-method": RequestHeader.NOTED,
    b"signature-input": RequestHeader.NOTED_LIST,
    b"signature": RequestHeader.NOTED_LIST,
    # Hop-by-hop (RFC 9110 §7.6.1), and HTTP/2 upgrades that must not reach an upstream (row 25).
    b"keep-alive": RequestHeader.DROP,
    b"proxy-connection": RequestHeader.DROP,
    b"proxy-authorization": RequestHeader.DROP,
    b"te": RequestHeader.DROP,
    b"trailer": RequestHeader.DROP,
    b"http2-settings": RequestHeader.DROP,
    # Hop-by-hop as well, but a route may ask for what stands in it (upgrade.py).
    b"upgrade": RequestHeader.LIST,
    # Set by the gateway alone.
    b"x-forwarded-port": RequestHeader.DROP,
    b"x-real-ip": RequestHeader.DROP,
    b"forwarded": RequestHeader.DROP,
    b"client-cert": RequestHeader.DROP,  # RFC 9440 §2.4
    b"client-cert-chain": RequestHeader.DROP,
}

# The identity that upstreams trust: no client may set any of these, however spelled. Upstreams that stood behind another
# gateway before may still believe its `X-Consumer-...`, which we do not send.
IDENTITY_PREFIXES: Final = (b"x-ostiary-", b"x-consumer-")


class ResponseHeader(IntEnum):
    """What the gateway does with a header of an upstream's answer."""

    PASS = 0
    FRAMING = 1
    CONNECTION = 2
    DROP = 3
    LIMIT = 4  # dropped where the gateway gives its own
    DATE = 5


RESPONSE_HEADERS: Final[dict[bytes, ResponseHeader]] = {
    b"content-length": ResponseHeader.FRAMING,
    b"transfer-encoding": ResponseHeader.FRAMING,
    b"connection": ResponseHeader.CONNECTION,
    b"keep-alive": ResponseHeader.DROP,
    b"proxy-connection": ResponseHeader.DROP,
    b"proxy-authenticate": ResponseHeader.DROP,
    b"te": ResponseHeader.DROP,
    b"trailer": ResponseHeader.DROP,
    b"upgrade": ResponseHeader.DROP,
    b"x-request-id": ResponseHeader.DROP,
    b"ratelimit": ResponseHeader.LIMIT,
    b"ratelimit-policy": ResponseHeader.LIMIT,
    b"x-ratelimit-limit": ResponseHeader.LIMIT,
    b"x-ratelimit-remaining": ResponseHeader.LIMIT,
    b"x-ratelimit-reset": ResponseHeader.LIMIT,
    b"date": ResponseHeader.DATE,
}

# Lines of these headers are few and come again with every message, so they are remembered whole (within bounds): one
# look-up instead of taking them apart. No header that can carry a secret or a person is among them.
REPEATING_HEADERS: Final = frozenset(
    (
        b"accept",
        b"accept-encoding",
        b"accept-language",
        b"cache-control",
        b"connection",
        b"content-length",
        b"content-type",
        b"date",
        b"host",
        b"server",
        b"transfer-encoding",
        b"user-agent",
        b"vary",
    )
)
LINES_KNOWN_MAX: Final = 4096
LINE_BYTES_KNOWN_MAX: Final = 96

# Spellings of header names seen so far and what they mean. Bounded, because clients choose names: at the bound all
# are forgotten, and those in use come back with the next request. Were no more learned instead, a client could fill it once
# with names of no use, and every later request would pay 1 µs a header.
NAMES_KNOWN_MAX: Final = 4096
NAME_BYTES_KNOWN_MAX: Final = 64


class HeaderLine:
    """What a line of a head means: its name as spelled (`prefix`, with the colon) and in lower case, and what is done with
    it. One that is known whole has `line` and `value` (without blanks around) as well; else both are empty."""

    __slots__ = ("kind", "line", "lower", "prefix", "value")

    def __init__(self, prefix: bytes, kind: IntEnum, lower: bytes, line: bytes = b"", value: bytes = b"") -> None:
        self.prefix = prefix
        self.kind = kind
        self.lower = lower
        self.line = line
        self.value = value


# Equal to no line of a head: none has its own end in it.
NO_LINE: Final = HeaderLine(b"", RequestHeader.PASS, b"", b"\r\n")


# The heads that come by one connection mostly have the same lines in the same places, or other values of the same headers:
# so each connection keeps what its last head's lines meant, by their places, and looks up only what differs. What is kept
# is shared by all connections, but for the list; no value that can be a secret is in it. The question whether a line is as
# before stands in both parsers' loops, not in a function here: it is asked some twenty times a call.
def keep_in_layout(layout: list[HeaderLine], place: int, meant: HeaderLine) -> None:
    """Sets what the line at `place` meant; a name that is too long to be remembered is not kept here either."""
    kept = meant if len(meant.prefix) <= NAME_BYTES_KNOWN_MAX + 1 else NO_LINE
    if place < len(layout):
        layout[place] = kept
    else:
        layout.append(kept)


def trimmed(line: bytes, start: int) -> bytes:
    """`line` from `start` on, without blanks and tabs at either end."""
    end = len(line)
    while start < end and (line[start] == 0x20 or line[start] == 0x09):
        start += 1
    while start < end and (line[end - 1] == 0x20 or line[end - 1] == 0x09):
        end -= 1
    return line[start:end]
