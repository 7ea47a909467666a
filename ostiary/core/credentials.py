"""The format of key ids and secrets, and the checksum that tells a mistyped secret from an unknown one.

    [prefix_]ak_<live|test>_<22 base62>                  key id, public
    [prefix_]sk_<live|test>_<43 base62><6 base62>        secret; the last six are CRC-32 of every character before them
    [prefix_]<pt|rt|it>_<43 base62><6 base62>            a token of the control plane (`TokenKind`), likewise

The checksum is no protection: it saves a look-up for a typing error, and lets secret scanners tell ours from chance."""

from __future__ import annotations

import re
import secrets
from enum import StrEnum
from hashlib import sha256
from zlib import crc32

from ostiary.core.model import Environment

_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

# 62^22 is 2^130.99: ids made at random never meet. 62^43 is 2^256.03, the least length that holds 256 bits of chance.
_KEY_ID_RANDOM_LENGTH = 22
_SECRET_RANDOM_LENGTH = 43
_CHECKSUM_LENGTH = 6  # 62^6 > 2^32

_PREFIX = re.compile(r"[a-z0-9]{1,12}")
_KEY_ID = re.compile(rb"(?:[a-z0-9]{1,12}_)?ak_(live|test)_[0-9A-Za-z]{22}")
_TOKEN = re.compile(rb"(?:[a-z0-9]{1,12}_)?(pt|rt|it)_[0-9A-Za-z]{49}")
_SECRET = re.compile(rb"(?:[a-z0-9]{1,12}_)?sk_(live|test)_[0-9A-Za-z]{49}")


class TokenKind(StrEnum):
    """What lets somebody into the control plane, other than its configured operator token and what others sign."""

    PLATFORM = "pt"
    REFRESH = "rt"
    INVITATION = "it"


def generate_key_id(environment: Environment, prefix: str = "") -> str:
    """A new key id: at most 43 characters of `[A-Za-z0-9_]`. Raises ValueError for a prefix that is not
    `[a-z0-9]{1,12}` (or empty, for none)."""
    return f"{_lead(prefix)}ak_{environment}_{_random_base62(_KEY_ID_RANDOM_LENGTH)}"


def generate_secret(environment: Environment, prefix: str = "") -> str:
    """A new secret with 256 bits from the system's random source and its checksum: at most 70 characters of
    `[A-Za-z0-9_]`. Raises ValueError as `generate_key_id` does."""
    body = f"{_lead(prefix)}sk_{environment}_{_random_base62(_SECRET_RANDOM_LENGTH)}"
    return body + _checksum(body.encode())


def generate_token(kind: TokenKind, prefix: str = "") -> str:
    """A new token with 256 bits from the system's random source and its checksum. Raises ValueError as `generate_key_id`
    does."""
    body = f"{_lead(prefix)}{kind}_{_random_base62(_SECRET_RANDOM_LENGTH)}"
    return body + _checksum(body.encode())


def token_kind(text: str | bytes) -> TokenKind | None:
    """Of which kind a token of our format is; None for any other text, and for one whose checksum is wrong."""
    octets = _ascii(text)
    match = _TOKEN.fullmatch(octets)
    if match is None or _checksum(octets[:-_CHECKSUM_LENGTH]).encode() != octets[-_CHECKSUM_LENGTH:]:
        return None
    return TokenKind(match[1].decode())


def is_key_id(text: str | bytes) -> bool:
    """Whether this looks like an id that we made (ids in the configuration file may look otherwise)."""
    return _KEY_ID.fullmatch(_ascii(text)) is not None


def is_secret_format(text: str | bytes) -> bool:
    """Whether this looks like a secret that we made; the checksum is not looked at."""
    return _SECRET.fullmatch(_ascii(text)) is not None


def checksum_holds(secret: str | bytes) -> bool:
    """Whether this looks like a secret that we made and its checksum is right: if not, no key of ours has it, and nobody
    need be asked."""
    octets = _ascii(secret)
    if _SECRET.fullmatch(octets) is None:
        return False
    return _checksum(octets[:-_CHECKSUM_LENGTH]).encode() == octets[-_CHECKSUM_LENGTH:]


def secret_sha256(secret: bytes) -> bytes:
    """What a bearer secret is stored and looked up by: 32 octets. A slow hash would buy nothing, since a secret has
    256 bits of chance (docs/decisions/0004-secrets.md)."""
    return sha256(secret).digest()


def _lead(prefix: str) -> str:
    if not prefix:
        return ""
    if _PREFIX.fullmatch(prefix) is None:
        raise ValueError(f"the key prefix {prefix!r} must be 1 to 12 of a-z and 0-9, such as 'bi'")
    return f"{prefix}_"


def _random_base62(length: int) -> str:
    return _base62(secrets.randbelow(62**length), length)


def _checksum(octets: bytes) -> str:
    return _base62(crc32(octets), _CHECKSUM_LENGTH)


def _base62(number: int, length: int) -> str:
    """Big-endian, left-padded with `0`."""
    digits = []
    for _ in range(length):
        number, digit = divmod(number, 62)
        digits.append(_BASE62[digit])
    return "".join(reversed(digits))


def _ascii(text: str | bytes) -> bytes:
    """Octets that match no pattern for text that is not ASCII."""
    if isinstance(text, bytes):
        return text
    return text.encode("ascii", "replace")
