"""`gzip` of a route: a switch, or what to compress."""

from __future__ import annotations

from typing import Final

from ostiary.core.config.fields import Kind, ListOf, NameOrRecord, Record, Schema, Values, defaulted, optional
from ostiary.core.config.kinds import Size, TextKind, or_reference
from ostiary.core.config.reading import Place, Reading, Refused
from ostiary.core.model import Gzip

# Text that APIs answer with. Pictures, sound and archives are compressed already. Not `text/event-stream`: each event would
# be flushed by itself, which gains little, and some clients' stream readers take no coding.
TYPES: Final = frozenset(
    {
        "application/geo+json",
        "application/hal+json",
        "application/json",
        "application/ld+json",
        "application/problem+json",
        "application/vnd.api+json",
        "application/xml",
        "application/javascript",
        "image/svg+xml",
        "text/css",
        "text/csv",
        "text/html",
        "text/javascript",
        "text/plain",
        "text/xml",
    }
)
# Below this the answer fits in one packet with its head either way.
BYTES_MIN: Final = "1KiB"

_MIN_BYTES = defaulted("min_bytes", Size("0B", "1GiB"), "Answers shorter than this are left as they are.", BYTES_MIN)
_TYPES = optional(
    "types",
    ListOf(
        TextKind(
            r"[a-z0-9!#$&^_.+-]{1,63}/[a-z0-9!#$&^_.+-]{1,63}", "a media type, as in `application/json`", lower=True
        ),
        low=1,
        high=100,
    ),
    "Media types to compress; if not given, JSON, XML and text.",
)


def _gzip(values: Values) -> Gzip | Refused:
    types = frozenset(values[_TYPES] or TYPES)
    if "text/event-stream" in types:
        return values.problem(_TYPES, "events are sent one by one, and are not compressed", "remove text/event-stream")
    return Gzip(bytes_min=values[_MIN_BYTES], types=types)


GZIP: Record[Gzip] = Record("Gzip", "Which answers are compressed.", (_MIN_BYTES, _TYPES), _gzip)


class Switch(Kind[Gzip | None]):
    """`true` for what is usual, `false` for none."""

    def read(self, place: Place, reading: Reading) -> Gzip | Refused | None:
        text = reading.text(place)
        if isinstance(text, Refused):
            return text
        if text.value not in ("true", "false"):
            return reading.problem(place, f"must be {self.words} or a mapping, not {place.shown}")
        return Gzip(bytes_min=1024, types=TYPES) if text.value == "true" else None

    def schema(self) -> Schema:
        return or_reference({"type": "boolean"})

    @property
    def words(self) -> str:
        return "`true` or `false`"


GZIP_CHOICE: Kind[Gzip | None] = NameOrRecord(Switch(), GZIP)
