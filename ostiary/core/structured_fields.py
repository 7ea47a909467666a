"""Structured field values (RFC 9651), read strictly: one dictionary in, its members with their canonical spelling out.

Stricter than the RFC in two places, because two readers could else see two things in one text: a key that comes twice is
refused (RFC 9651 §4.2.2 lets the last one count), and so is a byte sequence that is not exactly what base64 makes of its
octets (§4.2.7 lets padding be left out). Requests as most clients send them are read faster, by `http_signatures`; this reads
all the rest."""

from __future__ import annotations

import re
from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from enum import Enum
from typing import Final

_key: Final = re.compile(rb"[a-z*][a-z0-9_.*-]*").match
_number: Final = re.compile(rb"(-?)([0-9]+)(?:\.([0-9]+))?").match
_string: Final = re.compile(rb'"((?:[ !#-\[\]-~]|\\["\\])*)"').match
_token: Final = re.compile(rb"[A-Za-z*][!#$%&'*+.^_`|~0-9A-Za-z:/-]*").match
_octets: Final = re.compile(rb":([A-Za-z0-9+/]*={0,2}):").match
_boolean: Final = re.compile(rb"\?([01])").match
_date: Final = re.compile(rb"@(-?)([0-9]{1,15})(?![0-9.])").match
_display: Final = re.compile(rb'%"((?:[ !#$&-~]|%[0-9a-f]{2})*)"').match
_escape: Final = re.compile(rb'\\(["\\])').sub
_percent: Final = re.compile(rb"%([0-9a-f]{2})").sub
_blanks: Final = re.compile(rb" *").match
_comma: Final = re.compile(rb"[ \t]*(,?)[ \t]*").match

_INTEGER_DIGITS_MAX: Final = 15
_DECIMAL_DIGITS_MAX: Final = 12
_FRACTION_DIGITS_MAX: Final = 3


class Malformed(ValueError):
    """The text is no structured field of the kind asked for; says why, without the text."""


class Kind(Enum):
    INTEGER = "integer"
    DECIMAL = "decimal"
    STRING = "string"
    TOKEN = "token"  # noqa: S105  a kind of value
    OCTETS = "byte sequence"
    BOOLEAN = "boolean"
    DATE = "date"
    DISPLAY = "display string"


class Bare:
    """A value without parameters: its kind, its octets (of a string without quotes and escapes, of a byte sequence decoded)
    and its one canonical spelling."""

    __slots__ = ("kind", "octets", "text")

    def __init__(self, kind: Kind, octets: bytes, text: bytes) -> None:
        self.kind = kind
        self.octets = octets
        self.text = text


class Item:
    """A value with parameters."""

    __slots__ = ("bare", "parameters")

    def __init__(self, bare: Bare, parameters: dict[bytes, Bare]) -> None:
        self.bare = bare
        self.parameters = parameters

    @property
    def text(self) -> bytes:
        return self.bare.text + parameters_text(self.parameters)


class Member:
    """Of a dictionary: either an `item`, or a list of `items` with `parameters` of its own. `source` is it as written."""

    __slots__ = ("item", "items", "key", "parameters", "source")

    def __init__(self, key: bytes, item: Item | None, items: list[Item], parameters: dict[bytes, Bare]) -> None:
        self.key = key
        self.item = item
        self.items = items
        self.parameters = parameters
        self.source = b""

    @property
    def list_text(self) -> bytes:
        """The list alone, without its parameters."""
        return b"(%b)" % b" ".join([item.text for item in self.items])

    @property
    def parameters_text(self) -> bytes:
        """The parameters of the list, each with its `;`."""
        return parameters_text(self.parameters)

    @property
    def text(self) -> bytes:
        """The value with its parameters."""
        if self.item is not None:
            return self.item.text
        return self.list_text + self.parameters_text


def parameters_text(parameters: dict[bytes, Bare]) -> bytes:
    """RFC 9651 §4.1.1.2."""
    return b"".join(
        [
            b";" + key if value.kind is Kind.BOOLEAN and value.octets == b"1" else b";%b=%b" % (key, value.text)
            for key, value in parameters.items()
        ]
    )


def string_text(octets: bytes) -> bytes:
    """The spelling of a string (RFC 9651 §4.1.6). Raises Malformed for what is not printable ASCII."""
    if octets and not (octets.isascii() and octets.decode().isprintable()):
        raise Malformed("a string of other characters than printable ASCII")
    return b'"%b"' % octets.replace(b"\\", b"\\\\").replace(b'"', b'\\"')


def parse_dictionary(text: bytes) -> list[Member]:
    """RFC 9651 §4.2.2, of a field whose lines were joined with commas. Raises Malformed."""
    reader = _Reader(text)
    members = []
    keys: set[bytes] = set()
    reader.skip_blanks()
    while not reader.at_end:
        begun = reader.at
        member = reader.member()
        member.source = text[begun : reader.at]
        if member.key in keys:
            raise Malformed("a key comes twice")
        keys.add(member.key)
        members.append(member)
        if not reader.comma():
            break
    return members


class _Reader:
    """A place in a text, moved on by each thing read."""

    __slots__ = ("at", "text")

    def __init__(self, text: bytes) -> None:
        self.text = text
        self.at = 0

    @property
    def at_end(self) -> bool:
        return self.at >= len(self.text)

    def starts(self, character: bytes) -> bool:
        if not self.text.startswith(character, self.at):
            return False
        self.at += len(character)
        return True

    def skip_blanks(self) -> None:
        found = _blanks(self.text, self.at)
        assert found is not None  # noqa: S101  it takes nothing, too
        self.at = found.end()

    def comma(self) -> bool:
        """Whether another member follows. Raises Malformed for anything else than a comma or the end."""
        found = _comma(self.text, self.at)
        assert found is not None  # noqa: S101  it takes nothing, too
        self.at = found.end()
        if not found[1]:
            if not self.at_end:
                raise Malformed("something else than a comma after a member")
            return False
        if self.at_end:
            raise Malformed("a comma at the end")
        return True

    def key(self) -> bytes:
        found = _key(self.text, self.at)
        if found is None:
            raise Malformed("no key where one must be")
        self.at = found.end()
        return found[0]

    def member(self) -> Member:
        key = self.key()
        if not self.starts(b"="):
            return Member(key, Item(Bare(Kind.BOOLEAN, b"1", b"?1"), self.parameters()), [], {})
        if self.starts(b"("):
            items = self.items()
            return Member(key, None, items, self.parameters())
        return Member(key, self.item(), [], {})

    def items(self) -> list[Item]:
        items: list[Item] = []
        while True:
            self.skip_blanks()
            if self.starts(b")"):
                return items
            items.append(self.item())
            if not self.text.startswith((b" ", b")"), self.at):
                raise Malformed("an inner list that does not end, or has no blank between its items")

    def item(self) -> Item:
        bare = self.bare()
        return Item(bare, self.parameters())

    def parameters(self) -> dict[bytes, Bare]:
        parameters: dict[bytes, Bare] = {}
        while self.starts(b";"):
            self.skip_blanks()
            key = self.key()
            if key in parameters:
                raise Malformed("a parameter comes twice")
            parameters[key] = self.bare() if self.starts(b"=") else Bare(Kind.BOOLEAN, b"1", b"?1")
        return parameters

    def bare(self) -> Bare:
        """RFC 9651 §4.2.3.1. No two kinds begin alike."""
        text, at = self.text, self.at
        if (found := _string(text, at)) is not None:
            self.at = found.end()
            octets = _escape(rb"\1", found[1])
            return Bare(Kind.STRING, octets, found[0])
        if (found := _number(text, at)) is not None:
            self.at = found.end()
            return _numeric(found[1], found[2], found[3])
        if (found := _octets(text, at)) is not None:
            self.at = found.end()
            try:
                octets = a2b_base64(found[1])
            except Base64Error as error:
                raise Malformed("a byte sequence that is not base64") from error
            if b2a_base64(octets, newline=False) != found[1]:
                raise Malformed("a byte sequence with another spelling than that of base64")
            return Bare(Kind.OCTETS, octets, found[0])
        if (found := _token(text, at)) is not None:
            self.at = found.end()
            return Bare(Kind.TOKEN, found[0], found[0])
        if (found := _boolean(text, at)) is not None:
            self.at = found.end()
            return Bare(Kind.BOOLEAN, found[1], found[0])
        if (found := _date(text, at)) is not None:
            self.at = found.end()
            number = _numeric(found[1], found[2], None)
            return Bare(Kind.DATE, number.octets, b"@" + number.text)
        if (found := _display(text, at)) is not None:
            self.at = found.end()
            return _display_string(found[1])
        raise Malformed("no value where one must be")


def _numeric(sign: bytes, whole: bytes, fraction: bytes | None) -> Bare:
    """RFC 9651 §4.2.4, and its canonical form (§4.1.4, §4.1.5)."""
    if fraction is None:
        if len(whole) > _INTEGER_DIGITS_MAX:
            raise Malformed("an integer of more than 15 digits")
        text = b"%d" % int(sign + whole)
        return Bare(Kind.INTEGER, text, text)
    if len(whole) > _DECIMAL_DIGITS_MAX or len(fraction) > _FRACTION_DIGITS_MAX:
        raise Malformed("a decimal of more than 12 digits, or more than 3 after the point")
    text = b"%d.%b" % (int(whole), fraction.rstrip(b"0") or b"0")
    if sign and text != b"0.0":
        text = b"-" + text
    return Bare(Kind.DECIMAL, text, text)


def _display_string(written: bytes) -> Bare:
    """RFC 9651 §4.2.10 and §4.1.11."""
    octets = _percent(lambda found: bytes([int(found[1], 16)]), written)
    try:
        octets.decode()
    except UnicodeDecodeError as error:
        raise Malformed("a display string that is not UTF-8") from error
    spelled = b"".join(
        [b"%c" % octet if 0x20 <= octet < 0x7F and octet not in b'%"' else b"%%%02x" % octet for octet in octets]
    )
    return Bare(Kind.DISPLAY, octets, b'%%"%b"' % spelled)
