"""The kinds of single values: text, numbers, durations, sizes, choices, networks, secrets."""

from __future__ import annotations

import re
from collections.abc import Mapping as AbstractMapping
from enum import StrEnum
from ipaddress import ip_network
from typing import Final, TypeVar

from ostiary.core.config.document import Resolved, Scalar, resolve
from ostiary.core.config.fields import Kind, Schema
from ostiary.core.config.problems import close_name, shown
from ostiary.core.config.reading import Place, Reading, Refused, Text
from ostiary.core.model import Network

E = TypeVar("E", bound=StrEnum)

_REFERENCE_SCHEMA: Schema = {"type": "string", "pattern": r"\$\{"}  # what a text is that the environment completes


def or_reference(schema: Schema) -> Schema:
    """`schema`, or a text with a `${NAME}` in it."""
    return {"anyOf": [schema, _REFERENCE_SCHEMA]}


def read_text(place: Place, reading: Reading, words: str) -> Text | Refused:
    """The text at `place`; what would be a number or a boolean in YAML is refused, so that no value changes its meaning
    with the reader (an editor, the schema, this loader)."""
    if isinstance(place.node, Scalar) and (resolved := resolve(place.node)) is not Resolved.TEXT:
        mend = "quote it" if resolved is not Resolved.NULL else None
        return reading.problem(place, f"must be {words}, not {resolved.value}", mend)
    return reading.text(place)


class TextKind(Kind[str]):
    """Text of one form. `words` completes "must be ..."."""

    def __init__(self, pattern: str, words: str, *, lower: bool = False) -> None:
        self._source = pattern
        self._pattern = re.compile(pattern)
        self._words = words
        self._lower = lower

    def read(self, place: Place, reading: Reading) -> str | Refused:
        text = read_text(place, reading, self._words)
        if isinstance(text, Refused):
            return text
        value = text.value.lower() if self._lower else text.value
        if self._pattern.fullmatch(value) is None:
            return reading.problem(place, f"must be {self._words}, not {place.shown}")
        return value

    def schema(self) -> Schema:
        # (?i) is no part of ECMAScript's patterns, so a form that is lowered is left to the loader.
        form: Schema = {"type": "string"}
        return form if self._lower else {**form, "pattern": rf"^(?:{self._source})$|\$\{{"}

    @property
    def words(self) -> str:
        return self._words


class NameUse(Kind[str]):
    """The name of something that is defined elsewhere in the file."""

    def __init__(self, space: str) -> None:
        self._space = space

    def read(self, place: Place, reading: Reading) -> str | Refused:
        text = read_text(place, reading, self.words)
        if isinstance(text, Refused):
            return text
        reading.use(self._space, text.value, place)
        return text.value

    def schema(self) -> Schema:
        return {"type": "string"}

    @property
    def words(self) -> str:
        return f"the name of one of the {self._space}s"


class Choice(Kind[E]):
    """One of a few words. `later` are those of the file's format that this version does not build."""

    def __init__(self, values: type[E], *, later: AbstractMapping[str, str] | None = None) -> None:
        self._values = values
        self._later = dict(later or {})
        self._known = [value.value for value in values]
        self._words = " or ".join(f"`{value}`" for value in self._known)

    def read(self, place: Place, reading: Reading) -> E | Refused:
        text = read_text(place, reading, self.words)
        if isinstance(text, Refused):
            return text
        if (mend := self._later.get(text.value)) is not None:
            return reading.problem(place, f"{shown(text.value)} is not supported yet by this version of Ostiary", mend)
        try:
            return self._values(text.value)
        except ValueError:
            return reading.problem(
                place, f"must be {self.words}, not {place.shown}", close_name(text.value, self._known)
            )

    def schema(self) -> Schema:
        return or_reference({"enum": self._known})

    @property
    def words(self) -> str:
        return self._words


class Flag(Kind[bool]):
    """`true` or `false`."""

    def read(self, place: Place, reading: Reading) -> bool | Refused:
        text = reading.text(place)
        if isinstance(text, Refused):
            return text
        quoted = isinstance(place.node, Scalar) and not place.node.plain and not text.expanded
        if quoted or text.value.lower() not in ("true", "false"):
            return reading.problem(place, f"must be {self.words}, not {place.shown}")
        return text.value.lower() == "true"

    def schema(self) -> Schema:
        return or_reference({"type": "boolean"})

    @property
    def words(self) -> str:
        return "`true` or `false`"


class Integer(Kind[int]):
    """A whole number from `low` to `high`, in decimal digits."""

    _DIGITS: Final = re.compile(r"0|[1-9][0-9]{0,18}")  # 010 is eight to YAML 1.1 and ten to 1.2: refused

    def __init__(self, low: int, high: int) -> None:
        self._low = low
        self._high = high

    def read(self, place: Place, reading: Reading) -> int | Refused:
        text = reading.text(place)
        if isinstance(text, Refused):
            return text
        if isinstance(place.node, Scalar) and not place.node.plain and not text.expanded:
            return reading.problem(place, f"must be {self.words}, not text", "remove the quotes")
        if self._DIGITS.fullmatch(text.value) is None or not self._low <= int(text.value) <= self._high:
            return reading.problem(place, f"must be {self.words}, not {place.shown}")
        return int(text.value)

    def schema(self) -> Schema:
        return or_reference({"type": "integer", "minimum": self._low, "maximum": self._high})

    @property
    def words(self) -> str:
        return f"a whole number from {self._low} to {self._high}"


class Duration(Kind[float]):
    """A time with its unit; the value is in seconds."""

    _SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
    _FORM: Final = r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(ms|s|m|h|d)"

    def __init__(self, low: str, high: str) -> None:
        self._low, self._high = low, high
        self._low_seconds, self._high_seconds = self._seconds(low), self._seconds(high)

    @classmethod
    def _seconds(cls, text: str) -> float:
        match = re.fullmatch(cls._FORM, text)
        if match is None:
            raise ValueError(text)
        return float(match[1]) * cls._SECONDS[match[2]]

    def read(self, place: Place, reading: Reading) -> float | Refused:
        text = reading.text(place)
        if isinstance(text, Refused):
            return text
        try:
            seconds = self._seconds(text.value)
        except ValueError:
            mend = "give it a unit: ms, s, m, h or d" if re.fullmatch(r"[0-9.]+", text.value) else None
            return reading.problem(place, f"must be {self.words}, not {place.shown}", mend)
        if not self._low_seconds <= seconds <= self._high_seconds:
            return reading.problem(place, f"must be {self.words}, not {place.shown}")
        return seconds

    def schema(self) -> Schema:
        return {"type": "string", "pattern": rf"^{self._FORM}$|\$\{{"}

    @property
    def words(self) -> str:
        return f"a duration from `{self._low}` to `{self._high}`"


class Percent(Kind[float]):
    """A share in percent, `10%` or `2.5%`; the value is a fraction of one."""

    _FORM: Final = r"([0-9]{1,3}(?:\.[0-9]{1,3})?)%"

    def __init__(self, low: int, high: int) -> None:
        self._low = low
        self._high = high

    def read(self, place: Place, reading: Reading) -> float | Refused:
        text = reading.text(place)
        if isinstance(text, Refused):
            return text
        match = re.fullmatch(self._FORM, text.value)
        if match is None or not self._low <= float(match[1]) <= self._high:
            mend = "write it with a percent sign" if re.fullmatch(r"[0-9.]+", text.value) else None
            return reading.problem(place, f"must be {self.words}, not {place.shown}", mend)
        return float(match[1]) / 100

    def schema(self) -> Schema:
        return {"type": "string", "pattern": rf"^{self._FORM}$|\$\{{"}

    @property
    def words(self) -> str:
        return f"a share from `{self._low}%` to `{self._high}%`"


class Size(Kind[int]):
    """A number of bytes: `1MiB` is 2^20, `1MB` is 10^6, a plain number is bytes."""

    _BYTES: Final = {
        "": 1, "B": 1,
        "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
        "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40,
    }  # fmt: skip
    _FORM: Final = r"([0-9]{1,15})(B|[kKMGT]B|[KMGT]iB)?"

    def __init__(self, low: str, high: str) -> None:
        self._low, self._high = low, high
        self._low_bytes, self._high_bytes = self._count(low), self._count(high)

    @classmethod
    def _count(cls, text: str) -> int:
        match = re.fullmatch(cls._FORM, text)
        if match is None:
            raise ValueError(text)
        return int(match[1]) * cls._BYTES[match[2] or ""]

    def read(self, place: Place, reading: Reading) -> int | Refused:
        text = reading.text(place)
        if isinstance(text, Refused):
            return text
        try:
            count = self._count(text.value)
        except ValueError:
            return reading.problem(place, f"must be {self.words}, not {place.shown}", "as in 1MiB, 10MB or 65536")
        if not self._low_bytes <= count <= self._high_bytes:
            return reading.problem(place, f"must be {self.words}, not {place.shown}")
        return count

    def schema(self) -> Schema:
        return {
            "anyOf": [
                {"type": "integer", "minimum": self._low_bytes, "maximum": self._high_bytes},
                {"type": "string", "pattern": rf"^{self._FORM}$|\$\{{"},
            ]
        }

    @property
    def words(self) -> str:
        return f"a size from `{self._low}` to `{self._high}`"


class NetworkKind(Kind[Network]):
    """An address, or a network in CIDR form."""

    def read(self, place: Place, reading: Reading) -> Network | Refused:
        text = read_text(place, reading, self.words)
        if isinstance(text, Refused):
            return text
        try:
            return ip_network(text.value)
        except ValueError:
            pass
        try:
            mend = f"the network is {ip_network(text.value, strict=False)}" if not text.expanded else None
        except ValueError:
            mend = None
        return reading.problem(place, f"must be {self.words}, not {place.shown}", mend)

    def schema(self) -> Schema:
        return {"type": "string"}

    @property
    def words(self) -> str:
        return "an IP address or a network such as `10.0.0.0/8`"


class Secret(Kind[str]):
    """A secret: `${NAME}`, `file:/path`, or (with a warning) the text itself. Never shown."""

    def __init__(self, low: int, high: int) -> None:
        self._low = low
        self._high = high

    def read(self, place: Place, reading: Reading) -> str | Refused:
        text = read_text(place, reading, self.words)
        if isinstance(text, Refused):
            return text
        value = text.value
        if value.startswith("file:"):
            content = reading.secret_file(place, value.removeprefix("file:"))
            if isinstance(content, Refused):
                return content
            value = content
        elif not text.expanded:
            reading.warn(
                place, "a secret stands in the file itself", "better: ${NAME} for the environment, or file:/path"
            )
        reading.is_secret(value)
        if not self._low <= len(value) <= self._high:
            return reading.problem(place, f"must be {self.words}, and it has {len(value)}")
        if not (value.isascii() and value.isprintable()) or " " in value:
            return reading.problem(place, f"must be {self.words}, and it has other characters too")
        return value

    def schema(self) -> Schema:
        return {"type": "string"}

    @property
    def words(self) -> str:
        return f"a secret of {self._low} to {self._high} visible ASCII characters"
