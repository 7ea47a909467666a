"""The hash chain of the audit log, as `docs/decisions/0030-audit.md` describes it for whoever checks it by other means.

Each row's hash covers the row and the hash of the row before it. The same arithmetic is in `audit_append` (migration 0013),
which alone knows what the row before is."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from ostiary.core.canonical_json import canonical

# What the first row follows.
GENESIS = bytes(32)

# Of a row, what is hashed as its content: a JSON object with these names, null for what it has not.
CONTENT = (
    *("actor", "actor_name", "address", "request_id", "operation", "resource_type", "resource_id", "organization_id"),
    *("outcome", "code", "before", "after"),
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Anchor:
    """A row of the chain, to be kept elsewhere: with it, a chain that was cut off or written anew shows. Its text is
    `NUMBER:HASH`, the hash in lower hex."""

    number: int
    hash: bytes

    def __str__(self) -> str:
        return f"{self.number}:{self.hash.hex()}"


def parse_anchor(text: str) -> Anchor:
    """Raises ValueError."""
    number, colon, digest = text.strip().partition(":")
    if not colon or not number.isascii() or not number.isdigit() or len(number) > 18:
        raise ValueError("an anchor is NUMBER:HASH, as `ostiary audit head` prints it")
    try:
        octets = bytes.fromhex(digest)
    except ValueError:
        octets = b""
    if len(octets) != 32:
        raise ValueError("the hash of an anchor is 64 hexadecimal digits")
    if int(number) == 0 and octets != GENESIS:
        raise ValueError("number 0 is the empty log, and its hash is 64 zeros")
    return Anchor(int(number), octets)


def content_sha256(content: Mapping[str, object]) -> bytes:
    """`content` has the names of CONTENT and no others. Raises ValueError, TypeError: see `canonical`."""
    return hashlib.sha256(canonical({name: content[name] for name in CONTENT})).digest()


def row_hash(previous: bytes, number: int, occurred_at: datetime, content: bytes) -> bytes:
    """`content` is what `content_sha256` gave; whole microseconds count, since Postgres keeps no more."""
    microseconds = (occurred_at - _EPOCH) // _MICROSECOND
    return hashlib.sha256(
        previous + number.to_bytes(8, "big") + microseconds.to_bytes(8, "big", signed=True) + content
    ).digest()
