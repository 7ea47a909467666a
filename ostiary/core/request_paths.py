"""Which request paths are plain, and what a path becomes when a route asks for `paths: normalize`.

A path is plain when every server reads it alike: no empty, `.` or `..` segment (plain, encoded, or with `;parameters`), no
encoded slash, backslash, NUL or control character, not even encoded twice, valid percent-encoding of valid UTF-8, and only
characters of RFC 3986 §3.3. What is not plain is refused unless the route says otherwise."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote_to_bytes

_PATH_CHARACTERS: Final = b"/-._~!$&'()*+,;=:@[]0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
# Changes everything else: `path.translate(_PLAIN_TABLE) == path` when a path has these characters alone.
_PLAIN_TABLE: Final = bytes(octet if octet in _PATH_CHARACTERS else octet ^ 0x80 for octet in range(256))
_SHORT_BYTES: Final = 256
_broken_escape: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})").search
_dot_segment: Final = re.compile(rb"(?:^|/)\.{1,2}(?:;[^/]*)?(?:/|$)").search
# A control character, or a character in more bytes than it needs: C0, C1, E0 80-9F, F0 80-8F begin one (RFC 3629 §3).
_never_in_a_path: Final = re.compile(rb"[\x00-\x1f\x7f]|[\xc0\xc1][\x80-\xbf]|\xe0[\x80-\x9f]|\xf0[\x80-\x8f]").search
_escape: Final = re.compile(rb"%[0-9A-Fa-f]{2}")
_UNRESERVED: Final = frozenset(b"-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")


def is_plain(path: bytes) -> bool:
    """Whether every server reads `path` alike.

    The usual path is looked at octet by octet, once compiled the cheapest way. (`b"//" in path` is the dearest: it tries to
    take the octets for a number first, and swallows the exception.)"""
    length = len(path)
    if length > _SHORT_BYTES:
        return _is_plain_slowly(path)
    before = 0
    for at in range(length):
        octet = path[at]
        if before == 0x2F and (octet == 0x2F or octet == 0x2E):  # `//` or `/.`
            return _is_plain_slowly(path)
        before = octet
    return path.translate(_PLAIN_TABLE) == path or _is_plain_slowly(path)


def _is_plain_slowly(path: bytes) -> bool:
    if b"//" in path or _dot_segment(path) is not None or path.translate(None, _PATH_CHARACTERS + b"%"):
        return False
    if b"%" not in path:
        return True
    if _broken_escape(path) is not None:
        return False
    decoded = unquote_to_bytes(path)
    twice = unquote_to_bytes(decoded)
    for form in (decoded, twice):
        if form.count(b"/") != path.count(b"/") or b"\\" in form or _dot_segment(form) is not None:
            return False
        if any(octet < 0x20 or octet == 0x7F for octet in form):
            return False
    try:
        decoded.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def is_readable(path: bytes) -> bool:
    """Whether a path may be passed on as it is, where a route says `paths: raw`. Slashes, dots and backslashes may then mean
    what they like; what means nothing is refused all the same: broken escapes, control characters, and overlong UTF-8 (a
    slash in more bytes than it needs has no use but to hide)."""
    return _broken_escape(path) is None and _never_in_a_path(unquote_to_bytes(path)) is None


def normalize(path: bytes) -> bytes | None:
    """`path` with dot and empty segments resolved once (RFC 3986 §5.2.4) and unreserved characters decoded; None when it is
    still not plain (an encoded slash, a control character, a step above the root)."""
    if _broken_escape(path) is not None:
        return None
    decoded = _escape.sub(_decode_unreserved, path)
    segments: list[bytes] = []
    parts = decoded.split(b"/")[1:]
    for index, part in enumerate(parts):
        last = index == len(parts) - 1
        if part == b"..":
            if not segments:
                return None
            segments.pop()
        elif part not in (b"", b"."):
            segments.append(part)
            continue
        if last:
            segments.append(b"")
    result = b"/" + b"/".join(segments)
    return result if is_plain(result) else None


def _decode_unreserved(match: re.Match[bytes]) -> bytes:
    octet = int(match[0][1:], 16)
    return bytes((octet,)) if octet in _UNRESERVED else match[0].upper()
