"""Calls that went upstream and have not ended: what is left of them when their worker is killed.

A call's record is stored when the call ends, and a kill takes what is under way. So before the upstream hears of a call,
what is known of it then is put into a slot of a table behind the run's counts, in memory that outlives the process; and the
slot is freed once the record is stored. From the table of a run that was killed the shipper makes one more segment
(`rescue`), so each request that an upstream has seen is a row.

A kill between the record and the freed slot would make it two. Therefore a slot first learns which of the run's records will
be its own: with the run's counts that says whether it was stored."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path
from struct import Struct
from typing import Final, NamedTuple

from ostiary.gateway.usage.record import cut_short

# Two thousand calls of one worker at once, tunnels among them. What has no slot, or is too long for one (a long user agent
# with a long template), is metered when it ends, as all are, and lost by a kill.
SLOTS: Final = 2048
SLOT_BYTES: Final = 1024
TABLE_AT: Final = 4096  # in the run's file: behind the page of its counts
TABLE_BYTES: Final = SLOTS * SLOT_BYTES

# Which record of the run is the call's own (0: not yet), when it began, how long its request id is, is it past a quota, and
# how long the payload is: last, because the call is there from the store of its length on.
_HEAD: Final = Struct("@QdH?I")
_HEAD_BYTES: Final = 24
_LAST_WORD: Final = 2  # of eight bytes: the one with the length
_ROOM: Final = SLOT_BYTES - _HEAD_BYTES
NO_SLOT: Final = -1

_commit: Final = _HEAD.pack_into


class CallsUnderWay:
    """The table of one worker. Slots are told by where in the file they begin."""

    __slots__ = ("_free", "_map", "_words")

    def __init__(self, mapped: mmap.mmap) -> None:
        self._map = mapped
        self._words = memoryview(mapped).cast("Q")
        # The last one freed is the next one used: few calls at once touch few pages.
        self._free = list(range(TABLE_AT + TABLE_BYTES - SLOT_BYTES, TABLE_AT - 1, -SLOT_BYTES))

    def end(self) -> None:
        """The run is over: nothing more is written, and the file may be closed."""
        self._words.release()

    def open(self, begun: bytes, request_id_bytes: int, occurred_at: float, overage: bool) -> int:
        """The slot of a call that begins, or NO_SLOT. `begun` is from `encode_begun`. Never raises."""
        length = len(begun)
        if length > _ROOM or not self._free:
            return NO_SLOT
        at = self._free.pop()
        start = at + _HEAD_BYTES
        self._map[start : start + length] = begun
        _commit(self._map, at, 0, occurred_at, request_id_bytes, overage, length)
        return at

    def ends(self, slot: int, ordinal: int) -> None:
        """The run's record of that number, which is stored next, will be the call's."""
        self._words[slot >> 3] = ordinal

    def close(self, slot: int) -> None:
        """Its record is stored, or was dropped and counted."""
        self._words[(slot >> 3) + _LAST_WORD] = 0
        self._free.append(slot)


class OpenCall(NamedTuple):
    """`ordinal` is the number of the run's record that was to be the call's, 0 if it had not ended; `record` is what is to
    stand for it."""

    ordinal: int
    record: bytes


def read_under_way(run: Path) -> Iterator[OpenCall]:
    """What the table of a run that is over holds; nothing for a run of a version without one. A slot that makes no sense has
    been hit from outside, and is left out. Raises OSError."""
    with run.open("rb") as file:
        file.seek(TABLE_AT)
        table = file.read(TABLE_BYTES)
    for at in range(0, len(table) - SLOT_BYTES + 1, SLOT_BYTES):
        ordinal, occurred_at, request_id_bytes, overage, length = _HEAD.unpack_from(table, at)
        if not 0 < length <= _ROOM:
            continue
        begun = table[at + _HEAD_BYTES : at + _HEAD_BYTES + length]
        try:
            yield OpenCall(ordinal, cut_short(begun, request_id_bytes, occurred_at, overage))
        except (struct.error, ValueError, OverflowError):
            continue
