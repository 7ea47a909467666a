"""How signing secrets rest in the database: AES-256-GCM under a data key of their own, that key under a KEK.

    sealed            version 1 | nonce 12 | ciphertext, tag 16          under the data key
    wrapped data key  version 1 | KEK id 8 | nonce 12 | ciphertext, tag 16   under the KEK

Both are bound to the key's id (associated data), so that a row's secret can't be moved to another row. A stolen database
without the KEK holds nothing usable. Changing the KEK re-wraps data keys and touches no sealed secret."""

from __future__ import annotations

import base64
import binascii
import hmac
import os
from hashlib import sha256
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_VERSION = b"\x01"
_KEY_BYTES = 32
# NIST SP 800-38D §8.3: random 96-bit nonces are safe for 2^32 uses of one key. A data key is used once, a KEK once per
# key made.
_NONCE_BYTES = 12
_KEK_ID_BYTES = 8
_SECRET_PURPOSE = b"ostiary secret\0"
_DATA_KEY_PURPOSE = b"ostiary data key\0"


class EncryptionError(ValueError):
    """A sealed secret can't be opened. The text names the cause and the mend, and shows no part of any secret."""


class WrongKeyEncryptionKey(EncryptionError):
    """The data key was wrapped under another KEK than the one configured here."""


class KeyWrapper(Protocol):
    """Who holds the KEK: this process (`LocalKeyWrapper`), or a key management service that never gives it out.

    `context` is bound to what is wrapped: `unwrap` with another context fails. Both raise EncryptionError."""

    def wrap(self, data_key: bytes, *, context: bytes) -> bytes: ...

    def unwrap(self, wrapped: bytes, *, context: bytes) -> bytes: ...


class LocalKeyWrapper:
    """A KEK of 32 bytes in this process's memory. Raises ValueError for any other length."""

    __slots__ = ("_cipher", "_id")

    def __init__(self, kek: bytes) -> None:
        if len(kek) != _KEY_BYTES:
            raise ValueError(f"a key-encryption key is 32 bytes, not {len(kek)}; {_MEND}")
        self._cipher = AESGCM(kek)
        # Names the KEK in what it wrapped, so that a wrong one is told from tampering; says nothing about its value.
        self._id = hmac.digest(kek, b"ostiary key-encryption key id", sha256)[:_KEK_ID_BYTES]

    def __repr__(self) -> str:
        return "LocalKeyWrapper()"

    def wrap(self, data_key: bytes, *, context: bytes) -> bytes:
        header = _VERSION + self._id
        nonce = os.urandom(_NONCE_BYTES)
        return header + nonce + self._cipher.encrypt(nonce, data_key, header + _DATA_KEY_PURPOSE + context)

    def unwrap(self, wrapped: bytes, *, context: bytes) -> bytes:
        header_bytes = len(_VERSION) + _KEK_ID_BYTES
        header, nonce = wrapped[:header_bytes], wrapped[header_bytes : header_bytes + _NONCE_BYTES]
        _check_version(wrapped, "wrapped data key")
        if len(nonce) < _NONCE_BYTES:
            raise EncryptionError("the wrapped data key is cut short; make a new key in place of this one")
        if header[len(_VERSION) :] != self._id:
            raise WrongKeyEncryptionKey(
                "the data key was wrapped under another key-encryption key; configure the one this database was written "
                "with in stores.key_encryption_key"
            )
        try:
            return self._cipher.decrypt(
                nonce, wrapped[header_bytes + _NONCE_BYTES :], header + _DATA_KEY_PURPOSE + context
            )
        except InvalidTag as error:
            raise EncryptionError(
                "the wrapped data key was altered, or belongs to another key id; revoke this key and make a new one"
            ) from error


class Envelope:
    """Seals and opens signing secrets. `kek` is the KEK itself (32 bytes) or whoever holds it.

    Safe to share between threads. Raises ValueError for a KEK of another length."""

    __slots__ = ("_wrapper",)

    def __init__(self, kek: bytes | KeyWrapper) -> None:
        self._wrapper: KeyWrapper = LocalKeyWrapper(kek) if isinstance(kek, bytes) else kek

    def __repr__(self) -> str:
        return "Envelope()"

    def seal(self, secret: bytes, *, key_id: str) -> tuple[bytes, bytes]:
        """(sealed secret, wrapped data key), both bound to `key_id`; no two calls give the same."""
        context = key_id.encode()
        data_key = os.urandom(_KEY_BYTES)
        nonce = os.urandom(_NONCE_BYTES)
        ciphertext = AESGCM(data_key).encrypt(nonce, secret, _VERSION + _SECRET_PURPOSE + context)
        return _VERSION + nonce + ciphertext, self._wrapper.wrap(data_key, context=context)

    def open(self, sealed: bytes, wrapped_data_key: bytes, *, key_id: str) -> bytes:
        """The secret that was sealed for `key_id`. Raises WrongKeyEncryptionKey for another KEK, EncryptionError for
        anything altered, cut short, of an unknown version or sealed for another key id."""
        context = key_id.encode()
        data_key = self._wrapper.unwrap(wrapped_data_key, context=context)
        _check_version(sealed, "sealed secret")
        body = len(_VERSION) + _NONCE_BYTES
        try:
            return AESGCM(data_key).decrypt(
                sealed[len(_VERSION) : body], sealed[body:], _VERSION + _SECRET_PURPOSE + context
            )
        except (InvalidTag, ValueError) as error:  # ValueError: cut short within the nonce, or no AES key
            raise EncryptionError(
                "the sealed secret was altered, or belongs to another key id; revoke this key and make a new one"
            ) from error


_MEND = "make one with: openssl rand -base64 32"


def parse_kek(text: str) -> bytes:
    """The 32 bytes of a key-encryption key written as base64 (either alphabet, padding optional) or as 64 hex digits;
    blanks around it are ignored. Raises ValueError with the mend, and without the text."""
    stripped = text.strip()
    if len(stripped) == 2 * _KEY_BYTES:
        try:
            return bytes.fromhex(stripped)
        except ValueError:
            pass
    try:
        standard = stripped.translate(str.maketrans("-_", "+/")).rstrip("=")
        kek = base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True)
    except (binascii.Error, ValueError):
        kek = b""
    if len(kek) != _KEY_BYTES:
        raise ValueError(
            f"a key-encryption key is 32 bytes, written as base64 (44 characters) or hex (64), "
            f"and this has {len(stripped)} characters; {_MEND}"
        )
    return kek


def _check_version(octets: bytes, what: str) -> None:
    if octets[:1] != _VERSION:
        raise EncryptionError(
            f"the {what} has a version that this Ostiary does not know; run a newer one, or restore it"
        )
