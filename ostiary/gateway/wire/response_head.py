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
    REPEATING_HEADERS,
    RESPONSE_HEADERS,
    ResponseHeader,
    has_line_characters,
    is_token,
    parse_content_length,
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
_known_names: Final[dict[bytes, tuple[ResponseHeader, bytes]]] = {}
_known_lines: Final[dict[bytes, tuple[ResponseHeader, bytes, bytes]]] = {}
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


def parse_response_head(head: bytes, method: bytes) -> ResponseHead:
    """`head` is everything before the empty line; `method` is that of the request it answers. Raises ResponseError."""
    lines = head.split(b"\r\n")
    if len(lines) > HEADERS_MAX + 1:
        raise ResponseError("too many headers")
    start = lines[0]
    if (meant := _known_starts.get(start)) is None:
        meant = _parse_status_line(start)
    result = ResponseHead()
    minor, result.status, result.status_line = meant
    passing: list[bytes] = []
    limit_lines: list[bytes] = []
    length = encoding = options = None
    result.dated = False
    known, known_lines = _known_names, _known_lines
    fresh: list[bytes] = []  # lines that were not seen before: their characters are judged, all at once, after the loop
    del lines[0]
    for line in lines:
        if (known_line := known_lines.get(line)) is not None:
            kind, lower, value = known_line
        else:
            fresh.append(line)
            name, colon, value = line.partition(b":")
            if not colon or (meaning := known.get(name)) is None:
                meaning = _learn(name, colon)
            kind, lower = meaning
            value = value.strip(b" \t")
            if lower in REPEATING_HEADERS and len(line) <= LINE_BYTES_KNOWN_MAX and has_line_characters(line):
                if len(known_lines) >= LINES_KNOWN_MAX:
                    known_lines.clear()
                known_lines[line] = (kind, lower, value)
        if kind is _PASS:
            passing.append(line)
        elif kind is _DATE:
            result.dated = True
            passing.append(line)
        elif kind is _FRAMING:
            if lower == b"content-length":
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


def _learn(name: bytes, colon: bytes) -> tuple[ResponseHeader, bytes]:
    if not colon or not is_token(name):
        raise ResponseError("a header line without a valid name")
    lower = name.lower()
    meaning = (RESPONSE_HEADERS.get(lower, _PASS), lower)
    if len(name) <= NAME_BYTES_KNOWN_MAX:
        if len(_known_names) >= NAMES_KNOWN_MAX:
            _known_names.clear()
        _known_names[name] = meaning
    return meaning


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
