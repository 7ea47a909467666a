"""Single columns in PostgreSQL's binary COPY format: a length and the bytes, or NULL."""

from __future__ import annotations

import struct
from typing import Final

NULL: Final = struct.pack("!i", -1)

# Control characters in text that came from outside: Postgres refuses NUL, and the rest would forge lines in exports.
CONTROLS: Final = dict.fromkeys((*range(0x20), *range(0x7F, 0xA0)), "\N{REPLACEMENT CHARACTER}")


def field(value: bytes) -> bytes:
    return struct.pack("!i", len(value)) + value


def clean(value: bytes, bytes_max: int) -> bytes:
    """Text that a column can hold: cut, made valid UTF-8, control characters replaced."""
    return value[:bytes_max].decode("utf-8", "replace").translate(CONTROLS).encode()
