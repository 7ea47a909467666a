"""Signing secrets at rest: only the right KEK and the right key id open them."""

from __future__ import annotations

import os
import string

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from ostiary.core.encryption import EncryptionError, Envelope, WrongKeyEncryptionKey

KEK = bytes(range(32))
SECRET = b"sk_live_canary_canary_canary_canary"


@given(st.binary(max_size=300), st.text(string.ascii_letters + string.digits + "_", min_size=4, max_size=64))
def test_sealed_secret_opens_to_itself(secret: bytes, key_id: str) -> None:
    """Else signing keys would be lost."""
    sealed, wrapped = Envelope(KEK).seal(secret, key_id=key_id)
    assert Envelope(KEK).open(sealed, wrapped, key_id=key_id) == secret


def test_layout_is_the_one_that_is_written_down() -> None:
    """A database sealed by one version is read by the next: opened here with AES-GCM alone."""
    sealed, wrapped = Envelope(KEK).seal(SECRET, key_id="ak_live_1")
    assert (sealed[:1], wrapped[:1]) == (b"\x01", b"\x01")
    data_key = AESGCM(KEK).decrypt(wrapped[9:21], wrapped[21:], wrapped[:9] + b"ostiary data key\0ak_live_1")
    assert AESGCM(data_key).decrypt(sealed[1:13], sealed[13:], b"\x01ostiary secret\0ak_live_1") == SECRET


def test_what_was_sealed_long_ago_still_opens() -> None:
    """Recorded once: a change of layout without a new version number would orphan every signing key in use."""
    sealed = bytes.fromhex(
        "01e40cba0b430c92d92c66712efc862b3bb529dfc8a12771ba6aa8349369f7359c08014b19344e591dae5d753178f171"
        "18d65a700d641a1fa65b9ee4890431c1"
    )
    wrapped = bytes.fromhex(
        "018be83333bb5cddd8dea6f6d4e35e5e3230e919423a1b67fcac1ec51f9b3c18beb7fed1715605a7d1df8b3cd9eafe7f"
        "cd536bdcbaae4fec5654a2c315da7e0a9101a21f49"
    )
    assert Envelope(KEK).open(sealed, wrapped, key_id="ak_live_1") == SECRET


def test_nothing_repeats() -> None:
    """Equal secrets must not show as equal, and a nonce used twice under AES-GCM gives the plaintext away."""
    pairs = [Envelope(KEK).seal(SECRET, key_id="ak_live_1") for _ in range(500)]
    for parts in zip(*pairs, strict=True):
        assert len(set(parts)) == 500
    assert len({sealed[1:13] for sealed, _ in pairs}) == 500
    assert len({wrapped[9:21] for _, wrapped in pairs}) == 500


def test_stolen_row_shows_nothing_of_the_secret() -> None:
    """Invariant 5, in part."""
    for part in Envelope(KEK).seal(SECRET, key_id="ak_live_1"):
        assert SECRET[8:] not in part
        assert KEK not in part


def test_secret_moved_to_another_key_does_not_open() -> None:
    """Else whoever can write to the database could give one key the secret of another."""
    sealed, wrapped = Envelope(KEK).seal(SECRET, key_id="ak_live_1")
    with pytest.raises(EncryptionError, match="another key id"):
        Envelope(KEK).open(sealed, wrapped, key_id="ak_live_2")
    other_sealed, other_wrapped = Envelope(KEK).seal(SECRET, key_id="ak_live_1")
    with pytest.raises(EncryptionError):
        Envelope(KEK).open(sealed, other_wrapped, key_id="ak_live_1")
    with pytest.raises(EncryptionError):
        Envelope(KEK).open(other_sealed, wrapped, key_id="ak_live_1")


def test_wrong_key_encryption_key_is_told_from_tampering() -> None:
    """An operator must know whether to look for the right KEK or for an intruder."""
    sealed, wrapped = Envelope(KEK).seal(SECRET, key_id="ak_live_1")
    with pytest.raises(WrongKeyEncryptionKey, match=r"stores\.key_encryption_key"):
        Envelope(os.urandom(32)).open(sealed, wrapped, key_id="ak_live_1")


def test_every_altered_bit_is_noticed_and_no_error_shows_a_secret() -> None:
    """AES-GCM authenticates all of it, versions and nonces included; so must the code around it."""
    envelope = Envelope(KEK)
    sealed, wrapped = envelope.seal(SECRET, key_id="ak_live_1")
    for place in range(8 * len(sealed)):
        with pytest.raises(EncryptionError) as raised:
            envelope.open(flip(sealed, place), wrapped, key_id="ak_live_1")
        assert SECRET.decode() not in str(raised.value)
    for place in range(8 * len(wrapped)):
        with pytest.raises(EncryptionError) as raised:
            envelope.open(sealed, flip(wrapped, place), key_id="ak_live_1")
        assert SECRET.decode() not in str(raised.value)


def test_every_shortened_form_is_refused() -> None:
    """A column cut short must be an error that is understood, not one of the cipher's."""
    envelope = Envelope(KEK)
    sealed, wrapped = envelope.seal(SECRET, key_id="ak_live_1")
    for length in range(len(sealed)):
        with pytest.raises(EncryptionError):
            envelope.open(sealed[:length], wrapped, key_id="ak_live_1")
    for length in range(len(wrapped)):
        with pytest.raises(EncryptionError):
            envelope.open(sealed, wrapped[:length], key_id="ak_live_1")


def flip(octets: bytes, bit: int) -> bytes:
    altered = bytearray(octets)
    altered[bit // 8] ^= 1 << bit % 8
    return bytes(altered)


def test_another_holder_of_the_kek_can_take_its_place() -> None:
    """A key management service comes in by `KeyWrapper`; what is bound to the key id stays bound."""

    class Service:
        """Keeps data keys itself and gives out tickets, as an HSM may."""

        def __init__(self) -> None:
            self.kept: dict[tuple[bytes, bytes], bytes] = {}

        def wrap(self, data_key: bytes, *, context: bytes) -> bytes:
            ticket = os.urandom(8)
            self.kept[ticket, context] = data_key
            return ticket

        def unwrap(self, wrapped: bytes, *, context: bytes) -> bytes:
            try:
                return self.kept[wrapped, context]
            except KeyError:
                raise EncryptionError("no such ticket") from None

    envelope = Envelope(Service())
    sealed, wrapped = envelope.seal(SECRET, key_id="ak_live_1")
    assert envelope.open(sealed, wrapped, key_id="ak_live_1") == SECRET
    with pytest.raises(EncryptionError):
        envelope.open(sealed, wrapped, key_id="ak_live_2")


def test_nothing_shows_the_key_encryption_key() -> None:
    """Else a debug line would publish the key to every secret."""
    envelope = Envelope(KEK)
    assert repr(envelope) == "Envelope()"
    assert repr(envelope._wrapper) == "LocalKeyWrapper()"


@pytest.mark.parametrize("length", [0, 16, 31, 33, 64])
def test_envelope_takes_no_other_length(length: int) -> None:
    """AES-128 by accident would still be encryption, and nobody would notice."""
    with pytest.raises(ValueError, match="32 bytes"):
        Envelope(bytes(length))
