"""gzip: which answers are compressed, for whom, and what then changes in their heads. Decisions over values; the bytes are
compressed in wire/gzip_stream.py."""

from __future__ import annotations

import re
from typing import Final

from ostiary.core.model import Gzip
from ostiary.gateway.wire.gzip_stream import GzipStream, GzipStreams
from ostiary.gateway.wire.request_head import Framing, RequestHead
from ostiary.gateway.wire.response_head import ResponseHead

_NO_BODY: Final = Framing.NONE
_LENGTH: Final = Framing.LENGTH

# Partial content is a part of the uncompressed bytes; a redirect's body is for nobody.
_STATUSES: Final = frozenset((200, 201, 202, 203, 207, 208))

# An answer with one of these is coded already, must stay as it is, or vouches for its bytes (RFC 9110 §8.4, RFC 9530,
# RFC 9421): it is left alone.
_FORBIDDING: Final = frozenset(
    (b"content-encoding", b"content-range", b"content-digest", b"repr-digest", b"digest", b"content-md5", b"signature")
)

_ACCEPT_ENCODING: Final = b"accept-encoding:"
_CODINGS_READ_MAX: Final = 32
_weight: Final = re.compile(rb"[ \t]*;[ \t]*[qQ]=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)[ \t]*").fullmatch


class CompiledGzip:
    """What a route compresses."""

    def __init__(self, gzip: Gzip, streams: GzipStreams) -> None:
        self._bytes_min = gzip.bytes_min
        self._types = frozenset(media_type.encode() for media_type in gzip.types)
        self._streams = streams

    def stream_for(self, head: RequestHead, answer: ResponseHead) -> GzipStream | None:
        """A stream if this answer is to be compressed; then its head says so. Whoever gets it closes it.

        An answer that would be compressed for another client says that it would (RFC 9110 §12.5.5)."""
        if answer.framing is _NO_BODY or (answer.status not in _STATUSES and answer.status < 400):
            return None
        if answer.framing is _LENGTH and answer.length < self._bytes_min:
            return None
        lines = compressed_lines(answer.lines, self._types)
        if lines is None:
            return None
        if head.minor and accepts_gzip(head.lines) and (stream := self._streams.open()) is not None:
            answer.lines = lines
            return stream
        if not varies(answer.lines):
            answer.lines = [*answer.lines, b"Vary: Accept-Encoding"]
        return None


def compressed_lines(lines: list[bytes], types: frozenset[bytes]) -> list[bytes] | None:
    """The headers of the answer once it is compressed, or None if it must not be."""
    result: list[bytes] = []
    fits = False
    for line in lines:
        name, _, value = line.partition(b":")
        lower = name.lower()
        if lower == b"content-type":
            if value.partition(b";")[0].strip(b" \t").lower() not in types:
                return None
            fits = True
        elif lower in _FORBIDDING:
            return None
        elif lower == b"cache-control":
            if b"no-transform" in value.lower():
                return None
        elif lower == b"etag":
            # The bytes are others, and may be others again for another client (RFC 9110 §8.8.1).
            tag = value.strip(b" \t")
            line = line if tag.startswith(b"W/") else b"ETag: W/" + tag
        elif lower == b"accept-ranges":
            continue  # of bytes that this client does not get
        result.append(line)
    if not fits:
        return None
    if not varies(result):
        result.append(b"Vary: Accept-Encoding")
    result.append(b"Content-Encoding: gzip")
    return result


def varies(lines: list[bytes]) -> bool:
    """Whether caches are told already."""
    for line in lines:
        if line[:5].lower() == b"vary:":
            names = {name.strip(b" \t").lower() for name in line[5:].split(b",")}
            if b"*" in names or b"accept-encoding" in names:
                return True
    return False


def accepts_gzip(lines: list[bytes]) -> bool:
    """Whether the client takes gzip, and does not rather have it plain (RFC 9110 §12.5.3). `lines` are its headers."""
    length = len(_ACCEPT_ENCODING)
    given = [line[length:] for line in lines if line[:length].lower() == _ACCEPT_ENCODING]
    if not given:
        return False
    weights: dict[bytes, float] = {}
    for entry in b",".join(given).split(b",")[:_CODINGS_READ_MAX]:
        coding, semicolon, parameters = entry.partition(b";")
        weight = 1.0
        if semicolon:
            if (match := _weight(b";" + parameters)) is None:
                return False  # what it means is not certain
            weight = float(match[1])
        weights[coding.strip(b" \t").lower()] = weight
    everything = weights.get(b"*", 0.0)
    gzip = weights.get(b"gzip", weights.get(b"x-gzip", everything))
    return gzip > 0.0 and gzip >= weights.get(b"identity", 0.0)
