"""The strict reader of RFC 9651 against http-sf, which others wrote: it takes nothing that http-sf refuses, and spells what
it takes as http-sf does. What it refuses besides is named here."""

from __future__ import annotations

import re
from typing import Any

import http_sf
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ostiary.core.structured_fields import Malformed, parse_dictionary

# What dictionaries are made of: whole tokens of the grammar, and single characters that break them.
_PIECES = r"""
a sig1 b-c.d_* * = = = , , ; ; ( ) ( ) 1 -0 -7 007 1.50 -0.0 1. 123456789012345 1234567890123456 1.2345 ?0 ?1 ?2
@12 @-1 @1.5 "x" "a\"b\\" " "" ' token a/b:c *t :YQ==: :YQ: :YR==: :: %"a%c3%bc" %"%C3" %"%ff" %"%41%22%25" A \ é @ % ? :
"""
PIECES = st.sampled_from(["  ", "\t", " ,\t", "; ", ", ", *_PIECES.split()])


def spelled(text: bytes) -> list[bytes] | None:
    """The members, canonical; None for what is refused."""
    try:
        members = parse_dictionary(text)
    except Malformed:
        return None
    return [member.key + (b"=" + member.text).removeprefix(b"=?1") for member in members]


class Twice(Exception):
    pass


def _twice(key: str, context: str) -> None:
    raise Twice


def judged(text: bytes) -> list[bytes] | None:
    """The same by http-sf; None for what is refused, and for a key that comes twice."""
    try:
        parsed: Any = http_sf.parse(text, tltype="dictionary", on_duplicate_key=_twice)
    except (ValueError, Twice):
        return None
    return [http_sf.ser({key: value}).encode() for key, value in parsed.items()]


def stricter(text: bytes) -> bool:
    """Byte sequences that are not what base64 makes: no padding, or bits that mean nothing. (A text may hold such without its
    being one; then it says nothing.)"""
    return re.search(rb":[A-Za-z0-9+/=]*:", text) is not None


@settings(max_examples=500, deadline=None)
@example("token\t")
@example("a=1 \t , b\t ")
@given(st.lists(PIECES, max_size=12).map("".join))
def test_what_http_sf_reads_is_read_alike_and_nothing_else(text: str) -> None:
    """For every text: either both refuse it, or both spell it alike."""
    octets = text.encode()
    ours, theirs = spelled(octets), judged(octets)
    if ours is None and theirs is not None and stricter(octets):
        return
    assert ours == theirs


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40))
def test_any_octets_are_read_or_refused(octets: bytes) -> None:
    """No other exception, whatever comes."""
    spelled(octets)


@pytest.mark.parametrize(
    ("text", "members"),
    [
        (b"", []),
        (b"  a=1 ", [b"a=1"]),
        (b'a=( "b"   "c";n="q" );x=0012; k="k"', [b'a=("b" "c";n="q");x=12;k="k"']),
        (b"a;x, b=?0;y=?1", [b"a;x", b"b=?0;y"]),
        (b"a=1.500, b=-0, c=@5", [b"a=1.5", b"b=0", b"c=@5"]),
        (b'a=%"f%c3%bc%22"', [b'a=%"f%c3%bc%22"']),
    ],
)
def test_the_canonical_spelling_is_that_of_the_rfc(text: bytes, members: list[bytes]) -> None:
    """RFC 9651 §4.1: it is what a signature is made over."""
    assert spelled(text) == members


@pytest.mark.parametrize(
    "text",
    b'a=1,|a=1, |,a|a=1 b=2|A=1|a=(1|a=(1)(2)|a=1, a=2|a=1;x;x=2|a=:YR==:|a=:YQ:|a="\x7f"'.split(b"|"),
)
def test_what_two_could_read_differently_is_refused(text: bytes) -> None:
    """Row 67: a second reading is how a signature is made to cover something else."""
    assert spelled(text) is None
