"""What is in the stream: portions of segments, and the last words on runs.

    <stream>.<spool>.portion.<run>.<segment>.<first byte>.<byte after, or "end">.<records>.<lost>
    <stream>.<spool>.ended.<run>.<accepted>.<dropped>.<"closed" or "killed">

The subject says everything that the books need, so that `ostiary usage reconcile` reads the server's list of subjects and no
message. The payload of a portion is a head and then the segment file's own bytes: frames, each with its CRC-32, so what is
damaged on the way costs the record it hit and no other."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from struct import Struct
from typing import Final
from uuid import UUID
from zlib import crc32

from ostiary.gateway.usage.portion import Portion
from ostiary.gateway.usage.record import COLUMNS_OF, RECORD_VERSION
from ostiary.gateway.usage.run import RunState
from ostiary.gateway.usage.segment import (
    FRAME_BYTES,
    HEADER_BYTES,
    RECORD_BYTES_MAX,
    DamagedFile,
    SegmentHeader,
    read_header,
    scan,
)

# The order of bytes is the machine's, as in the spool: a message of a machine of the other one is not taken for another
# message.
_MAGIC: Final = b"OSTMSG" + (b"<\n" if sys.byteorder == "little" else b">\n")
_VERSION: Final = 1
_HEAD = Struct("<8sII16sqQQqqqQ")
_ENDED = Struct("<8sI16s16sqQQI64s")
_CRC = Struct("<I")
_VERSIONED = Struct("<I")
_END: Final = "end"
_NUMBER_MAX: Final = 1 << 62  # Postgres' bigint, and no counter comes near

# Where a segment's header has the version of its records: read before its checksum, for a newer one is not damage.
_SEGMENT_VERSION = Struct("<I")
_SEGMENT_VERSION_AT: Final = 8
_SEGMENT_HEADER_BYTES: Final = len(SegmentHeader(UUID(int=0), UUID(int=0), "", 0, 0, 0).pack())
HEAD_BYTES: Final = (_HEAD.size + _SEGMENT_HEADER_BYTES + _CRC.size + 7) & -8  # frames stand at multiples of 8
# What a message is longer than the part of the file it was cut from, at most: its last record goes over the end.
EXCESS_BYTES_MAX: Final = HEAD_BYTES + FRAME_BYTES + RECORD_BYTES_MAX


@dataclass(frozen=True, slots=True)
class PortionName:
    """What a subject says of a portion. `lost` is what its shipper could not read."""

    spool_id: UUID
    run_id: UUID
    segment_id: UUID
    first: int
    until: int | None
    records: int
    lost: int

    def subject(self, stream: str) -> str:
        until = _END if self.until is None else str(self.until)
        return (
            f"{stream}.{self.spool_id.hex}.portion.{self.run_id.hex}.{self.segment_id.hex}."
            f"{self.first}.{until}.{self.records}.{self.lost}"
        )


@dataclass(frozen=True, slots=True)
class EndedName:
    """What a subject says of a run that is over."""

    spool_id: UUID
    run_id: UUID
    accepted: int
    dropped: int
    closed: bool

    def subject(self, stream: str) -> str:
        last = "closed" if self.closed else "killed"
        return f"{stream}.{self.spool_id.hex}.ended.{self.run_id.hex}.{self.accepted}.{self.dropped}.{last}"


@dataclass(frozen=True, slots=True)
class EndedRun:
    spool_id: UUID
    run: RunState


class Unreadable(Exception):
    """A message that can't be read. `stands_for` is what its subject says of it: a portion without records that declares them
    lost, or a run; None where nobody can say what it was, or where a newer version may still read it."""

    def __init__(self, reason: str, stands_for: Portion | EndedRun | None = None) -> None:
        super().__init__(reason)
        self.stands_for = stands_for


def name_of(portion: Portion) -> PortionName:
    header = portion.header
    return PortionName(
        portion.spool_id,
        header.run_id,
        header.segment_id,
        portion.first or 0,
        portion.until,
        len(portion.records),
        portion.lost,
    )


def encode_portion(portion: Portion, file: bytes) -> bytes:
    """The payload. `file` is what the portion was cut from."""
    begin = end = 0
    if portion.records:
        begin, end = portion.offsets[0], portion.offsets[-1] + FRAME_BYTES + len(portion.records[-1])
    head = _HEAD.pack(
        _MAGIC,
        _VERSION,
        len(portion.records),
        portion.spool_id.bytes,
        portion.run.started_us,
        portion.run.accepted,
        portion.run.dropped,
        portion.first or 0,
        -1 if portion.until is None else portion.until,
        begin,
        portion.lost,
    )
    head += portion.header.pack()
    head += _CRC.pack(crc32(head))
    return b"".join((head.ljust(HEAD_BYTES, b"\0"), memoryview(file)[begin:end]))


def encode_ended(spool_id: UUID, run: RunState) -> bytes:
    fields = _ENDED.pack(
        _MAGIC,
        _VERSION,
        spool_id.bytes,
        run.run_id.bytes,
        run.started_us,
        run.accepted,
        run.dropped,
        run.closed,
        run.worker.encode()[:64],
    )
    return fields + _CRC.pack(crc32(fields))


def parse_subject(subject: str) -> PortionName | EndedName | None:
    """None for a subject that no Ostiary writes. The stream's name has no dots."""
    parts = subject.split(".")
    try:
        if len(parts) == 9 and parts[2] == "portion":
            until = None if parts[6] == _END else _number(parts[6])
            ids = [UUID(parts[at]) for at in (1, 3, 4)]
            return PortionName(ids[0], ids[1], ids[2], _number(parts[5]), until, _number(parts[7]), _number(parts[8]))
        if len(parts) == 7 and parts[2] == "ended" and parts[6] in ("closed", "killed"):
            spool_id, run_id = UUID(parts[1]), UUID(parts[3])
            return EndedName(spool_id, run_id, _number(parts[4]), _number(parts[5]), parts[6] == "closed")
    except ValueError:
        pass
    return None


def decode(subject: str, payload: bytes) -> Portion | EndedRun:
    """Raises Unreadable."""
    name = parse_subject(subject)
    if isinstance(name, PortionName):
        return _decode_portion(name, payload)
    if isinstance(name, EndedName):
        return _decode_ended(name, payload)
    raise Unreadable("its subject is none of usage's")


def _decode_portion(name: PortionName, payload: bytes) -> Portion:
    stands_for = _stand_in(name)
    head = payload[: _HEAD.size + _SEGMENT_HEADER_BYTES]
    _check(payload, len(head), stands_for)
    _, _, count, spool, started, accepted, dropped, first, until, begin, lost = _HEAD.unpack_from(head)
    packed = head[_HEAD.size :]
    version = _SEGMENT_VERSION.unpack_from(packed, _SEGMENT_VERSION_AT)[0]
    if version not in COLUMNS_OF:
        raise Unreadable(
            f"its records are of version {version}, and this Ostiary reads versions up to {RECORD_VERSION}"
        )
    try:
        header = read_header(packed.ljust(HEADER_BYTES, b"\0"))
    except DamagedFile as error:
        raise Unreadable(str(error), stands_for) from error
    end = None if until < 0 else until
    said = PortionName(UUID(bytes=spool), header.run_id, header.segment_id, first, end, count, lost)
    if said != name or max(started, accepted, dropped) >= _NUMBER_MAX or started < 0:
        raise Unreadable("its subject and its head disagree", stands_for)
    records, _, offsets = scan(payload, count, begin=HEAD_BYTES)
    shift = begin - HEAD_BYTES
    return Portion(
        name.spool_id,
        header,
        RunState(header.run_id, header.worker, started, accepted, dropped, closed=False),
        name.first,
        name.until,
        records,
        [offset + shift for offset in offsets],
        lost + max(0, count - len(records)),
    )


def _decode_ended(name: EndedName, payload: bytes) -> EndedRun:
    # The subject has all but the worker's name and when the run began, which its portions have told.
    told = RunState(name.run_id, "?", time.time_ns() // 1000, name.accepted, name.dropped, name.closed)
    stands_for = EndedRun(name.spool_id, told)
    _check(payload, _ENDED.size, stands_for)
    _, _, spool, run_id, started, accepted, dropped, closed, worker = _ENDED.unpack_from(payload)
    said = EndedName(UUID(bytes=spool), UUID(bytes=run_id), accepted, dropped, closed == 1)
    if said != name or not 0 <= started < _NUMBER_MAX:
        raise Unreadable("its subject and its content disagree", stands_for)
    run = RunState(
        name.run_id, worker.rstrip(b"\0").decode("utf-8", "replace"), started, accepted, dropped, name.closed
    )
    return EndedRun(name.spool_id, run)


def _check(payload: bytes, size: int, stands_for: Portion | EndedRun) -> None:
    """Is this the beginning of a message of ours, undamaged?"""
    if len(payload) < size + _CRC.size or payload[: len(_MAGIC)] != _MAGIC:
        raise Unreadable("it does not begin as a message of usage does", stands_for)
    version = _VERSIONED.unpack_from(payload, len(_MAGIC))[0]
    if version != _VERSION:
        raise Unreadable(f"it is of version {version}, and this Ostiary reads version {_VERSION}")
    if _CRC.unpack_from(payload, size)[0] != crc32(payload[:size]):
        raise Unreadable("the checksum of its head does not match", stands_for)


def _stand_in(name: PortionName) -> Portion:
    now_us = time.time_ns() // 1000
    header = SegmentHeader(name.segment_id, name.run_id, "?", now_us, 0, 0)
    run = RunState(name.run_id, "?", now_us, 0, 0, closed=False)
    return Portion(name.spool_id, header, run, name.first, name.until, [], [], name.records + name.lost)


def _number(text: str) -> int:
    """Raises ValueError."""
    value = int(text) if text.isascii() and text.isdigit() and len(text) <= 19 else _NUMBER_MAX
    if value >= _NUMBER_MAX:
        raise ValueError(text)
    return value
