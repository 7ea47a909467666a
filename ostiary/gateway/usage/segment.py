"""A segment file: a header page, then records, each at a multiple of 8: CRC-32, frame length, payload.

The payload is written first, then its CRC and the length, by one store of eight bytes: a record exists from that store on. So
a writer that is killed between any two instructions leaves every finished record and at most one invisible one, never a wrong
one.
A CRC that does not match is damage from outside (a disk, a hand), and costs the record it hit and no other."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from struct import Struct
from typing import Final, NamedTuple
from uuid import UUID
from zlib import crc32

from ostiary.gateway.usage.record import COLUMNS_OF, RECORD_VERSION

HEADER_BYTES: Final = 4096  # a page
FRAME_BYTES: Final = (
    8  # CRC-32 and length (of the frame, these 8 bytes included, so that it is never 0), native byte order
)
RECORD_BYTES_MAX: Final = 16 * 1024  # about three times the longest record that `record.encode` can make

FRAME = Struct("@II")
# A frame as one number of 64 bits: where in it the CRC and the length are.
CRC_SHIFT: Final = 0 if sys.byteorder == "little" else 32
LENGTH_SHIFT: Final = 32 - CRC_SHIFT
_MAGIC = b"OSTSEG\r\n"
MAGIC_BYTES = len(_MAGIC)  # of a header they are stored last: it is there whole, or not at all
_HEADER = Struct("<8sI16s16sqQQ64s")
_SEAL_AT = 2048
_SEAL = Struct("<QQ")
_CRC = Struct("<I")


class DamagedFile(Exception):
    """A file of the spool that can't be read at all; the message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """`accepted_before` and `dropped_before` are the run's counters when the segment was begun: with the counters of its end
    they say how many records it must hold, whether or not it was sealed. `version` is that of the records."""

    segment_id: UUID
    run_id: UUID
    worker: str
    created_us: int
    accepted_before: int
    dropped_before: int
    version: int = RECORD_VERSION

    def pack(self) -> bytes:
        """The first bytes of the file, CRC included."""
        fields = _HEADER.pack(
            _MAGIC,
            self.version,
            self.segment_id.bytes,
            self.run_id.bytes,
            self.created_us,
            self.accepted_before,
            self.dropped_before,
            self.worker.encode()[:64],
        )
        return fields + _CRC.pack(crc32(fields))


@dataclass(frozen=True, slots=True)
class Segment:
    """What a segment file holds. `lost` is how many records must have been there and can't be read; `offsets` says at which
    of the bytes of `file` each record begins."""

    header: SegmentHeader
    records: list[bytes]
    offsets: list[int]
    lost: int
    file: bytes = field(repr=False)


class _Seal(NamedTuple):
    records: int
    used_bytes: int


def reserve(fd: int, size_bytes: int) -> None:
    """Gives the file its size and its blocks, zeroed: from here on a copy into its mapping can't find the disk full, which
    would be a SIGBUS. Raises OSError if there is no room."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, size_bytes)
    else:  # macOS
        os.pwrite(fd, bytes(size_bytes), 0)


def pack_seal(records: int, used_bytes: int) -> tuple[int, bytes]:
    """Where in the file, and what, to write once a segment is finished."""
    fields = _SEAL.pack(records, used_bytes)
    return _SEAL_AT, fields + _CRC.pack(crc32(fields))


def is_unfinished(data: bytes) -> bool:
    """Did the writer die before the header was there? Such a file never held a record. (One that does has lost its header, as
    a loss of power may do it.) `data` is the header page and the first frame."""
    return not any(data[:MAGIC_BYTES]) and not any(data[HEADER_BYTES : HEADER_BYTES + FRAME_BYTES])


def read_header(data: bytes) -> SegmentHeader:
    """Raises DamagedFile."""
    if len(data) < HEADER_BYTES:
        raise DamagedFile(f"{len(data)} bytes are too few for a segment")
    magic, version, segment_id, run_id, created_us, accepted, dropped, worker = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        raise DamagedFile("it does not begin as a segment does")
    if version not in COLUMNS_OF:
        raise DamagedFile(f"it is of version {version}, and this Ostiary reads versions up to {RECORD_VERSION}")
    if _CRC.unpack_from(data, _HEADER.size)[0] != crc32(data[: _HEADER.size]):
        raise DamagedFile("the checksum of its header does not match")
    return SegmentHeader(
        UUID(bytes=segment_id),
        UUID(bytes=run_id),
        worker.rstrip(b"\0").decode("utf-8", "replace"),
        created_us,
        accepted,
        dropped,
        version,
    )


def read_segment(path: Path, stored_by_run: int | None) -> Segment | None:
    """The records of a segment that nobody writes to any more; None if its writer died before the first byte.

    `stored_by_run` is how many records the run has stored in all its segments up to its end (accepted less dropped), used
    for a segment without a seal; None if that is not known. Raises DamagedFile, and OSError from reading."""
    with path.open("rb") as file:
        data = file.read(HEADER_BYTES + FRAME_BYTES)
        if is_unfinished(data):
            return None
        header = read_header(data)
        seal = _seal(data)
        file.seek(0)  # the first page again, in the place of a copy of all others
        data = file.read(-1 if seal is None else seal.used_bytes)
    expected = seal.records if seal else None
    if expected is None and stored_by_run is not None:
        expected = max(0, stored_by_run - (header.accepted_before - header.dropped_before))
    records, damaged, offsets = scan(data, expected)
    lost = damaged if expected is None else max(0, expected - len(records))
    return Segment(header, records, offsets, lost, data)


def _seal(header: bytes) -> _Seal | None:
    seal = _Seal(*_SEAL.unpack_from(header, _SEAL_AT))
    checksum = crc32(header[_SEAL_AT : _SEAL_AT + _SEAL.size])
    if seal.used_bytes < HEADER_BYTES or _CRC.unpack_from(header, _SEAL_AT + _SEAL.size)[0] != checksum:
        return None
    return seal


def scan(data: bytes, expected: int | None = None, *, begin: int = HEADER_BYTES) -> tuple[list[bytes], int, list[int]]:
    """The readable records from `begin` on, in order; the number of places where one was expected and could not be read; and
    where the frame of each record begins.

    Reading ends at the first frame without a length, unless `expected` says that more records were there."""
    records: list[bytes] = []
    offsets: list[int] = []
    damaged = 0
    # A third of what a row costs the shipper is this loop: names of its own are found quicker than those of the module.
    unpack, checksum, frame_bytes = FRAME.unpack_from, crc32, FRAME_BYTES
    keep, keep_offset = records.append, offsets.append
    at = begin
    last = len(data) - frame_bytes
    while at <= last:
        crc, length = unpack(data, at)
        end = at + length
        payload = data[at + frame_bytes : end]
        # Of another length: of one that is none, or that reaches past the end.
        if len(payload) != length - frame_bytes or checksum(payload) != crc:
            if expected is not None and len(records) >= expected:
                break  # the rest of a write that was never finished
            if expected is None and length == 0:
                break
            damaged += 1
            at = _next_record(data, at + frame_bytes)
            continue
        keep(payload)
        keep_offset(at)
        at = (end + 7) & -8
    return records, damaged, offsets


def _next_record(data: bytes, at: int) -> int:
    """Where the next readable record begins; the end of the data if there is none. Text from clients can't pose as one: the
    length of a record has zero bytes, and `record.encode` lets none through."""
    unpack = FRAME.unpack_from
    for offset in range(at, len(data) - FRAME_BYTES + 1, 8):
        crc, length = unpack(data, offset)
        if (
            FRAME_BYTES < length <= RECORD_BYTES_MAX + FRAME_BYTES
            and offset + length <= len(data)
            and crc32(data[offset + FRAME_BYTES : offset + length]) == crc
        ):
            return offset
    return len(data)
