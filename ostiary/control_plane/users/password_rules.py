"""Which passwords are taken: long ones that nobody would try first. No rules about kinds of characters and no regular change,
which make passwords worse (NIST SP 800-63B-4 §3.1.1.2)."""

from __future__ import annotations

import re
from typing import Final

LENGTH_MIN: Final = 12
LENGTH_MAX: Final = 128

_DISTINCT_MIN: Final = 5  # fewer different characters are a pattern

# What lists of leaked passwords begin with, reduced to its letters: with digits and signs around they are no better.
_COMMON_TEXT: Final = """
    password passwort motdepasse contrasena senha parola qwerty qwertyuiop qwertz azerty asdfghjkl asdf zxcvbnm qazwsx
    qazwsxedc letmein welcome iloveyou admin administrator root toor login master superman batman dragon monkey football
    baseball princess sunshine trustno shadow michael jordan hunter starwars pokemon whatever freedom computer internet
    secret changeme default guest test testtest temp temporary pass passw passphrase abc abcd abcdef abcdefgh abcdefghij
    correcthorsebatterystaple ostiary ostiarypassword mypassword newpassword yourpassword thisisapassword
"""
_COMMON: Final = frozenset(_COMMON_TEXT.split())
_SEQUENCES: Final = (
    "01234567890123456789",
    "abcdefghijklmnopqrstuvwxyz",
    "qwertyuiopasdfghjklzxcvbnm",
    "1q2w3e4r5t6y7u8i9o0p",
)


def weakness(password: str, email: str) -> str | None:
    """Why this is not taken, to be told to its user; None if it is. Its length is the model's to check."""
    folded = password.casefold()
    local, _, domain = email.casefold().partition("@")
    if folded in (email.casefold(), local, domain) or (len(local) >= 4 and folded.replace(local, "", 1).isdigit()):
        return "must not be your e-mail address"
    letters = re.sub(r"[^a-z]", "", folded.translate(str.maketrans("013457@$", "oieastas")))
    bare = re.sub(r"[^a-z]", "", folded)
    if bare in _COMMON or letters in _COMMON or _doubled(bare) in _COMMON:
        return "is among the first that anyone would try; take another"
    if len(set(folded)) < _DISTINCT_MIN or _is_sequence(folded):
        return "is a pattern; take another"
    return None


def _doubled(letters: str) -> str:
    half = len(letters) // 2
    return letters[:half] if letters[:half] == letters[half:] else letters


def _is_sequence(text: str) -> bool:
    return any(text in line * 3 or text in line[::-1] * 3 for line in _SEQUENCES)
