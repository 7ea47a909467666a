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
from typing import Final, NamedTuple
from uuid import uuid4
from zlib import crc32

from ostiary.core.usage import SpoolSettings, WhenFull
from ostiary.gateway.usage.directory import OPEN, SEALED, SegmentName, look, spool_id
from ostiary.gateway.usage.run import ACCEPTED, DROPPED, Run
from ostiary.gateway.usage.segment import (
    CRC_SHIFT,
    FRAME_BYTES,
    HEADER_BYTES,
    LENGTH_SHIFT,
    MAGIC_BYTES,
    RECORD_BYTES_MAX,
    SegmentHeader,
    pack_seal,
    reserve,
)
from ostiary.gateway.usage.sync import FollowedSegment, SegmentSync
from ostiary.gateway.usage.under_way import NO_SLOT

# 4 MiB are about 11 000 records: a tenth of a second's work for the shipper. Reserving them takes the loop 0.2 ms (to 0.9 ms
# on a busy disk), a few times a second at most. What a finished segment did not use is not given back: cutting the file costs
# the loop more than making it did, and the shipper deletes it within a second anyway, or it was full.
SEGMENT_BYTES: Final = 4 * 1024 * 1024
_SEGMENT_BYTES_MIN = HEADER_BYTES + 4 * RECORD_BYTES_MAX

# While the spool is at its bound, how often a worker looks whether there is room again. Looking lists the directory, which
# no call should pay for; a quarter of a second of drops is counted either way.
_RETRY_SECONDS = 0.25

# What is kept for the record of a call under way (`block`): as much as the longest takes that a segment holds, so that no
# record can be too long for its claim. A usual one takes a fortieth of it, and gives the rest back.
CLAIM_BYTES: Final = RECORD_BYTES_MAX + 2 * FRAME_BYTES

_log: Final = logging.getLogger("ostiary.gateway.usage")
# Names of other modules are look-ups for each record, once compiled; constants are none.
_checksum: Final = crc32
_CRC_SHIFT: Final = CRC_SHIFT
_LENGTH_SHIFT: Final = LENGTH_SHIFT


class SpoolError(Exception):
    """The spool can't be used; the message names the mistake and the mend."""


class _Made(NamedTuple):
    """A file whose blocks are there, and nothing in it yet. `fd` is -1 where nobody writes it to the disk."""

    name: SegmentName
    map: mmap.mmap
    fd: int


class Spool:
    """One worker's end of the spool. For one thread.

    `accepted` counts every record given to `append`, `dropped` those of them that found no room; both stand in the run's
    file as well, and outlive the process. accepted = records in segments + dropped, at every moment, give or take the one
    record that a kill may catch half-way.

    With `blocks`, a call has a `claim` before it begins: room for its record, in the segment in use or in spare ones, is kept
    until its `release`. So whatever becomes of disk and bound meanwhile, its record is stored. The bound is kept by not
    letting calls in; what replaces a segment that is handed over may pass it."""

    __slots__ = (
        "_at",
        "_before",
        "_bytes_before",
        "_bytes_max",
        "_claimed_bytes",
        "_counters",
        "_directory",
        "_end",
        "_followed",
        "_frames",
        "_map",
        "_name",
        "_retry_at",
        "_run",
        "_segment_bytes",
        "_spare_bytes",
        "_spares",
        "_taken",
        "_told",
        "_worker",
        "accepted",
        "blocked",
        "blocks",
        "dropped",
        "full",
        "sync",
    )

    def __init__(
        self,
        *,
        directory: Path,
        worker: str,
        segment_bytes: int = SEGMENT_BYTES,
        bytes_max: int,
        settings: SpoolSettings | None = None,
    ) -> None:
        """Makes `directory` (0700) if it is not there. `bytes_max` bounds the segments of all workers of the directory
        together. Raises SpoolError."""
        settings = SpoolSettings() if settings is None else settings
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
        self.blocks = settings.when_full is WhenFull.BLOCK
        self.blocked = 0  # claims that were refused
        self.full = False  # the last try to have another segment failed
        self.sync: SegmentSync | None = None
        self._told = (0, 0)  # dropped, blocked when it became full
        self._claimed_bytes = 0
        self._spares: list[_Made] = []
        self._spare_bytes = 0  # what claims may count on in them
        self._followed: FollowedSegment | None = None
        self._bytes_before = 0  # appended in segments already finished
        self._before = (0, 0)  # accepted, dropped when the segment was begun
        self._retry_at = 0.0
        self._taken: Path | None = None  # the last sealed segment: while it is there, the shipper is behind
        self._name: SegmentName | None = None
        self._map: mmap.mmap | bytearray = bytearray()
        self._frames: memoryview[int] = memoryview(b"").cast("Q")  # the same, by eight bytes
        self._at = self._end = 0
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            spool_id(directory)
            self._run = Run(directory, worker)
            if settings.sync_seconds is not None:
                self.sync = SegmentSync(directory=directory, run=self._run.path, every_seconds=settings.sync_seconds)
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
        # The order is the guarantee: the payload, then the frame (segment.py says why).
        self._map[start:end] = record
        self._frames[at >> 3] = (_checksum(record) << _CRC_SHIFT) | ((end - at) << _LENGTH_SHIFT)
        self._at = (end + 7) & -8
        self.accepted = accepted = self.accepted + 1
        self._counters[ACCEPTED] = accepted
        return True

    def open(self, begun: bytes, request_id_bytes: int, occurred_at: float, overage: bool) -> int:
        """Notes a call that is about to go upstream, for the case that this process is killed (`under_way`). Returns its
        slot, for `append_ended`. Never raises. About 0.4 us with that."""
        return self._run.under_way.open(begun, request_id_bytes, occurred_at, overage) if self._end >= 0 else NO_SLOT

    def append_ended(self, record: bytes, slot: int) -> bool:
        """`append`, of the call of this slot."""
        if self._end < 0:
            return self.append(record)
        under_way = self._run.under_way
        under_way.ends(slot, self.accepted + 1)
        taken = self.append(record)
        under_way.close(slot)
        return taken

    def claim(self) -> bool:
        """Keeps room for the record of a call that begins. False: there is none, and the call must not be served; it is
        counted in `blocked`. Never raises. Some 0.2 us."""
        claimed = self._claimed_bytes + CLAIM_BYTES
        # What is left at the end of a segment, too short for the next record, is less than a claim: it is not counted on.
        short = claimed + CLAIM_BYTES > self._end - self._at + self._spare_bytes
        if (short or (self.sync is not None and self.sync.failing)) and not self._may_claim(claimed):
            self.blocked += 1
            return False
        self._claimed_bytes = claimed
        return True

    def release(self) -> None:
        """Gives up a claim: right before the call's record is appended, or where it has none."""
        self._claimed_bytes -= CLAIM_BYTES

    def seal(self) -> None:
        """Hands the current segment to the shipper, if it holds anything; to be called a few times a second.

        While the shipper has not yet taken the one before, the segment is kept and goes on filling: with Postgres away the
        spool has a few full segments instead of thousands of small ones."""
        if self._end < 0:
            return
        failed = self._followed is not None and self._followed.failed
        if self.full:
            self._look_for_room()
        if failed:
            # What it holds is in the page cache alone, and will stay there: to be delivered now, not written once more.
            self._hand_over()
            return
        if self._at == HEADER_BYTES:
            return
        # Of the two `exists` the one that raises nothing: on a disk that answers EIO, sealing goes on.
        if self._taken is not None and os.path.exists(self._taken):
            return
        self._hand_over()

    def close(self) -> None:
        """Hands everything to the shipper and ends the run. Nothing may be appended afterwards: it would be refused and
        counted nowhere that lasts."""
        if self._end < 0:
            return
        self._finish_segment()
        for spare in self._spares:
            self._unmake(spare)
        self._spares.clear()
        self._spare_bytes = 0
        if self.sync is not None:
            self.sync.close()
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

    # --- room

    def _may_claim(self, claimed_bytes: int) -> bool:
        if self._end < 0 or (self.sync is not None and self.sync.failing):
            return False
        while claimed_bytes + CLAIM_BYTES > self._end - self._at + self._spare_bytes:
            if not self._add_spare():
                return False
        return True

    def _add_spare(self, *, over: bool = False) -> bool:
        made = self._make_segment(over=over)
        if made is None:
            return False
        self._spares.append(made)
        self._spare_bytes += self._spare_room()
        return True

    def _spare_room(self) -> int:
        return self._segment_bytes - HEADER_BYTES - CLAIM_BYTES

    def _look_for_room(self) -> None:
        """So that the end of a shortage shows, whether or not a call comes."""
        if self.blocks:
            if not self._spares:
                self._add_spare()
        elif self._name is None:
            self._begin_segment()

    def _hand_over(self) -> None:
        """Another segment in the place of the current one. Claims count on the room in that, so there must be as much
        elsewhere first: beyond the bound, if need be. For when all that the bound allows is in segments that are being
        written, no shipper could ever take one."""
        while self.blocks and (not self._spares or self._claimed_bytes > self._spare_bytes):
            if not self._add_spare(over=True):
                if self._claimed_bytes:
                    return
                break
        self._finish_segment()
        self._begin_segment()

    # --- segments

    def _begin_segment(self) -> bool:
        """False if there is no room, by the bound or on the disk."""
        if self._spares:
            made: _Made | None = self._spares.pop(0)
            self._spare_bytes -= self._spare_room()
        else:
            made = self._make_segment()
        if made is None:
            return False
        name, mapped = made.name, made.map
        header = SegmentHeader(
            name.segment_id, name.run_id, self._worker, name.created_us, self.accepted, self.dropped
        ).pack()
        mapped[MAGIC_BYTES : len(header)] = header[MAGIC_BYTES:]
        mapped[:MAGIC_BYTES] = header[:MAGIC_BYTES]
        self._name, self._map = name, mapped
        self._frames = memoryview(mapped).cast("Q")
        self._followed = self.sync.follow(made.fd) if self.sync is not None else None
        self._before = (self.accepted, self.dropped)
        self._at = HEADER_BYTES
        self._end = self._segment_bytes
        return True

    def _make_segment(self, *, over: bool = False) -> _Made | None:
        """A file with its blocks, and without a header: nobody takes it for a segment that has lost its records. None if
        there is no room; `over` says that the bound does not matter."""
        now = time.monotonic()
        if now < self._retry_at and not over:
            return None
        self._retry_at = now + _RETRY_SECONDS
        name = SegmentName(time.time_ns() // 1000, self._run.id, uuid4(), OPEN)
        path = name.path(self._directory)
        keep_fd = False
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                reserve(fd, self._segment_bytes)
                # Taken first, counted second: two workers that do so at once see each other's, and may both step back,
                # but never both stay over the bound. A lock would let a stopped process stop all others.
                kept_bytes = look(self._directory).segment_bytes
                if kept_bytes > self._bytes_max and not over:
                    raise _SpoolFull(f"{kept_bytes - self._segment_bytes} of {self._bytes_max} bytes are taken")
                mapped = mmap.mmap(fd, self._segment_bytes)
                # Without it the first touch of a page reads ahead, which for blocks never written means zeroing up to
                # megabytes at once: stalls of over 1 ms, against 20 us for a page at a time.
                mapped.madvise(mmap.MADV_RANDOM)
                keep_fd = self.sync is not None
            except (OSError, _SpoolFull):
                path.unlink(missing_ok=True)
                raise
            finally:
                if not keep_fd:
                    _close(fd)  # the mapping has its own
        except (OSError, _SpoolFull) as error:
            self._tell_full(str(error))
            return None
        self._retry_at = 0.0
        self._tell_room()
        return _Made(name, mapped, fd if keep_fd else -1)

    def _unmake(self, made: _Made) -> None:
        made.map.close()
        if made.fd >= 0:
            _close(made.fd)
        try:
            made.name.path(self._directory).unlink()
        except OSError as error:  # it has no header: the shipper removes it when this process has ended
            _log.error(
                "usage_segment_not_sealed",
                extra={"fields": {"segment": str(made.name.segment_id), "reason": str(error)}},
            )

    def _finish_segment(self) -> None:
        """The current segment, if there is one, becomes the shipper's; an empty one is removed."""
        if self._name is None or not isinstance(self._map, mmap.mmap):
            return
        records = self.accepted - self.dropped - (self._before[0] - self._before[1])
        used_bytes = self._at
        place, seal = pack_seal(records, used_bytes)
        self._map[place : place + len(seal)] = seal
        self._frames.release()
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
        if self._followed is not None:
            self._followed.finished = True
            self._followed = None
        self._bytes_before += used_bytes - HEADER_BYTES
        self._name, self._map = None, bytearray()
        self._at = self._end = 0

    # --- what is told of it

    def _tell_full(self, reason: str) -> None:
        if self.full:
            return
        self.full = True
        self._told = (self.dropped, self.blocked)
        _log.error("usage_spool_full", extra={"fields": {"worker": self._worker, "reason": reason}})

    def _tell_room(self) -> None:
        if not self.full:
            return
        self.full = False
        dropped, blocked = self._told
        fields = {"worker": self._worker, "dropped": self.dropped - dropped, "blocked": self.blocked - blocked}
        _log.warning("usage_spool_has_room", extra={"fields": fields})

    def status(self) -> dict[str, object]:
        """For people: counts of this run, and how it is."""
        sync = self.sync
        return {
            "accepted": self.accepted,
            "dropped": self.dropped,
            "bytes": self.bytes,
            "full": self.full,
            **({"blocked": self.blocked, "claims": self._claimed_bytes // CLAIM_BYTES} if self.blocks else {}),
            **({} if sync is None else {"sync": sync.status()}),
        }

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
