"""What was decided when: a log that many processes write and one reads, of any length in little memory.

An entry is one integer of 64 bits, so that files of them merge as integers do: the moment in µs by Redis's clock (51 bits,
until 2041), what happened (3), to whom (6, a number), at what cost (4). A file is in the order of its moments."""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

from ostiary.gateway.limits import Outcome

# 64 KB of a file in memory, on both sides.
ENTRIES_PER_PIECE = 8192

SUBJECTS_MAX = 64
COST_MAX = 15


class Event(IntEnum):
    """ALLOWED before RELEASED: what ends in the moment in which another begins was under way with it."""

    ALLOWED = 0
    RATE_LIMITED = 1
    QUOTA_EXCEEDED = 2
    CROWDED = 3
    RELEASED = 4


EVENTS = {
    Outcome.ALLOWED: Event.ALLOWED,
    Outcome.RATE_LIMITED: Event.RATE_LIMITED,
    Outcome.QUOTA_EXCEEDED: Event.QUOTA_EXCEEDED,
    Outcome.TOO_MANY_CONCURRENT: Event.CROWDED,
}


class Entry(NamedTuple):
    """A decision about one call, or the end of one. A RELEASED is written before its release is sent to Redis, with a clock
    that shows the same time there: until then the call surely counted."""

    moment_us: int
    event: Event
    subject: int
    cost: int = 1


class LogWriter:
    """Appends to one file. `entries` of one source come in order; two sources need two files."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._words = array("Q")

    def write(self, moment_us: int, event: Event, subject: int, cost: int = 1) -> None:
        self._words.append(moment_us << 13 | event << 10 | subject << 4 | cost)
        if len(self._words) >= ENTRIES_PER_PIECE:
            self._write_words()

    def flush(self) -> None:
        """All of it is in the file, also if this process is killed."""
        self._write_words()
        self._file.flush()

    def close(self) -> None:
        self._write_words()
        self._file.close()

    def _write_words(self) -> None:
        self._words.tofile(self._file)
        self._words = array("Q")


class OutOfOrder(ValueError):
    """A log whose moments run backwards: its clock was set, or it has two sources. Nothing can be said by it."""


def write_log(path: Path, entries: Iterable[Entry]) -> Path:
    """A whole file at once."""
    writer = LogWriter(path)
    for entry in entries:
        writer.write(*entry)
    writer.close()
    return path


def merged(paths: Sequence[Path]) -> Iterator[Entry]:
    """All entries of all files in the order of their moments. Raises OutOfOrder."""
    for word in heapq.merge(*(_words(path) for path in paths)):
        yield Entry(word >> 13, Event(word >> 10 & 7), word >> 4 & 63, word & 15)


def _words(path: Path) -> Iterator[int]:
    last_us = 0
    with path.open("rb") as file:
        while piece := file.read(8 * ENTRIES_PER_PIECE):
            for word in memoryview(piece).cast("Q"):
                if word >> 13 < last_us:
                    raise OutOfOrder(f"{path.name}: {word >> 13} comes after {last_us}")
                last_us = word >> 13
                yield word
