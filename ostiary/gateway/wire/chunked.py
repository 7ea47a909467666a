"""The chunked coding (RFC 9112 §7.1), strictly: CRLF alone ends a line, no space around a size, every bound kept.

The decoder stops exactly at the end of the message and gives back what follows, so a pipelined request is never read as a
body, nor a body as a request."""

from __future__ import annotations

import re
from typing import Final

from .grammar import has_line_characters, is_token

# 15 digits are a petabyte. Extensions are legal and useless: they are read, bounded and dropped (CVE-2023-39326). They are
# read as strictly as all else, because parsers disagree about where a broken one ends (CVE-2025-55315): a name, and a token
# or a whole quoted string.
_size_line: Final = re.compile(
    rb"([0-9A-Fa-f]{1,15})"
    rb"((?:;[\t ]*[!#$%&'*+.^_`|~0-9A-Za-z-]+"
    rb"(?:[\t ]*=[\t ]*(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+|\"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*\"))?"
    rb"[\t ]*)*)"
).fullmatch
_begins_size_line: Final = re.compile(rb"[0-9A-Fa-f]{1,15}(?:;[\t -~\x80-\xff]*)?").fullmatch
_LINE_BYTES_MAX: Final = 1024
_EXTENSION_BYTES_MAX: Final = 16 * 1024
_TRAILER_BYTES_MAX: Final = 8 * 1024
LAST_CHUNK: Final = b"0\r\n\r\n"


class ChunkedError(ValueError):
    """The coding is broken; where the message ends can't be known."""


class ChunkedDecoder:
    """Feed it bytes, take the payload. Trailers are checked and dropped: nothing may be merged into a head that was judged
    without it (RFC 9110 §6.5.1)."""

    __slots__ = ("_extension_bytes", "_left", "_partial", "_trailer_bytes", "_trailers", "finished")

    def __init__(self) -> None:
        self._left = 0  # of the current chunk, its CRLF included
        self._partial = b""  # a line that has not ended yet
        self._extension_bytes = 0
        self._trailers = False
        self._trailer_bytes = 0
        self.finished = False

    def feed(self, data: bytes) -> tuple[list[bytes], bytes]:
        """The payload in `data`, in pieces, and what stands after the end of the message (empty before the end).

        Raises ChunkedError."""
        if self._partial:
            data = self._partial + data
            self._partial = b""
        pieces: list[bytes] = []
        at, end = 0, len(data)
        while at < end:
            if self._left:
                at = self._take(data, at, pieces)
                continue
            line_end = data.find(b"\r\n", at, at + _LINE_BYTES_MAX + 2)
            if line_end < 0:
                if end - at > _LINE_BYTES_MAX:
                    raise ChunkedError("a line of the coding is too long")
                self._check_partial(data[at:])
                self._partial = data[at:]
                break
            line = data[at:line_end]
            at = line_end + 2
            if self._trailers:
                if self._trailer(line):
                    self.finished = True
                    return pieces, data[at:]
            else:
                self._size(line)
        return pieces, b""

    def _take(self, data: bytes, at: int, pieces: list[bytes]) -> int:
        """Payload of the current chunk, then its CRLF; `_left` counts both."""
        if self._left > 2:
            piece = data[at : at + self._left - 2]
            pieces.append(piece)
            self._left -= len(piece)
            at += len(piece)
        if self._left <= 2 and at < len(data):
            if data[at] != (0x0D if self._left == 2 else 0x0A):
                raise ChunkedError("chunk data is longer than its size")
            self._left -= 1
            at += 1
        return at

    def _size(self, line: bytes) -> None:
        if (match := _size_line(line)) is None:
            raise ChunkedError("not a chunk size")
        self._extension_bytes += len(match[2])
        if self._extension_bytes > _EXTENSION_BYTES_MAX:
            raise ChunkedError("too many chunk extensions")
        size = int(match[1], 16)
        if size:
            self._left = size + 2
        else:
            self._trailers = True

    def _trailer(self, line: bytes) -> bool:
        """True at the empty line that ends the message."""
        if not line:
            return True
        self._trailer_bytes += len(line)
        name, colon, _ = line.partition(b":")
        if not colon or not is_token(name) or self._trailer_bytes > _TRAILER_BYTES_MAX:
            raise ChunkedError("not a trailer")
        if _has_control(line):
            raise ChunkedError("control character in a trailer")
        return False

    def _check_partial(self, line: bytes) -> None:
        """Refuses at once what can't become a good line, instead of waiting for its end."""
        if _has_control(line.removesuffix(b"\r")):
            raise ChunkedError("control character in the coding")
        if not self._trailers and _begins_size_line(line.removesuffix(b"\r")) is None:
            raise ChunkedError("not a chunk size")


def _has_control(line: bytes) -> bool:
    return not has_line_characters(line)


def encode_chunk(piece: bytes) -> bytes:
    """One chunk; `piece` is not empty (an empty one would end the message)."""
    return b"%x\r\n%b\r\n" % (len(piece), piece)
