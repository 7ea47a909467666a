"""Where a worker puts the record of each call, before the call's last byte is sent: a file mapped into memory.

A record is in the page cache when the copy returns, so it outlives the process, with no system call per call. (It does not
outlive a loss of power: see docs/decisions/0005-usage.md.) The file's blocks are reserved when it is made, so a full disk
is an error there and then, and never a signal in the middle of a copy."""

from __future__ import annotations

import logging
import mmap
import os
import time
from pathlib import Path
from uuid import uuid4
from zlib import crc32

from ostiary.gateway.usage.directory import OPEN, SEALED, SegmentName, look, spool_id
from ostiary.gateway.usage.run import ACCEPTED, DROPPED, Run
from ostiary.gateway.usage.segment import (
    FRAME,
    FRAME_BYTES,
    HEADER_BYTES,
    RECORD_BYTES_MAX,
    SegmentHeader,
    pack_seal,
    reserve,
)

# 4 MiB are about 11 000 records: a tenth of a second's work for the shipper. Reserving them takes the loop 0.2 ms (to 0.9 ms
# on a busy disk), a few times a second at most. What a finished segment did not use is not given back: cutting the file costs
# the loop more than making it did, and the shipper deletes it within a second anyway, or it was full.
SEGMENT_BYTES = 4 * 1024 * 1024
_SEGMENT_BYTES_MIN = HEADER_BYTES + 4 * RECORD_BYTES_MAX

# While the spool is at its bound, how often a worker looks whether there is room again. Looking lists the directory, which
# no call should pay for; a quarter of a second of drops is counted either way.
_RETRY_SECONDS = 0.25

_log = logging.getLogger("ostiary.gateway.usage")
_commit = FRAME.pack_into


class SpoolError(Exception):
    """The spool can't be used; the message names the mistake and the mend."""


class Spool:
    """One worker's end of the spool. For one thread.

    `accepted` counts every record given to `append`, `dropped` those of them that found no room; both stand in the run's
    file as well, and outlive the process. accepted = records in segments + dropped, at every moment, give or take the one
    record that a kill may catch half-way."""

    __slots__ = (
        "_at",
        "_before",
        "_bytes_before",
        "_bytes_max",
        "_counters",
        "_directory",
        "_end",
        "_map",
        "_name",
        "_retry_at",
        "_run",
        "_segment_bytes",
        "_taken",
        "_worker",
        "accepted",
        "dropped",
    )

    def __init__(self, *, directory: Path, worker: str, segment_bytes: int = SEGMENT_BYTES, bytes_max: int) -> None:
        """Makes `directory` (0700) if it is not there. `bytes_max` bounds the segments of all workers of the directory
        together. Raises SpoolError."""
        if segment_bytes < _SEGMENT_BYTES_MIN:
            raise SpoolError(
                f"a spool segment of {segment_bytes} bytes is too small; give at least {_SEGMENT_BYTES_MIN}"
            )
        if bytes_max < segment_bytes:
            raise SpoolError(
                f"a spool of at most {bytes_max} bytes has no room for one segment of {segment_bytes}; "
                "raise stores.spool_max"
            )
        self._directory = directory
        self._worker = worker
        self._segment_bytes = segment_bytes
        self._bytes_max = bytes_max
        self.accepted = 0
        self.dropped = 0
        self._bytes_before = 0  # appended in segments already finished
        self._before = (0, 0)  # accepted, dropped when the segment was begun
        self._retry_at = 0.0
        self._taken: Path | None = None  # the last sealed segment: while it is there, the shipper is behind
        self._name: SegmentName | None = None
        self._map: mmap.mmap | bytearray = bytearray()
        self._at = self._end = 0
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            spool_id(directory)
            self._run = Run(directory, worker)
        except (OSError, ValueError) as error:
            raise SpoolError(
                f"the spool directory {directory} can't be used ({error}); give stores.spool a directory on a local disk "
                "that this user may write to and that has room"
            ) from error
        self._counters = self._run.counters
        self._begin_segment()

    def append(self, record: bytes) -> bool:
        """Takes a record; it outlives this process from the return on. False: there was no room, and it is counted as
        dropped. Never raises. About 0.5 us."""
        at = self._at
        start = at + FRAME_BYTES
        end = start + len(record)
        if end > self._end:
            return self._append_to_next(record)
        # The order is the guarantee: payload, CRC, length (segment.py says why).
        self._map[start:end] = record
        _commit(self._map, at, crc32(record), end - at)
        self._at = (end + 7) & -8
        self.accepted = accepted = self.accepted + 1
        self._counters[ACCEPTED] = accepted
        return True

    def seal(self) -> None:
        """Hands the current segment to the shipper, if it holds anything; to be called a few times a second.

        While the shipper has not yet taken the one before, the segment is kept and goes on filling: with Postgres away the
        spool has a few full segments instead of thousands of small ones."""
        if self._at == HEADER_BYTES:
            return
        # Of the two `exists` the one that raises nothing: on a disk that answers EIO, sealing goes on.
        if self._taken is not None and os.path.exists(self._taken):
            return
        if self._name is not None:
            self._finish_segment()
        self._begin_segment()

    def close(self) -> None:
        """Hands everything to the shipper and ends the run. Nothing may be appended afterwards: it would be refused and
        counted nowhere that lasts."""
        if self._end < 0:
            return
        self._finish_segment()
        self._end = -1  # no record fits from here on, nor is room looked for
        self._counters = memoryview(bytearray(self._counters.nbytes)).cast("Q")
        self._run.close()

    def _append_to_next(self, record: bytes) -> bool:
        if len(record) <= RECORD_BYTES_MAX and self._end >= 0:
            self._finish_segment()
            if self._begin_segment():
                return self.append(record)
        self.dropped += 1
        self._counters[DROPPED] = self.dropped
        self.accepted += 1
        self._counters[ACCEPTED] = self.accepted
        return False

    def _begin_segment(self) -> bool:
        """False if there is no room, by the bound or on the disk."""
        now = time.monotonic()
        if now < self._retry_at:
            return False
        self._retry_at = now + _RETRY_SECONDS
        name = SegmentName(time.time_ns() // 1000, self._run.id, uuid4(), OPEN)
        path = name.path(self._directory)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                reserve(fd, self._segment_bytes)
                # Taken first, counted second: two workers that do so at once see each other's, and may both step back,
                # but never both stay over the bound. A lock would let a stopped process stop all others.
                kept_bytes = look(self._directory).segment_bytes
                if kept_bytes > self._bytes_max:
                    raise _SpoolFull(f"{kept_bytes - self._segment_bytes} of {self._bytes_max} bytes are taken")
                mapped = mmap.mmap(fd, self._segment_bytes)
                # Without it the first touch of a page reads ahead, which for blocks never written means zeroing up to
                # megabytes at once: stalls of over 1 ms, against 20 us for a page at a time.
                mapped.madvise(mmap.MADV_RANDOM)
                header = SegmentHeader(
                    name.segment_id, name.run_id, self._worker, name.created_us, self.accepted, self.dropped
                )
                # The last step that may fail: a file without a header is none, also where it can't be removed. With one it
                # would be taken for a segment whose records are lost.
                os.pwrite(fd, header.pack(), 0)
            except (OSError, _SpoolFull):
                path.unlink(missing_ok=True)
                raise
            finally:
                _close(fd)  # the mapping has its own
        except (OSError, _SpoolFull) as error:
            _log.error("usage_spool_full", extra={"fields": {"worker": self._worker, "reason": str(error)}})
            return False
        self._retry_at = 0.0
        self._name, self._map = name, mapped
        self._before = (self.accepted, self.dropped)
        self._at = HEADER_BYTES
        self._end = self._segment_bytes
        return True

    def _finish_segment(self) -> None:
        """The current segment, if there is one, becomes the shipper's; an empty one is removed."""
        if self._name is None or not isinstance(self._map, mmap.mmap):
            return
        records = self.accepted - self.dropped - (self._before[0] - self._before[1])
        used_bytes = self._at
        place, seal = pack_seal(records, used_bytes)
        self._map[place : place + len(seal)] = seal
        self._map.close()
        path = self._name.path(self._directory)
        try:
            if records:
                self._taken = path.with_suffix(SEALED)
                os.rename(path, self._taken)
            else:
                path.unlink()
        except OSError as error:  # the records are safe where they are, and are shipped when this process has ended
            _log.error("usage_segment_not_sealed", extra={"fields": {"segment": path.name, "reason": str(error)}})
        self._bytes_before += used_bytes - HEADER_BYTES
        self._name, self._map = None, bytearray()
        self._at = self._end = 0

    @property
    def bytes(self) -> int:
        """What has been appended in this run, framing included."""
        return self._bytes_before + max(0, self._at - HEADER_BYTES)


class _SpoolFull(Exception):
    pass


def _close(fd: int) -> None:
    """Linux lets go of a descriptor also where it says EIO, and what is in the page cache stays there."""
    try:
        os.close(fd)
    except OSError as error:
        _log.warning("usage_spool_close_failed", extra={"fields": {"reason": str(error)}})
