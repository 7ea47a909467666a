"""Tokens as text: one way to write each, and nothing that is read in two ways."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ostiary.core.tokens import TokenRefused, parse_token

HEADER = b'{"alg":"ES256"}'


def encoded(content: bytes) -> bytes:
    return base64.urlsafe_b64encode(content).rstrip(b"=")


def token(claims: bytes, signature: bytes = b"s" * 64) -> bytes:
    return b".".join(map(encoded, (HEADER, claims, signature)))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), JSON, max_size=4), st.binary(min_size=1, max_size=80))
def test_what_is_written_is_what_is_read(claims: dict[str, object], signature: bytes) -> None:
    """Invariant: a token of strict JSON in base64url is read, to the same claims."""
    assert dict(parse_token(token(json.dumps(claims).encode(), signature)).claims) == claims


@given(st.data())
def test_no_other_text_is_the_same_token(data: st.DataObject) -> None:
    """Invariant: of two texts that are read, no two have the same bytes in their parts. A second spelling of one token would
    pass where its first was refused or remembered."""
    original = token(b'{"sub":"a"}')
    at = data.draw(st.integers(0, len(original) - 1))
    other = original[:at] + bytes([data.draw(st.integers(0, 255))]) + original[at + 1 :]
    if other == original:
        return
    try:
        parse_token(other)
    except TokenRefused:
        return
    assert [base64.urlsafe_b64decode(part + b"==") for part in other.split(b".")] != [
        base64.urlsafe_b64decode(part + b"==") for part in original.split(b".")
    ]


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(noise: bytes) -> None:
    """Invariant 7: no input ends in another exception."""
    for sent in (noise, b".".join((encoded(HEADER), noise, b"AA")), token(noise)):
        try:
            parse_token(sent)
        except TokenRefused:
            pass


@pytest.mark.parametrize("signature", [b"AB", b"A", b"AA==", b"", b"A A", b"++", b"AAB"])
def test_a_signature_has_one_spelling(signature: bytes) -> None:
    """`AB` and `AA` are the same byte to a lenient reader."""
    good = b".".join((encoded(HEADER), encoded(b"{}"), b"AA"))
    parse_token(good)
    with pytest.raises(TokenRefused):
        parse_token(good[:-2] + signature)
