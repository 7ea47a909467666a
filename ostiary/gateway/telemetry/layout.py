"""How counters lie in memory that the process which counts shares with the one which reports them.

    magic (8 bytes) | names, one record for each series | values, doubles, aligned

A record is length, CRC-32 and body; the body gives the first slot, the number of slots, the metric's name and its label
values. Records are only ever appended, and the first one whose CRC does not hold ends the list. So a reader needs no
lock: of a record being written, or cut short by `kill -9`, it sees nothing, and of a value (eight aligned bytes, copied
at once) either the old or the new."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

MAGIC = b"OSTMET1\n"
# Address space, not memory: pages exist once they are used. Room for 10 000 routes with two series each of 18 slots.
SLOTS_MAX = 512 * 1024
NAMES_BYTES_MAX = 16 * 1024 * 1024
NAMES_AT = len(MAGIC)
VALUES_AT = NAMES_BYTES_MAX  # the names region ends here; a multiple of the page size
REGION_BYTES = VALUES_AT + 8 * SLOTS_MAX

LABEL_CHARACTERS_MAX = 200  # a label is a name from the configuration or a constant; a longer one is cut
_PREFIX = struct.Struct("<II")  # length and CRC-32 of the body
_BODY = struct.Struct("<II")  # first slot, slots
RECORD_BYTES_MAX = 16 * 1024


@dataclass(frozen=True, slots=True)
class Series:
    """One label set of one metric. `slot` is its first value, `width` how many it has."""

    name: str
    label_values: tuple[str, ...]
    slot: int
    width: int


def encode_series(series: Series) -> bytes:
    """One record. Label values longer than `LABEL_CHARACTERS_MAX` must have been cut before."""
    text = json.dumps([series.name, *series.label_values]).encode("ascii")
    body = _BODY.pack(series.slot, series.width) + text
    return _PREFIX.pack(len(body), zlib.crc32(body)) + body


def read_series(region: memoryview) -> Iterator[tuple[Series, int]]:
    """The series whose records are whole, each with the offset where its record ends."""
    offset = NAMES_AT
    while offset + _PREFIX.size <= VALUES_AT:
        length, checksum = _PREFIX.unpack_from(region, offset)
        end = offset + _PREFIX.size + length
        if not _BODY.size < length <= RECORD_BYTES_MAX or end > VALUES_AT:
            return
        body = bytes(region[offset + _PREFIX.size : end])
        if zlib.crc32(body) != checksum:
            return
        slot, width = _BODY.unpack_from(body)
        name, *label_values = json.loads(body[_BODY.size :])
        offset = end
        if slot + width <= SLOTS_MAX:
            yield Series(name, tuple(label_values), slot, width), end
