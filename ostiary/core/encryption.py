"""How signing secrets rest in the database: AES-256-GCM under a data key of their own, that key under a KEK.

    sealed            version 1 | nonce 12 | ciphertext, tag 16              under the data key
    wrapped data key  version 1 | KEK id 8 | nonce 12 | ciphertext, tag 16   under a KEK in this process
                      version 2 | KEK id 8 | text of the service             under a KEK that a service keeps

Both are bound to the key's id (associated data), so that a row's secret can't be moved to another row. A stolen database
without the KEK holds nothing usable. Changing the KEK re-wraps data keys and touches no sealed secret.

There may be several KEKs: one wraps, all unwrap what they have wrapped. `KeyWrapper` is what each of them does; the KEKs of
services are in `ostiary/key_encryption`."""

from __future__ import annotations

import hmac
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import NamedTuple, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_VERSION = b"\x01"
_SERVICE_VERSION = b"\x02"
_KEY_BYTES = 32
# NIST SP 800-38D §8.3: random 96-bit nonces are safe for 2^32 uses of one key. A data key is used once, a KEK once per
# key made.
_NONCE_BYTES = 12
_KEK_ID_BYTES = 8
_SECRET_PURPOSE = b"ostiary secret\0"
_DATA_KEY_PURPOSE = b"ostiary data key\0"
_MEND = "make one with: openssl rand -base64 32"


class EncryptionError(ValueError):
    """A sealed secret can't be opened. The text names the cause and the mend, and shows no part of any secret."""


class WrongKeyEncryptionKey(EncryptionError):
    """The data key was wrapped under another KEK than those configured here."""


class KeyServiceUnavailable(EncryptionError):
    """The service that holds the KEK can't be asked now. Nothing is wrong with what is wrapped: ask again later."""


class KeyWrapper(Protocol):
    """A KEK: in this process (`LocalKeyWrapper`), or in a service that never gives it out (`RemoteKeyWrapper`).

    `context` is bound to what is wrapped: `unwrap` with another context fails. Both raise EncryptionError."""

    def wrap(self, data_key: bytes, *, context: bytes) -> bytes: ...

    def unwrap(self, wrapped: bytes, *, context: bytes) -> bytes: ...


class Wrapped(NamedTuple):
    """A wrapped data key, and what it is bound to."""

    data_key: bytes
    context: bytes


class LocalKeyWrapper:
    """A KEK of 32 bytes in this process's memory. Raises ValueError for any other length."""

    __slots__ = ("_cipher", "id")

    def __init__(self, kek: bytes) -> None:
        if len(kek) != _KEY_BYTES:
            raise ValueError(f"a key-encryption key is 32 bytes, not {len(kek)}; {_MEND}")
        self._cipher = AESGCM(kek)
        # Names the KEK in what it wrapped, so that a wrong one is told from tampering; says nothing about its value.
        self.id = hmac.digest(kek, b"ostiary key-encryption key id", sha256)[:_KEK_ID_BYTES]

    def __repr__(self) -> str:
        return "LocalKeyWrapper()"

    @property
    def prefix(self) -> bytes:
        """What everything begins with that this KEK wraps."""
        return _VERSION + self.id

    def newest_prefix(self) -> bytes:
        return self.prefix

    def wrap(self, data_key: bytes, *, context: bytes) -> bytes:
        header = self.prefix
        nonce = os.urandom(_NONCE_BYTES)
        return header + nonce + self._cipher.encrypt(nonce, data_key, header + _DATA_KEY_PURPOSE + context)

    def unwrap(self, wrapped: bytes, *, context: bytes) -> bytes:
        header_bytes = len(_VERSION) + _KEK_ID_BYTES
        header, nonce = wrapped[:header_bytes], wrapped[header_bytes : header_bytes + _NONCE_BYTES]
        _check_version(wrapped, "wrapped data key")
        if len(nonce) < _NONCE_BYTES:
            raise EncryptionError("the wrapped data key is cut short; make a new key in place of this one")
        if header[len(_VERSION) :] != self.id:
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


class RemoteKeyWrapper(ABC):
    """A KEK that a service keeps. Its calls wait for the network, a bounded time: make them in a thread, which has them back
    within `deadline_seconds` as a rule. What it unwrapped may be used for `cache_seconds`.

    `name` is the operator's for it, and names it in all that it wraps: it must not change while a row has it."""

    def __init__(self, name: str, *, deadline_seconds: float, cache_seconds: float) -> None:
        self.name = name
        self.deadline_seconds = deadline_seconds
        self.cache_seconds = cache_seconds
        self.id = sha256(b"ostiary key-encryption key of a service\0" + name.encode()).digest()[:_KEK_ID_BYTES]

    @abstractmethod
    def wrap_all(self, data_keys: Sequence[Wrapped]) -> list[bytes]:
        """Each data key (in the clear, with its context) wrapped. Raises EncryptionError."""

    @abstractmethod
    def unwrap_all(self, wrapped: Sequence[Wrapped]) -> list[bytes | EncryptionError]:
        """Each data key, or why it can't be had. Raises KeyServiceUnavailable when none can be asked for."""

    @abstractmethod
    def renew_if_due(self) -> None:
        """To be called every so often, lest what proves us to the service ends between two calls. Raises
        KeyServiceUnavailable."""

    def wrap(self, data_key: bytes, *, context: bytes) -> bytes:
        return self.wrap_all([Wrapped(data_key, context)])[0]

    def unwrap(self, wrapped: bytes, *, context: bytes) -> bytes:
        data_key = self.unwrap_all([Wrapped(wrapped, context)])[0]
        if isinstance(data_key, EncryptionError):
            raise data_key
        return data_key

    @property
    def prefix(self) -> bytes:
        """What everything begins with that this KEK wraps."""
        return _SERVICE_VERSION + self.id

    def newest_prefix(self) -> bytes:
        """What everything begins with that is wrapped from now on: longer than `prefix` where the service has versions of
        its key. Raises KeyServiceUnavailable."""
        return self.prefix

    @staticmethod
    def bound_to(context: bytes) -> bytes:
        """The associated data for a service."""
        return _SERVICE_VERSION + _DATA_KEY_PURPOSE + context

    def text_of(self, wrapped: bytes) -> bytes:
        """What the service gave. Raises EncryptionError for what is no text of this one."""
        if not wrapped.startswith(self.prefix):
            raise WrongKeyEncryptionKey("the data key was wrapped under another key-encryption key")
        return wrapped[len(self.prefix) :]


NamedKeyWrapper = LocalKeyWrapper | RemoteKeyWrapper


class KeyWrappers:
    """The KEKs by the operator's names for them: `current` wraps, each unwraps what it has wrapped."""

    __slots__ = ("_by_id", "_by_name", "current")

    def __init__(self, wrappers: Mapping[str, NamedKeyWrapper], *, current: str) -> None:
        self._by_name = dict(wrappers)
        self._by_id = {wrapper.id: wrapper for wrapper in wrappers.values()}
        self.current = self._by_name[current]

    def __repr__(self) -> str:
        return f"KeyWrappers({sorted(self._by_name)})"

    def wrap(self, data_key: bytes, *, context: bytes) -> bytes:
        return self.current.wrap(data_key, context=context)

    def unwrap(self, wrapped: bytes, *, context: bytes) -> bytes:
        return self.of(wrapped).unwrap(wrapped, context=context)

    def of(self, wrapped: bytes) -> NamedKeyWrapper:
        """The one that has wrapped this. Raises WrongKeyEncryptionKey, and EncryptionError for an unknown version."""
        if wrapped[:1] not in (_VERSION, _SERVICE_VERSION):
            _check_version(wrapped, "wrapped data key")
        wrapper = self._by_id.get(kek_id(wrapped))
        if wrapper is None or not wrapped.startswith(wrapper.prefix):
            raise WrongKeyEncryptionKey(
                f"the data key was wrapped under a key-encryption key that is not configured here; there is "
                f"{', '.join(sorted(self._by_name))}. Configure the one this database was written with: "
                "stores.key_encryption_key, or stores.key_encryption_keys"
            )
        return wrapper

    def name_of(self, identity: bytes) -> str | None:
        """The operator's name of a KEK, by the id that stands in what it has wrapped."""
        return next((name for name, wrapper in self._by_name.items() if wrapper.id == identity), None)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._by_name)

    @property
    def services(self) -> tuple[RemoteKeyWrapper, ...]:
        return tuple(wrapper for wrapper in self._by_name.values() if isinstance(wrapper, RemoteKeyWrapper))


def kek_id(wrapped: bytes) -> bytes:
    """The id of the KEK that a data key was wrapped under, whatever KEK that is."""
    return wrapped[1 : 1 + _KEK_ID_BYTES]


class Envelope:
    """Seals and opens signing secrets. `kek` is the KEK itself (32 bytes) or whoever holds it.

    Safe to share between threads. Raises ValueError for a KEK of another length."""

    __slots__ = ("_wrapper",)

    def __init__(self, kek: bytes | KeyWrapper) -> None:
        self._wrapper: KeyWrapper = LocalKeyWrapper(kek) if isinstance(kek, bytes) else kek

    def __repr__(self) -> str:
        return "Envelope()"

    def seal(self, secret: bytes, *, key_id: str) -> tuple[bytes, bytes]:
        """(sealed secret, wrapped data key), both bound to `key_id`; no two calls give the same. Waits for the service
        that holds the current KEK, if one does (`asks_a_service`)."""
        context = key_id.encode()
        data_key = os.urandom(_KEY_BYTES)
        nonce = os.urandom(_NONCE_BYTES)
        ciphertext = AESGCM(data_key).encrypt(nonce, secret, _VERSION + _SECRET_PURPOSE + context)
        return _VERSION + nonce + ciphertext, self._wrapper.wrap(data_key, context=context)

    def open(self, sealed: bytes, wrapped_data_key: bytes, *, key_id: str) -> bytes:
        """The secret that was sealed for `key_id`. Raises WrongKeyEncryptionKey for another KEK, EncryptionError for
        anything altered, cut short, of an unknown version or sealed for another key id. Waits for the service that holds the
        KEK, if one does (`service_of`)."""
        return open_sealed(sealed, self._wrapper.unwrap(wrapped_data_key, context=key_id.encode()), key_id=key_id)

    @property
    def services(self) -> tuple[RemoteKeyWrapper, ...]:
        """Those that may have to be asked."""
        if isinstance(self._wrapper, KeyWrappers):
            return self._wrapper.services
        return (self._wrapper,) if isinstance(self._wrapper, RemoteKeyWrapper) else ()

    @property
    def asks_a_service(self) -> bool:
        """Whether `seal` waits for a service."""
        wrapper = self._wrapper.current if isinstance(self._wrapper, KeyWrappers) else self._wrapper
        return isinstance(wrapper, RemoteKeyWrapper)

    def service_of(self, wrapped_data_key: bytes) -> RemoteKeyWrapper | None:
        """The service without which this can't be opened; None if there is no need of one. Raises EncryptionError."""
        wrapper = self._wrapper.of(wrapped_data_key) if isinstance(self._wrapper, KeyWrappers) else self._wrapper
        return wrapper if isinstance(wrapper, RemoteKeyWrapper) else None


def open_sealed(sealed: bytes, data_key: bytes, *, key_id: str) -> bytes:
    """The secret that was sealed for `key_id` under `data_key`. Raises EncryptionError."""
    _check_version(sealed, "sealed secret")
    body = len(_VERSION) + _NONCE_BYTES
    try:
        return AESGCM(data_key).decrypt(
            sealed[len(_VERSION) : body], sealed[body:], _VERSION + _SECRET_PURPOSE + key_id.encode()
        )
    except (InvalidTag, ValueError) as error:  # ValueError: cut short within the nonce, or no AES key
        raise EncryptionError(
            "the sealed secret was altered, or belongs to another key id; revoke this key and make a new one"
        ) from error


def _check_version(octets: bytes, what: str) -> None:
    if octets[:1] != _VERSION:
        raise EncryptionError(
            f"the {what} has a version that this Ostiary does not know; run a newer one, or restore it"
        )
