"""`Content-Digest` (RFC 9530): the digest of a body, over the bytes of the body as they were sent (a gzip body is not
unpacked). Only `sha-256` and `sha-512` are looked at: the others of the registry are broken, or no digests."""

from __future__ import annotations

import re
from binascii import a2b_base64, b2a_base64
from hashlib import sha256, sha512
from hmac import compare_digest
from typing import Final

from ostiary.core.structured_fields import Kind, Malformed, parse_dictionary

_LENGTHS: Final = {b"sha-256": 32, b"sha-512": 64}
_FIELD_BYTES_MAX: Final = 1024
_USUAL_BYTES: Final = len("sha-256=:") + 44 + len(":")
_usual: Final = re.compile(rb"sha-256=:([A-Za-z0-9+/]{43}=):").fullmatch


class Digest:
    """What a body must come to; either part is None where the field does not name it, but never both."""

    __slots__ = ("sha256", "sha512")

    def __init__(self, sha256: bytes | None, sha512: bytes | None) -> None:
        self.sha256 = sha256
        self.sha512 = sha512

    def holds(self, got_sha256: bytes | None, got_sha512: bytes | None) -> bool:
        """Whether every digest that the field names is the body's."""
        if self.sha256 is not None and (got_sha256 is None or not compare_digest(self.sha256, got_sha256)):
            return False
        return self.sha512 is None or (got_sha512 is not None and compare_digest(self.sha512, got_sha512))


def is_usual(value: bytes) -> bool:
    """Whether it looks like one digest by sha-256, as most clients send it: then `usual_digest_holds` can tell."""
    return len(value) == _USUAL_BYTES and value.startswith(b"sha-256=:")


def usual_digest_holds(value: bytes, body: bytes) -> bool:
    """Whether a field that `is_usual` names the digest of the whole `body`, in the one spelling that base64 has for it. At a
    third of the cost of reading the field."""
    return compare_digest(value, b"sha-256=:%b:" % b2a_base64(sha256(body).digest(), newline=False))


def parse_content_digest(value: bytes) -> Digest:
    """Raises Malformed for what is no digest field, or names neither sha-256 nor sha-512."""
    if (found := _usual(value)) is not None:  # at a tenth of the cost
        octets = a2b_base64(found[1])
        if b2a_base64(octets, newline=False) == found[1]:
            return Digest(octets, None)
    if len(value) > _FIELD_BYTES_MAX:
        raise Malformed("Content-Digest is too long")
    digests: dict[bytes, bytes] = {}
    for member in parse_dictionary(value):
        if member.item is None or member.item.bare.kind is not Kind.OCTETS:
            raise Malformed("Content-Digest has a member that is no byte sequence")
        octets = member.item.bare.octets
        if (length := _LENGTHS.get(member.key)) is not None:
            if len(octets) != length:
                raise Malformed("Content-Digest has a digest of the wrong length")
            digests[member.key] = octets
    if not digests:
        raise Malformed("Content-Digest names neither sha-256 nor sha-512")
    return Digest(digests.get(b"sha-256"), digests.get(b"sha-512"))


def content_digest(body: bytes, algorithm: str = "sha-256") -> str:
    """The value of the field for `body`. Raises ValueError for another algorithm than sha-256 and sha-512."""
    if algorithm not in ("sha-256", "sha-512"):
        raise ValueError("a Content-Digest is sha-256 or sha-512")
    digest = sha256(body).digest() if algorithm == "sha-256" else sha512(body).digest()
    return f"{algorithm}=:{b2a_base64(digest, newline=False).decode()}:"
