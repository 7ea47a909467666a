"""The signing schemes `hmac` and `hmac-body`: what is signed, how it is checked, and how strictly it is read.

`hmac` signs five parts with `\\n` between them and none at the end: method, request target exactly as sent, timestamp,
nonce, lower hex SHA-256 of the body. `hmac-body` signs the body alone. The signature is lower hex HMAC-SHA256 under the
whole secret string."""

from __future__ import annotations

import re
import secrets
import time
from binascii import b2a_base64, hexlify
from dataclasses import dataclass
from hashlib import sha256
from hmac import compare_digest
from typing import Final, Protocol

from ostiary.core.decimals import parse_decimal
from ostiary.core.model import Scheme
from ostiary.core.signature_base import LAST_LINE_BEGINS

EMPTY_BODY_SHA256: Final = sha256(b"").hexdigest().encode()
"""The body part of a request that has no body, or an empty one."""

_BLOCK_BYTES: Final = 64  # of SHA-256
_INNER_PAD: Final = bytes(octet ^ 0x36 for octet in range(256))
_OUTER_PAD: Final = bytes(octet ^ 0x5C for octet in range(256))

SIGNED_ENDING_BYTES: Final = 8192
"""More than the last line of a signature base has, which is of Signature-Input and so bounded, and than the last three of
the text of `hmac`."""

# Twelve digits reach the year 33658: milliseconds (13 digits) are no timestamp. Python's int() alone would take
# signs, blanks and underscores.
_TIMESTAMP_DIGITS_MAX: Final = 12
# Names of other modules are look-ups for each call, once compiled; constants are none.
_hexlify: Final = hexlify
_same: Final = compare_digest
_ALPHANUMERICS: Final = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def character_table(characters: bytes) -> bytes:
    """`text.translate(table) == text` says whether `text` has these characters alone, at a third of a regular expression."""
    return bytes(octet if octet in characters else octet ^ 0x80 for octet in range(256))


NONCE_CHARACTERS: Final = _ALPHANUMERICS + b"_-"
_NONCE: Final = character_table(NONCE_CHARACTERS)
_ID: Final = character_table(_ALPHANUMERICS + b"_")
_HEX: Final = character_table(b"0123456789abcdef")
_METHOD: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_TARGET: Final = re.compile(r"[!-~]+")


class Digest(Protocol):
    """A hash under way, as hashlib makes them."""

    def update(self, data: bytes, /) -> None: ...

    def digest(self) -> bytes: ...


class Signer:
    """Signs and checks under one secret. Immutable, shows nothing of the secret.

    Keeps the two SHA-256 states in which every HMAC of this secret begins (RFC 2104 §4) and copies them: 0.9 µs a
    signature against 2.2 µs for `hmac.digest`, which hashes the padded key anew each time."""

    __slots__ = ("_inner", "_outer")

    def __init__(self, secret: bytes) -> None:
        key = sha256(secret).digest() if len(secret) > _BLOCK_BYTES else secret
        block = key.ljust(_BLOCK_BYTES, b"\0")
        self._inner = sha256(block.translate(_INNER_PAD))
        self._outer = sha256(block.translate(_OUTER_PAD))

    def __repr__(self) -> str:
        return "Signer()"

    def sign(self, message: bytes) -> bytes:
        """Lower hex HMAC-SHA256 of `message`, 64 octets."""
        inner = self._inner.copy()
        inner.update(message)
        outer = self._outer.copy()
        outer.update(inner.digest())
        return _hexlify(outer.digest())

    def sign_base64(self, message: bytes) -> bytes:
        """The same in base64, 44 octets."""
        inner = self._inner.copy()
        inner.update(message)
        outer = self._outer.copy()
        outer.update(inner.digest())
        return b2a_base64(outer.digest(), newline=False)

    def begin(self) -> Digest:
        """For a message that comes in pieces: `update` the result with each, and hand it to `verify_begun`."""
        return self._inner.copy()

    def verify(self, message: bytes, signature: bytes) -> bool:
        """Whether `signature` is exactly `sign(message)`, in time that does not depend on where they differ."""
        return _same(self.sign(message), signature)

    def verify_base64(self, message: bytes, signature: bytes) -> bool:
        """Whether `signature` is exactly `sign_base64(message)`, in time that does not depend on where they differ."""
        return _same(self.sign_base64(message), signature)

    def verify_begun(self, begun: Digest, signature: bytes) -> bool:
        """Whether `signature` is what `sign` gives for the message that `begun` has seen."""
        outer = self._outer.copy()
        outer.update(begun.digest())
        return _same(_hexlify(outer.digest()), signature)


def hmac_message(method: bytes, target: bytes, timestamp: bytes, nonce: bytes, body_sha256_hex: bytes) -> bytes:
    """What scheme `hmac` signs. The parts are the octets of the request, unchanged; none may hold a newline (the HTTP
    parser and the parsers below see to that), so that no two requests have one message."""
    return b"\n".join((method, target, timestamp, nonce, body_sha256_hex))


def parse_signed_credential(value: bytes) -> tuple[str, bytes] | None:
    """(key id, signature) of an `X-API-Key: <key id>:<signature>` value, None for anything else: exactly one colon, an id
    of `[A-Za-z0-9_]{4,64}`, 64 lower-case hex digits."""
    key_id, _, signature = value.partition(b":")
    if len(signature) != 64 or signature.translate(_HEX) != signature:
        return None
    if not key_id_is_well_formed(key_id):
        return None
    return key_id.decode("ascii"), signature


def key_id_is_well_formed(value: bytes) -> bool:
    """4 to 64 of `[A-Za-z0-9_]`."""
    return 4 <= len(value) <= 64 and value.translate(_ID) == value


def parse_timestamp(value: bytes) -> int | None:
    """Unix seconds from 1 to 12 ASCII digits, None for anything else (signs, fractions, milliseconds)."""
    return parse_decimal(value, digits_max=_TIMESTAMP_DIGITS_MAX)


def timestamp_is_current(timestamp: int, *, now: float, skew_seconds: int) -> bool:
    """Whether `timestamp` is at most `skew_seconds` away from `now` (Unix seconds) in whole seconds, as a client that
    reads its clock in whole seconds counts: exactly the skew is taken, a second more is not."""
    return -skew_seconds <= int(now) - timestamp <= skew_seconds


@dataclass(frozen=True, slots=True)
class Skew:
    """How far timestamps may be off, in seconds, and since when.

    Timestamps below `before_until` (Unix seconds) are judged by `before_seconds`, which was the skew when such a call could
    have been taken: its nonce was remembered for no longer than that skew asked for. Otherwise raising the skew would let in,
    once more, what was taken up to an hour ago: by this worker, by it before a restart, or by another gateway."""

    seconds: int
    before_seconds: int = 0
    before_until: int = 0

    def takes(self, timestamp: int, now: float) -> bool:
        """Whether a call of `timestamp` is current at `now`, both Unix seconds."""
        seconds = self.before_seconds if timestamp < self.before_until else self.seconds
        return timestamp_is_current(timestamp, now=now, skew_seconds=seconds)

    def changed_to(self, seconds: int, now: float) -> Skew:
        """The skew from `now` on."""
        if seconds == self.seconds:
            return self
        # Nobody can have been taken yet who is further ahead than the skew so far, and the rest of this second.
        before, until = self.seconds, int(now) + self.seconds + 1
        if self.before_until > now - self.seconds:  # an earlier change, of which a call may still be current
            before, until = self.before_seconds, max(until, self.before_until)
        return Skew(seconds, min(before, seconds), until)

    def heeding(self, seconds: int, until: int, now: float) -> Skew:
        """The skew from `now` on, if calls dated before `until` may have been taken elsewhere by a skew of `seconds`."""
        current_from = now - self.seconds
        if seconds >= self.seconds or until <= current_from:
            return self
        if self.before_until > current_from:
            seconds, until = min(seconds, self.before_seconds), max(until, self.before_until)
        if (seconds, until) == (self.before_seconds, self.before_until):
            return self
        return Skew(self.seconds, seconds, until)


def nonce_lifetime_seconds(skew_seconds: int) -> int:
    """How long a nonce must be remembered so that no replay passes `timestamp_is_current`.

    A request dated `skew` ahead is current for twice the skew and the rest of its last whole second; four seconds more
    are for clocks of gateways that differ."""
    return 2 * skew_seconds + 5


def nonce_is_well_formed(value: bytes) -> bool:
    """16 to 64 of `[A-Za-z0-9_-]`."""
    return 16 <= len(value) <= 64 and value.translate(_NONCE) == value


def ends_like_signed_text(ending: bytes) -> bool:
    """Whether a body that ends so (its last SIGNED_ENDING_BYTES, or all of it) may be the text that scheme `hmac` or
    `http-signature` signs. All schemes sign with the same secret: without this a call signed by one of those could be sent
    once more as the body of an `hmac-body` call, which nobody has made."""
    lines = ending.rsplit(b"\n", 3)
    last = lines[-1]
    if last.startswith(LAST_LINE_BEGINS):
        return True
    return (
        len(lines) == 4
        and len(last) == 64
        and last.translate(_HEX) == last
        and nonce_is_well_formed(lines[2])
        and parse_timestamp(lines[1]) is not None
    )


def text_of_hmac(method: str, target: str, body: bytes, headers: dict[str, str]) -> str:
    """The text that `sign_request` has signed by scheme `hmac`, for who compares it with a client's own."""
    parts = (method, target, headers["X-Timestamp"], headers["X-Nonce"], sha256(body).hexdigest())
    return "\n".join(parts)


def sign_request(
    *,
    key_id: str,
    secret: bytes,
    method: str,
    target: str,
    body: bytes = b"",
    scheme: Scheme = Scheme.HMAC,
    timestamp: int | None = None,
    nonce: str | None = None,
) -> dict[str, str]:
    """The headers that sign a request, in the order they are best shown.

    `target` is the request target exactly as it will be sent (path and `?query`). `timestamp` (Unix seconds) and `nonce`
    default to now and to a random one; scheme `hmac-body` has neither. Raises ValueError for what no gateway would take:
    a key id, method, target, timestamp or nonce of another form, a body that `hmac-body` must not sign, or a scheme that does
    not sign."""
    if not key_id_is_well_formed(key_id.encode()):
        raise ValueError("a key id is 4 to 64 of A-Z, a-z, 0-9 and _")
    if scheme is Scheme.HMAC_BODY:
        if ends_like_signed_text(body[-SIGNED_ENDING_BYTES:]):
            raise ValueError(
                "the body ends as the text of another scheme does: whoever has its signature could make a call of it"
            )
        return {"X-API-Key": f"{key_id}:{Signer(secret).sign(body).decode()}"}
    if scheme is not Scheme.HMAC:
        raise ValueError(f"scheme {scheme.value} signs nothing; use hmac or hmac-body")
    if _METHOD.fullmatch(method) is None:
        raise ValueError("the method must be an HTTP token, such as GET")
    if _TARGET.fullmatch(target) is None:
        raise ValueError(
            "the request target must be visible ASCII; percent-encode blanks and other characters as they will be sent"
        )
    sent_timestamp = str(int(time.time()) if timestamp is None else timestamp)
    if parse_timestamp(sent_timestamp.encode()) is None:
        raise ValueError("the timestamp must be Unix seconds, 1 to 12 digits")
    sent_nonce = secrets.token_urlsafe(16) if nonce is None else nonce
    if not nonce_is_well_formed(sent_nonce.encode()):
        raise ValueError("the nonce must be 16 to 64 of A-Z, a-z, 0-9, - and _")
    body_sha256 = sha256(body).hexdigest() if body else EMPTY_BODY_SHA256.decode()
    message = hmac_message(
        method.encode(), target.encode(), sent_timestamp.encode(), sent_nonce.encode(), body_sha256.encode()
    )
    return {
        "X-API-Key": f"{key_id}:{Signer(secret).sign(message).decode()}",
        "X-Timestamp": sent_timestamp,
        "X-Nonce": sent_nonce,
    }
