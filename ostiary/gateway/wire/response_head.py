"""One response head of an upstream: bytes in, a checked value or a refusal out. No I/O, no state.

As strict as for requests: an answer that two parsers could read differently becomes a 502, never a guess (row 99)."""

from __future__ import annotations

import re
from typing import Final

from .grammar import (
    LINE_BYTES_KNOWN_MAX,
    LINES_KNOWN_MAX,
    NAME_BYTES_KNOWN_MAX,
    NAMES_KNOWN_MAX,
    NO_LINE,
    REPEATING_HEADERS,
    RESPONSE_HEADERS,
    HeaderLine,
    ResponseHeader,
    has_line_characters,
    is_token,
    keep_in_layout,
    parse_content_length,
    trimmed,
)
from .request_head import Framing

HEAD_BYTES_MAX: Final = 64 * 1024
HEADERS_MAX: Final = 256

_status_line: Final = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: ([\t \x21-\x7e\x80-\xff]*))?").fullmatch
_PASS: Final = ResponseHeader.PASS
_FRAMING: Final = ResponseHeader.FRAMING
_CONNECTION: Final = ResponseHeader.CONNECTION
_DATE: Final = ResponseHeader.DATE
_LIMIT: Final = ResponseHeader.LIMIT
_known_names: Final[dict[bytes, HeaderLine]] = {}
_known_lines: Final[dict[bytes, HeaderLine]] = {}
_known_starts: Final[dict[bytes, tuple[int, int, bytes]]] = {}


class ResponseError(ValueError):
    """The upstream did not answer in valid HTTP/1.1."""


class ResponseHead:
    """`status_line` is `200 OK` as sent; `lines` pass to the client; `limit_lines` do unless the gateway gives its own
    limits. `length` is -1 when unknown. `reusable` says whether the connection may carry another request."""

    __slots__ = ("dated", "framing", "length", "limit_lines", "lines", "reusable", "status", "status_line")

    status: int
    status_line: bytes
    lines: list[bytes]
    limit_lines: list[bytes]
    framing: Framing
    length: int
    reusable: bool
    dated: bool


def parse_response_head(head: bytes, method: bytes, layout: list[HeaderLine] | None = None) -> ResponseHead:
    """`head` is everything before the empty line; `method` is that of the request it answers; `layout` as for requests.
    Raises ResponseError."""
    lines = head.split(b"\r\n")
    lines_n = len(lines)
    if lines_n > HEADERS_MAX + 1:
        raise ResponseError("too many headers")
    start = lines[0]
    if (start_meant := _known_starts.get(start)) is None:
        start_meant = _parse_status_line(start)
    result = ResponseHead()
    minor, result.status, result.status_line = start_meant
    passing: list[bytes] = []
    limit_lines: list[bytes] = []
    length = encoding = options = None
    result.dated = False
    fresh: list[bytes] = []  # lines that were not seen before: their characters are judged, all at once, after the loop
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
        if kind is _PASS:
            passing.append(line)
        elif kind is _DATE:
            result.dated = True
            passing.append(line)
        elif kind is _FRAMING:
            if meant.lower == b"content-length":
                if length is not None:
                    raise ResponseError("Content-Length comes twice")
                length = value
            elif encoding is not None:
                raise ResponseError("Transfer-Encoding comes twice")
            else:
                encoding = value
        elif kind is _CONNECTION:
            options = value if options is None else b"%b,%b" % (options, value)
        elif kind is _LIMIT:
            limit_lines.append(line)
    if fresh and not has_line_characters(b"".join(fresh)):
        raise ResponseError("a control character, or a bare CR or LF, in the head")
    result.lines = passing
    result.limit_lines = limit_lines
    result.reusable = minor == 1 or options == b"keep-alive"
    if options is not None and options != b"keep-alive":
        _apply_connection(result, options, minor)
    _set_framing(result, method, length, encoding, minor)
    return result


def _parse_status_line(line: bytes) -> tuple[int, int, bytes]:
    """Minor version, status, and `200 OK` as sent (RFC 9112 §4)."""
    if (match := _status_line(line)) is None:
        raise ResponseError("no valid status line")
    # The space stays where there is no reason (RFC 9112 §4): clients look for it.
    meant = (1 if match[1] == b"1" else 0, int(match[2]), line[9:] if len(line) > 12 else line[9:] + b" ")
    if len(line) <= LINE_BYTES_KNOWN_MAX:
        if len(_known_starts) >= LINES_KNOWN_MAX:
            _known_starts.clear()
        _known_starts[line] = meant
    return meant


def _meaning_of(line: bytes) -> HeaderLine:
    """As of a request's line."""
    if (known := _known_lines.get(line)) is not None:
        return known
    name, colon, value = line.partition(b":")
    if not colon or (meant := _known_names.get(name)) is None:
        meant = _learn(name, colon)
    if meant.lower in REPEATING_HEADERS and len(line) <= LINE_BYTES_KNOWN_MAX and has_line_characters(line):
        if len(_known_lines) >= LINES_KNOWN_MAX:
            _known_lines.clear()
        meant = _known_lines[line] = HeaderLine(meant.prefix, meant.kind, meant.lower, line, value.strip(b" \t"))
    return meant


def _learn(name: bytes, colon: bytes) -> HeaderLine:
    if not colon or not is_token(name):
        raise ResponseError("a header line without a valid name")
    lower = name.lower()
    meant = HeaderLine(name + b":", RESPONSE_HEADERS.get(lower, _PASS), lower)
    if len(name) <= NAME_BYTES_KNOWN_MAX:
        if len(_known_names) >= NAMES_KNOWN_MAX:
            _known_names.clear()
        _known_names[name] = meant
    return meant


def _apply_connection(head: ResponseHead, options: bytes, minor: int) -> None:
    names = {option.strip(b" \t") for option in options.lower().split(b",")}
    head.reusable = b"close" not in names and (minor == 1 or b"keep-alive" in names)
    names -= {b"close", b"keep-alive"}
    if names:
        head.lines = [line for line in head.lines if line.partition(b":")[0].lower() not in names]
        head.dated = head.dated and b"date" not in names


def _set_framing(head: ResponseHead, method: bytes, length: bytes | None, encoding: bytes | None, minor: int) -> None:
    """RFC 9112 §6.3, in its order."""
    head.length = -1
    if length is not None:
        if (bytes_to_come := parse_content_length(length)) is None:
            raise ResponseError("Content-Length is not a number")
        head.length = bytes_to_come
    if encoding is not None and (length is not None or encoding.lower() != b"chunked" or minor == 0):
        raise ResponseError("ambiguous framing")
    status = head.status
    if (status == 204 or status < 200) and (encoding is not None or head.length > 0):
        raise ResponseError("a body announced where there can be none")  # RFC 9110 §8.6, RFC 9112 §6.1
    if method == b"HEAD" or status == 204 or status == 304 or status < 200:
        head.framing = Framing.NONE
    elif encoding is not None:
        head.framing = Framing.CHUNKED
    elif head.length >= 0:
        head.framing = Framing.LENGTH if head.length else Framing.NONE
    else:
        head.framing = Framing.UNTIL_CLOSE
        head.reusable = False
