"""The key format of the contract."""

from __future__ import annotations

import re
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ostiary.core.credentials import (
    checksum_holds,
    generate_key_id,
    generate_secret,
    is_key_id,
    is_secret_format,
    secret_sha256,
)
from ostiary.core.model import Environment

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
environments = st.sampled_from(Environment)
prefixes = st.from_regex(r"[a-z0-9]{0,12}", fullmatch=True)


def number_of(base62: str) -> int:
    number = 0
    for digit in base62:
        number = number * 62 + ALPHABET.index(digit)
    return number


@given(environments, prefixes)
def test_made_credentials_have_the_format_of_the_contract(environment: Environment, prefix: str) -> None:
    """Secret scanners and clients outside rely on it."""
    lead = f"{prefix}_" if prefix else ""
    assert re.fullmatch(rf"{lead}ak_{environment.value}_[0-9A-Za-z]{{22}}", generate_key_id(environment, prefix))
    secret = generate_secret(environment, prefix)
    assert re.fullmatch(rf"{lead}sk_{environment.value}_[0-9A-Za-z]{{49}}", secret)
    assert number_of(secret[-6:]) == zlib.crc32(secret[:-6].encode())
    assert len(secret) <= 256
    assert len(generate_key_id(environment, prefix)) <= 64


@given(environments, prefixes)
def test_made_credentials_are_recognised_and_name_their_environment(environment: Environment, prefix: str) -> None:
    """Else good keys would be refused before anyone looked them up."""
    key_id, secret = generate_key_id(environment, prefix), generate_secret(environment, prefix)
    assert is_key_id(key_id)
    assert is_key_id(key_id.encode())
    assert not is_secret_format(key_id)
    assert is_secret_format(secret)
    assert checksum_holds(secret)
    assert checksum_holds(secret.encode())
    assert not is_key_id(secret)
    assert f"ak_{environment}_" in key_id
    assert f"sk_{environment}_" in secret


def test_checksum_is_as_the_contract_computes_it() -> None:
    """A vector worked out by hand: a change of alphabet, padding or byte order would orphan every key in use."""
    body = "sk_live_" + "0" * 43
    checksum = zlib.crc32(body.encode())
    digits = ""
    for power in (62**5, 62**4, 62**3, 62**2, 62, 1):
        digits += ALPHABET[checksum // power % 62]
    assert checksum_holds(body + digits)
    # Recorded once; no other checksum is right for this body.
    assert body + digits == "sk_live_" + "0" * 43 + "1Vxh1Z"


@given(environments, st.data())
def test_one_wrong_character_is_noticed(environment: Environment, data: st.DataObject) -> None:
    """Row 54: a mistyped bearer key has a wrong checksum, which is all it takes to refuse it. CRC-32 notices every change of
    one character."""
    secret = generate_secret(environment)
    place = data.draw(st.integers(0, len(secret) - 1))
    # By its number: the secret is another in every run, and what is drawn must not depend on that.
    others = [character for character in ALPHABET if character != secret[place]]
    wrong = others[data.draw(st.integers(0, len(ALPHABET) - 2))]
    assert not checksum_holds(secret[:place] + wrong + secret[place + 1 :])


@given(st.one_of(st.text(), st.binary()))
def test_other_text_is_not_ours(text: str | bytes) -> None:
    """Row 50: whatever a client sends as a credential is judged without an error."""
    assert not checksum_holds(text)
    assert not is_secret_format(text)
    assert not is_key_id(text)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text + "\n",
        lambda text: " " + text,
        lambda text: text[:-1],
        lambda text: text + "0",
        lambda text: text.replace("_test_", "_prod_"),
        lambda text: text.replace("_test_", "_TEST_"),
        lambda text: "_" + text,
        lambda text: "BI_" + text,
        lambda text: "abcdefghijklm_" + text,  # a prefix of 13
        lambda text: text.replace("_", "-"),
        lambda text: text[:-1] + "é",
        lambda text: text[:-1] + "٣",  # an Arabic digit
    ],
)
def test_nearly_right_is_not_ours(damage: object) -> None:
    """Row 54: a malformed key id or secret is refused without a look-up."""
    assert callable(damage)
    assert not is_key_id(damage(generate_key_id(Environment.TEST)))
    assert not checksum_holds(damage(generate_secret(Environment.TEST)))
    assert not is_secret_format(damage(generate_secret(Environment.TEST)))


@pytest.mark.parametrize("prefix", ["BI", "b_i", "bi-", "é", " ", "abcdefghijklm", "bi\n"])
def test_bad_prefix_is_refused(prefix: str) -> None:
    """Else keys would be made that no gateway recognises."""
    for generate in (generate_key_id, generate_secret):
        with pytest.raises(ValueError, match="must be 1 to 12 of a-z and 0-9"):
            generate(Environment.LIVE, prefix)


def test_random_part_covers_the_whole_space() -> None:
    """256 bits of chance: each of 43 places takes each of 62 digits. Else secrets could be guessed."""
    secrets = [generate_secret(Environment.LIVE)[8:51] for _ in range(2_000)]
    assert len(set(secrets)) == 2_000
    assert 62**43 >= 2**256
    for place in range(43):
        # A digit missing from 2 000 draws has a chance of (61/62)^2000 < 1e-14.
        assert len({secret[place] for secret in secrets}) == 62


def test_secret_is_looked_up_by_its_sha256() -> None:
    """The control plane stores it, the gateway computes it: FIPS 180-4's vector for `abc`."""
    assert secret_sha256(b"abc").hex() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
