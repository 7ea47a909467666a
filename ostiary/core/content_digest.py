"""`Content-Digest` (RFC 9530): the digest of a body, over the bytes of the body as they were sent (a gzip body is not
unpacked). Only `sha-256` and `sha-512` are looked at: the others of the registry are broken, or no digests."""

from __future__ import annotations

from binascii import b2a_base64
from hashlib import sha256, sha512
from hmac import compare_digest
from typing import Final

from ostiary.core.structured_fields import Kind, Malformed, parse_dictionary

_LENGTHS: Final = {b"sha-256": 32, b"sha-512": 64}
_FIELD_BYTES_MAX: Final = 1024
_USUAL_BEGINS: Final = b"sha-256=:"
_USUAL_BYTES: Final = len(_USUAL_BEGINS) + 44 + len(":")


class Digest:
    """What a body must come to, in base64; either part is None where the field does not name it, but never both."""

    __slots__ = ("sha256", "sha512")

    def __init__(self, sha256: bytes | None, sha512: bytes | None) -> None:
        self.sha256 = sha256
        self.sha512 = sha512

    def is_of(self, body: bytes) -> bool:
        """Whether every digest that the field names is that of the whole `body`."""
        by_256 = None if self.sha256 is None else sha256(body).digest()
        return self.holds(by_256, None if self.sha512 is None else sha512(body).digest())

    def holds(self, got_sha256: bytes | None, got_sha512: bytes | None) -> bool:
        """Whether every digest that the field names is the body's, of which these octets were got."""
        named = self.sha256
        if named is not None and (got_sha256 is None or not _is_base64_of(named, got_sha256)):
            return False
        named = self.sha512
        return named is None or (got_sha512 is not None and _is_base64_of(named, got_sha512))


def _is_base64_of(named: bytes, got: bytes) -> bool:
    """In the one spelling that base64 has for it."""
    return compare_digest(named, b2a_base64(got, newline=False))


def parse_content_digest(value: bytes) -> Digest:
    """Raises Malformed for what is no digest field, or names neither sha-256 nor sha-512.

    One digest by sha-256, as most clients send it, is not read but told by its length: what stands there and is not base64
    is a digest that no body has."""
    if len(value) == _USUAL_BYTES and value.startswith(_USUAL_BEGINS) and value.endswith(b":"):
        return Digest(value[9:53], None)
    return parse_content_digest_at_length(value)


def parse_content_digest_at_length(value: bytes) -> Digest:
    """What `parse_content_digest` does, for a field of any form. Raises Malformed."""
    if len(value) > _FIELD_BYTES_MAX:
        raise Malformed("Content-Digest is too long")
    digests: dict[bytes, bytes] = {}
    for member in parse_dictionary(value):
        if member.item is None or member.item.bare.kind is not Kind.OCTETS:
            raise Malformed("Content-Digest has a member that is no byte sequence")
        bare = member.item.bare
        if (length := _LENGTHS.get(member.key)) is not None:
            if len(bare.octets) != length:
                raise Malformed("Content-Digest has a digest of the wrong length")
            digests[member.key] = bare.text[1:-1]
    if not digests:
        raise Malformed("Content-Digest names neither sha-256 nor sha-512")
    return Digest(digests.get(b"sha-256"), digests.get(b"sha-512"))


def content_digest(body: bytes, algorithm: str = "sha-256") -> str:
    """The value of the field for `body`. Raises ValueError for another algorithm than sha-256 and sha-512."""
    if algorithm not in ("sha-256", "sha-512"):
        raise ValueError("a Content-Digest is sha-256 or sha-512")
    digest = sha256(body).digest() if algorithm == "sha-256" else sha512(body).digest()
    return f"{algorithm}=:{b2a_base64(digest, newline=False).decode()}:"
