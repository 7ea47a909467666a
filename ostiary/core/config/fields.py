"""What a field is: its name, its kind, its default and what it says. These declarations are the one source of what the
loader reads, of the JSON Schema, and of the reference in docs/configuration.md.

A kind reads a node to a value, or notes a problem and gives `REFUSED`. A record with a refused field that it could do
without is built with that field's default, so that mistakes elsewhere in it are told as well; the file is refused anyway."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Generic, NamedTuple, TypeVar

from ostiary.core.config.document import Mapping, Node, Resolved, Scalar, Sequence, resolve
from ostiary.core.config.problems import suggestion
from ostiary.core.config.reading import REFUSED, Place, Reading, Refused

T = TypeVar("T")
K = TypeVar("K")
T_co = TypeVar("T_co", covariant=True)

Schema = dict[str, object]
Written = str | int | list[object] | dict[str, object]  # a default, as one would write it in the file


class Kind(ABC, Generic[T_co]):
    """How one sort of value is written."""

    @abstractmethod
    def read(self, place: Place, reading: Reading) -> T_co | Refused: ...

    @abstractmethod
    def schema(self) -> Schema:
        """JSON Schema 2020-12. It accepts whatever the loader accepts; the loader knows more (names, contradictions)."""

    @property
    @abstractmethod
    def words(self) -> str:
        """For the reference: "a duration, as in `15s`"."""


class Presence(Enum):
    REQUIRED = "required"
    OPTIONAL = "optional"  # None when it is not given


@dataclass(frozen=True, slots=True, eq=False)
class Field(Generic[T_co]):
    name: str
    kind: Kind[object]
    says: str
    default: Written | Presence
    missing: str | None = None  # the mend, when it is required and not given


def required(name: str, kind: Kind[T], says: str, *, missing: str | None = None) -> Field[T]:
    return Field(name, kind, says, Presence.REQUIRED, missing)


def optional(name: str, kind: Kind[T], says: str) -> Field[T | None]:
    return Field(name, kind, says, Presence.OPTIONAL)


def defaulted(name: str, kind: Kind[T], says: str, default: Written) -> Field[T]:
    return Field(name, kind, says, default)


class Values:
    """What a record read; each field has a value."""

    def __init__(self, place: Place, reading: Reading) -> None:
        self.place = place
        self.reading = reading
        self._values: dict[str, object] = {}
        self._places: dict[str, Place] = {}

    def __getitem__(self, field: Field[T]) -> T:
        return self._values[field.name]  # type: ignore[return-value]  # put there by the kind of this very field

    def given(self, field: Field[object]) -> bool:
        return field.name in self._places

    def place_of(self, field: Field[object]) -> Place:
        """Where the field stands; the record's place if it is not given."""
        return self._places.get(field.name, self.place)

    def problem(self, field: Field[object], message: str, mend: str | None = None) -> Refused:
        return self.reading.problem(self.place_of(field), message, mend)


class Record(Kind[T]):
    """A mapping with known fields. `build` makes the value; it may note problems and give `REFUSED`."""

    def __init__(
        self, title: str, says: str, fields: tuple[Field[object], ...], build: Callable[[Values], T | Refused]
    ) -> None:
        self.title = title
        self.says = says
        self.fields = fields
        self._by_name = {field.name: field for field in fields}
        self._build = build

    def read(self, place: Place, reading: Reading) -> T | Refused:
        names = ", ".join(self._by_name)
        if not isinstance(place.node, Mapping):
            return reading.problem(place, f"must be a mapping, not {place.shown}", f"its fields are {names}")
        values = Values(place, reading)
        complete = True
        for key, node in place.node.entries:
            field = self._by_name.get(key.text)
            if field is None:
                at = Place(key, place.path, key.text)
                mend = suggestion(key.text, list(self._by_name)) or f"the fields are {names}"
                reading.problem(at, f"there is no field {at.shown}", mend)
                continue
            at = place.field(field.name, node)
            values._places[field.name] = at
            if isinstance(node, Scalar) and resolve(node) is Resolved.NULL:
                reading.problem(at, "has no value", "give it one, or remove the field")
                value: object = REFUSED
            else:
                value = field.kind.read(at, reading)
            if value is not REFUSED:
                values._values[field.name] = value
            elif field.default is Presence.REQUIRED:
                complete = False
        for field in self.fields:
            if field.name in values._values:
                continue
            if field.default is Presence.REQUIRED:
                if field.name not in values._places:
                    reading.problem(place, f"the field {field.name!r} is missing", field.missing or field.says)
                    complete = False
            elif isinstance(field.default, Presence):
                values._values[field.name] = None
            else:
                at = place.field(field.name, written(field.default, place.node))
                values._values[field.name] = field.kind.read(at, reading)
        return self._build(values) if complete else REFUSED

    def schema(self) -> Schema:
        properties: dict[str, object] = {}
        for field in self.fields:
            schema = {**field.kind.schema(), "description": field.says}
            if not isinstance(field.default, Presence):
                schema["default"] = field.default
            properties[field.name] = schema
        result: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
        if needed := [field.name for field in self.fields if field.default is Presence.REQUIRED]:
            result["required"] = needed
        return result

    @property
    def words(self) -> str:
        return f"[{self.title}](#{self.title.lower().replace(' ', '-')})"


class ListOf(Kind[tuple[T, ...]]):
    """A list of `low` to `high` items; those that are refused are left out."""

    def __init__(self, item: Kind[T], *, low: int = 0, high: int) -> None:
        self.item = item
        self._low = low
        self._high = high

    def read(self, place: Place, reading: Reading) -> tuple[T, ...] | Refused:
        if not isinstance(place.node, Sequence):
            return reading.problem(place, f"must be a list, not {place.shown}", "write [a, b], or a line - a for each")
        count = len(place.node.items)
        if not self._low <= count <= self._high:
            return reading.problem(place, f"must have {self._low} to {self._high} items, not {count}")
        values = [self.item.read(place.item(at, node), reading) for at, node in enumerate(place.node.items)]
        return tuple(value for value in values if not isinstance(value, Refused))

    def schema(self) -> Schema:
        low: Schema = {"minItems": self._low} if self._low else {}
        return {"type": "array", "items": self.item.schema(), **low, "maxItems": self._high}

    @property
    def words(self) -> str:
        return f"a list; each item is {self.item.words}"


class MapOf(Kind[dict[K, T]]):
    """A mapping from names of one kind to values of another. With `defines`, its names are what others refer to."""

    def __init__(self, key: Kind[K], value: Kind[T], *, high: int, defines: str | None = None) -> None:
        self.key = key
        self.value = value
        self._high = high
        self._defines = defines

    def read(self, place: Place, reading: Reading) -> dict[K, T] | Refused:
        if not isinstance(place.node, Mapping):
            return reading.problem(place, f"must be a mapping whose names are each {self.key.words}, not {place.shown}")
        if len(place.node.entries) > self._high:
            return reading.problem(place, f"must have at most {self._high} entries, not {len(place.node.entries)}")
        if self._defines is not None:
            reading.define(self._defines, [key.text for key, _ in place.node.entries])
        result: dict[K, T] = {}
        for key_node, node in place.node.entries:
            at = Place(key_node, place.path, key_node.text)
            key: K | Refused
            if "${" in key_node.text:  # others refer to it as it is written
                key = reading.problem(at, "a name can't come from the environment", "write the name itself")
            else:
                key = self.key.read(at, reading)
            value = self.value.read(place.field(key_node.text, node), reading)
            if not isinstance(key, Refused) and not isinstance(value, Refused):
                result[key] = value
        return result

    def schema(self) -> Schema:
        return {
            "type": "object",
            "propertyNames": self.key.schema(),
            "additionalProperties": self.value.schema(),
            "maxProperties": self._high,
        }

    @property
    def words(self) -> str:
        return f"a mapping; each name is {self.key.words}, each value {self.value.words}"


class OneOrMany(Kind[tuple[T, ...]]):
    """One value, or a list of them."""

    def __init__(self, item: Kind[T], *, high: int) -> None:
        self.item = item
        self._many = ListOf(item, low=1, high=high)

    def read(self, place: Place, reading: Reading) -> tuple[T, ...] | Refused:
        if isinstance(place.node, Sequence):
            return self._many.read(place, reading)
        value = self.item.read(place, reading)
        return REFUSED if isinstance(value, Refused) else (value,)

    def schema(self) -> Schema:
        return {"anyOf": [self.item.schema(), self._many.schema()]}

    @property
    def words(self) -> str:
        return f"{self.item.words}, or a list of them"


class NameOrRecord(Kind[T]):
    """A name in short form, a mapping in long form."""

    def __init__(self, short: Kind[T], long: Kind[T]) -> None:
        self.short = short
        self.long = long

    def read(self, place: Place, reading: Reading) -> T | Refused:
        return (self.long if isinstance(place.node, Mapping) else self.short).read(place, reading)

    def schema(self) -> Schema:
        return {"anyOf": [self.short.schema(), self.long.schema()]}

    @property
    def words(self) -> str:
        return f"{self.short.words}, or {self.long.words}"


class At(NamedTuple, Generic[T]):
    """A value and where it stood, for what can be checked only against the rest of the file."""

    value: T
    place: Place


class Placed(Kind[At[T]]):
    def __init__(self, kind: Kind[T]) -> None:
        self.kind = kind

    def read(self, place: Place, reading: Reading) -> At[T] | Refused:
        value = self.kind.read(place, reading)
        return REFUSED if isinstance(value, Refused) else At(value, place)

    def schema(self) -> Schema:
        return self.kind.schema()

    @property
    def words(self) -> str:
        return self.kind.words


def written(value: Written, beside: Node) -> Node:
    """The node that a default would be, had it been written in the file."""
    line, column = beside.line, beside.column
    if isinstance(value, list):
        return Sequence((), line, column)
    if isinstance(value, dict):
        return Mapping((), line, column)
    return Scalar(str(value), True, line, column)
