"""One request head: bytes in, a checked value or a refusal out. No I/O, no state.

Everything that two parsers could read differently is refused (RFC 9112 §11.2), so what goes upstream means to the upstream
what it meant here. Lines that pass through keep their bytes: spelling, order and spacing of a client's headers are its own.

Why not llhttp: for the whole job it costs half as much again,
it can't be stopped between two pipelined messages, and it hides
the bytes it read (docs/decisions/0001-engine.md has the figures). It judges this parser in the tests instead, beside h11."""

from __future__ import annotations

import re
from enum import Enum
from typing import Final

from ostiary.core.errors import ErrorCode, GatewayError
from ostiary.core.model import ClientLimits

from .grammar import (
    HEAD_TABLE,
    IDENTITY_PREFIXES,
    LINE_BYTES_KNOWN_MAX,
    LINES_KNOWN_MAX,
    NAME_BYTES_KNOWN_MAX,
    NAMES_KNOWN_MAX,
    NO_LINE,
    REPEATING_HEADERS,
    REQUEST_HEADERS,
    TOKEN_CHARACTERS,
    HeaderLine,
    RequestHeader,
    has_line_characters,
    is_token,
    keep_in_layout,
    parse_content_length,
    parse_host,
    trimmed,
)

_METHODS: Final = (b"GET", b"POST", b"PUT", b"PATCH", b"DELETE", b"HEAD", b"OPTIONS")
_STARTS: Final = tuple((method + b" ", method) for method in _METHODS)
# Changes everything but visible ASCII.
_TARGET_TABLE: Final = bytes(octet if 0x21 <= octet <= 0x7E else octet ^ 0x80 for octet in range(256))
_REFUSED_METHODS: Final = frozenset((b"CONNECT", b"TRACE"))
_request_line: Final = re.compile(rb"([A-Z][A-Z-]{0,31}) ([!-~]+) HTTP/1\.([01])").fullmatch
_other_version: Final = re.compile(rb"[!-~]+ [!-~]+ HTTP/[0-9]\.[0-9]").fullmatch
_other_method: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) [!-~]+ HTTP/1\.[01]").fullmatch
_endless_method: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{256}").match  # RFC 9110 §9.1: 501, not 414
_rare_in_names: Final = re.compile(rb"[^a-z0-9-]").sub
_absolute_form: Final = re.compile(rb"[Hh][Tt][Tt][Pp][Ss]?://([^/?#@]+)(/[!-~]*|\?[!-~]*|)").fullmatch

_PASS: Final = RequestHeader.PASS
_SINGLE: Final = RequestHeader.SINGLE
_FRAMING: Final = RequestHeader.FRAMING
_LIST: Final = RequestHeader.LIST
_NOTED: Final = RequestHeader.NOTED
_NOTED_LIST: Final = RequestHeader.NOTED_LIST
_CONNECTION: Final = RequestHeader.CONNECTION
_known_names: Final[dict[bytes, HeaderLine]] = {}
_known_lines: Final[dict[bytes, HeaderLine]] = {}
_known_hosts: Final[dict[bytes, bytes]] = {}


class Framing(Enum):
    """How the end of a body is known (RFC 9112 §6.3)."""

    NONE = "none"
    LENGTH = "length"
    CHUNKED = "chunked"
    UNTIL_CLOSE = "until-close"  # answers alone


_NO_BODY: Final = Framing.NONE


class RequestHead:
    """A request as it was sent, checked. `size` is its bytes.

    `target` is what is matched, signed and forwarded: path and query, byte for byte (`*` for `OPTIONS *`). `lines` are the
    headers that pass, `values` those the gateway reads, by lower-case name. `length` is -1 without Content-Length."""

    __slots__ = (
        "framing",
        "host",
        "keep_alive",
        "length",
        "lines",
        "method",
        "minor",
        "path",
        "size",
        "target",
        "values",
    )

    method: bytes
    target: bytes
    path: bytes
    minor: int
    host: bytes
    lines: list[bytes]
    values: dict[bytes, bytes]
    framing: Framing
    length: int
    keep_alive: bool
    size: int


def _refuse(reason: str) -> GatewayError:
    return GatewayError(ErrorCode.MALFORMED_REQUEST, reason, closes=True)


def parse_request_head(head: bytes, limits: ClientLimits, layout: list[HeaderLine] | None = None) -> RequestHead:
    """`head` is everything before the empty line, without its CRLF CRLF. `layout` is what the lines of the head before it on
    the same connection meant, and becomes what these mean.

    Raises GatewayError: MALFORMED_REQUEST, TARGET_TOO_LONG, HEADERS_TOO_LARGE, NOT_IMPLEMENTED, VERSION_NOT_SUPPORTED,
    METHOD_NOT_ALLOWED (CONNECT, TRACE) or EXPECTATION_FAILED; all of them close the connection."""
    lines = head.split(b"\r\n")
    lines_n = len(lines)
    if lines_n > limits.headers + 1:
        raise GatewayError(ErrorCode.HEADERS_TOO_LARGE, "too many headers", closes=True)
    result = RequestHead()
    result.size = len(head) + 4
    start = lines[0]
    target = _parse_request_line(result, start, limits)

    passing: list[bytes] = []
    values: dict[bytes, bytes] = {}
    framed = False
    fresh = [start]  # lines that were not seen before: their characters are judged, all at once, after the loop
    if layout is None:
        layout = []
    layout_n = len(layout)
    for place in range(lines_n - 1):
        line = lines[place + 1]
        meant = layout[place] if place < layout_n else NO_LINE
        if meant.line != line if meant.line else not line.startswith(meant.prefix):
            meant = _meaning_of(line)
            keep_in_layout(layout, place, meant)
        kind = meant.kind
        if meant.line:
            value = meant.value
        else:
            fresh.append(line)
            if kind is _PASS:
                passing.append(line)
                continue
            value = trimmed(line, len(meant.prefix))
            if kind is _FRAMING and meant.lower == b"transfer-encoding":
                value = line[len(meant.prefix) :].removeprefix(b" ")
        if kind is _PASS:
            passing.append(line)
        elif kind is _SINGLE or kind is _FRAMING:
            lower = meant.lower
            if lower in values:
                raise _refuse(f"{lower.decode()} comes twice")
            values[lower] = value
            if kind is _FRAMING:
                framed = True
        elif kind is _NOTED:
            values.setdefault(meant.lower, value)
            passing.append(line)
        elif kind is _LIST or kind is _CONNECTION or kind is _NOTED_LIST:
            if kind is _NOTED_LIST:
                passing.append(line)
            lower = meant.lower
            before = values.get(lower)
            values[lower] = value if before is None else b"%b, %b" % (before, value)
    if not has_line_characters(b"".join(fresh)):
        raise _refuse("a control character, or a bare CR or LF, in the head")
    result.lines = passing
    result.values = values
    _set_target(result, target)
    result.length = -1
    result.framing = _NO_BODY
    if framed:
        _set_framing(result)
    if (options := values.get(b"connection")) is None:
        result.keep_alive = result.minor == 1
    else:
        _set_connection(result, options)
    return result


def _parse_request_line(result: RequestHead, line: bytes, limits: ClientLimits) -> bytes:
    """Sets `method` and `minor`; the result is the target (RFC 9112 §3)."""
    for start, method in _STARTS:  # the usual case, at a fifth of the regular expression's cost
        if not line.startswith(start):
            continue
        if line.endswith(b" HTTP/1.1"):
            minor = 1
        elif line.endswith(b" HTTP/1.0"):
            minor = 0
        else:
            break
        end = len(line) - 9
        if end <= len(start):  # compiled, a slice that ends before it begins is an error
            break
        target = line[len(start) : end]
        if target.translate(_TARGET_TABLE) != target:
            break
        if len(target) > limits.request_line_bytes:
            raise GatewayError(ErrorCode.TARGET_TOO_LONG, "request target too long", closes=True)
        result.method = method
        result.minor = minor
        return target
    if len(line) > limits.request_line_bytes or (match := _request_line(line)) is None:
        raise _refuse_request_line(line, limits)
    result.method, target, digit = match.groups()
    result.minor = 1 if digit == b"1" else 0
    return bytes(target)


def _meaning_of(line: bytes) -> HeaderLine:
    """What a line means, or, of a header that has another value each time, its name. Remembered within bounds."""
    if (known := _known_lines.get(line)) is not None:
        return known
    name, colon, _ = line.partition(b":")
    if not colon or (meant := _known_names.get(name)) is None:
        meant = _learn(name, colon)
    if meant.lower in REPEATING_HEADERS and len(line) <= LINE_BYTES_KNOWN_MAX and has_line_characters(line):
        value = line[len(meant.prefix) :]
        value = value.removeprefix(b" ") if meant.lower == b"transfer-encoding" else value.strip(b" \t")
        if len(_known_lines) >= LINES_KNOWN_MAX:
            _known_lines.clear()  # rare, and cheaper than to remember what was used last
        meant = _known_lines[line] = HeaderLine(meant.prefix, meant.kind, meant.lower, line, value)
    return meant


def _learn(name: bytes, colon: bytes) -> HeaderLine:
    """What a spelling of a header name means; remembered within bounds."""
    if not colon or not is_token(name):
        raise _refuse("a header line without a valid name")
    lower = name.lower()
    if 0x5F in lower:
        # CGI-like upstreams read `x_ostiary_key` as `X-Ostiary-Key`: an underscore is a second spelling of another name.
        raise _refuse("an underscore in a header name")
    kind = _kind_of(lower)
    if kind is _PASS and _kind_of(_rare_in_names(b"-", lower)) is not _PASS:
        # Some servers make a dash or an underscore of every character but letters and digits.
        raise _refuse("a second spelling of a header's name")
    meant = HeaderLine(name + b":", kind, lower)
    if len(name) <= NAME_BYTES_KNOWN_MAX:
        if len(_known_names) >= NAMES_KNOWN_MAX:
            _known_names.clear()
        _known_names[name] = meant
    return meant


def _kind_of(lower: bytes) -> RequestHeader:
    return RequestHeader.DROP if lower.startswith(IDENTITY_PREFIXES) else REQUEST_HEADERS.get(lower, _PASS)


def _refuse_request_line(line: bytes, limits: ClientLimits) -> GatewayError:
    if _endless_method(line) is not None:
        return GatewayError(ErrorCode.NOT_IMPLEMENTED, "unknown method", closes=True)
    if len(line) > limits.request_line_bytes:
        return GatewayError(ErrorCode.TARGET_TOO_LONG, "request line too long", closes=True)
    if _other_method(line) is not None:
        return GatewayError(ErrorCode.NOT_IMPLEMENTED, "unknown method", closes=True)
    if line == b"PRI * HTTP/2.0":
        return _refuse("the preface of HTTP/2 (RFC 9113 §3.4); what stands in front should speak HTTP/1.1 to this port")
    if _other_version(line) is not None and not line.endswith((b" HTTP/1.1", b" HTTP/1.0")):
        return GatewayError(ErrorCode.VERSION_NOT_SUPPORTED, "unknown HTTP version", closes=True)
    return _refuse("no valid request line")


def _set_target(head: RequestHead, target: bytes) -> None:
    """Host and target (RFC 9112 §3.2 and §3.3)."""
    if head.method in _REFUSED_METHODS:
        raise GatewayError(
            ErrorCode.METHOD_NOT_ALLOWED,
            "CONNECT and TRACE are refused",
            headers=(("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),),
            closes=True,
        )
    sent = head.values.get(b"host")
    if sent is None:
        if head.minor:
            raise _refuse("no Host")
        head.host = b""
    elif (host := _known_hosts.get(sent)) is not None:
        head.host = host
    else:
        if (host := parse_host(sent)) is None:
            raise _refuse("Host is not a host")
        head.host = host
        if len(_known_hosts) >= NAMES_KNOWN_MAX:
            _known_hosts.clear()
        _known_hosts[sent] = host
    if target[0] != 0x2F:
        target = _other_form(head, target, sent)
    if 0x23 in target:
        raise GatewayError(ErrorCode.INVALID_PATH, "a fragment in the target", closes=True)
    head.target = target
    end, target_bytes = 0, len(target)
    while end < target_bytes and target[end] != 0x3F:
        end += 1
    head.path = target if end == target_bytes else target[:end]


def _other_form(head: RequestHead, target: bytes, sent: bytes | None) -> bytes:
    """Absolute-form becomes origin-form; its authority must be the Host's (they can't disagree, row 20)."""
    if target == b"*" and head.method == b"OPTIONS":
        return target
    if (match := _absolute_form(target)) is None:
        raise _refuse("the target is neither a path nor an absolute URL")
    authority, rest = match.groups()
    host = parse_host(authority)
    if host is None or (sent is not None and authority.lower() != sent.lower()):
        raise _refuse("Host and target disagree")
    head.host = host
    head.values[b"host"] = authority  # HTTP/1.0 may come without a Host
    return bytes(rest) if rest.startswith(b"/") else b"/" + rest


def _set_framing(head: RequestHead) -> None:
    """RFC 9112 §6: one way to tell the end of the body, or none."""
    values = head.values
    encoding = values.get(b"transfer-encoding")
    length = values.get(b"content-length")
    if encoding is not None:
        if length is not None:
            raise _refuse("Content-Length beside Transfer-Encoding")
        if not head.minor:
            raise _refuse("Transfer-Encoding in HTTP/1.0")
        # Letters of either case (RFC 9112 §7), and no space around but the usual one: no client sends another, and servers
        # that take `chunked ` or `\tchunked` for an unknown coding would see another end of the body.
        if encoding.lower() != b"chunked":
            raise _refuse("a Transfer-Encoding other than chunked")
        head.framing = Framing.CHUNKED
    elif length is not None:
        bytes_expected = parse_content_length(length)
        if bytes_expected is None or (length[0] == 0x30 and len(length) > 1):  # some read a leading zero as octal
            raise _refuse("Content-Length is not a number")
        head.length = bytes_expected
        head.framing = Framing.LENGTH if head.length else Framing.NONE
    if (expectation := values.get(b"expect")) is not None and expectation.lower() != b"100-continue":
        raise GatewayError(ErrorCode.EXPECTATION_FAILED, "an expectation other than 100-continue", closes=True)


def _set_connection(head: RequestHead, options: bytes) -> None:
    """Connection options: persistence, and headers that the client wants removed at this hop (RFC 9110 §7.6.1)."""
    lowered = options.lower()
    if lowered == b"keep-alive":
        head.keep_alive = True
        return
    names = {option.strip(b" \t") for option in lowered.split(b",")}
    head.keep_alive = b"close" not in names and (head.minor == 1 or b"keep-alive" in names)
    names -= {b"close", b"keep-alive"}
    if names:
        # Only what passes through can be removed: what the gateway reads it has read, what it sets it sets afterwards.
        head.lines = [line for line in head.lines if line.partition(b":")[0].lower() not in names]


def refuse_partial_head(data: bytes, checked_bytes: int, limits: ClientLimits) -> GatewayError | None:
    """Why the beginning of a head can't become a good one, or None: so that garbage is refused at once, not at a timeout.

    The first `checked_bytes` have been judged before, so a head that comes byte by byte is read once, not once a byte."""
    if data[0:1].strip(TOKEN_CHARACTERS):
        return _refuse("not HTTP")
    line_end = data.find(b"\r\n")
    if _endless_method(data) is not None:
        return GatewayError(ErrorCode.NOT_IMPLEMENTED, "unknown method", closes=True)
    if (line_end if line_end >= 0 else len(data)) > limits.request_line_bytes + 64:
        return GatewayError(ErrorCode.TARGET_TOO_LONG, "request line too long", closes=True)
    if len(data) > limits.head_bytes:
        return GatewayError(ErrorCode.HEADERS_TOO_LARGE, "head too large", closes=True)
    if checked_bytes and data[checked_bytes - 1] == 0x0D:
        checked_bytes -= 1  # a CR that was the last byte then must be followed by LF now
    fresh = data[checked_bytes:]
    ends = fresh.count(b"\r\n")
    if fresh.count(b"\n") != ends or fresh.count(b"\r") - fresh.endswith(b"\r") != ends:
        return _refuse("a bare CR or LF in the head")
    if fresh.translate(HEAD_TABLE) != fresh:
        return _refuse("control character in the head")
    if line_end >= checked_bytes and _request_line(data[:line_end]) is None:
        return _refuse_request_line(data[:line_end], limits)
    return None
