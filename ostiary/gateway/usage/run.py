"""A run: one life of one worker, as its spool sees it.

Its file holds the worker's own counts and the calls that are under way, in memory that outlives the process, and a lock that
the kernel lets go when the process ends however it ends. The counts are what `ostiary usage reconcile` holds the delivered
rows against; the lock is how the shipper knows that nobody writes to a segment any more."""

from __future__ import annotations

import fcntl
import mmap
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import Final
from uuid import UUID, uuid4
from zlib import crc32

from ostiary.gateway.usage.segment import DamagedFile, reserve
from ostiary.gateway.usage.under_way import TABLE_AT, TABLE_BYTES, CallsUnderWay

RUN_SUFFIX = ".run"
NEW_SUFFIX = ".new"

_BYTES = TABLE_AT  # of the counts; the table of calls under way comes after them
_MAGIC = b"OSTRUN\r\n"
_VERSION = 1
_HEADER = Struct("<8sI16sq64s")
_CRC = Struct("<I")
_BOOT_AT = 1024
_BOOT_BYTES = 36
_COUNTERS_AT = 2048
_COUNTERS = Struct("=QQQQ")
_RESCUED_AT = _COUNTERS_AT + 24

ACCEPTED: Final = 0
DROPPED: Final = 1
CLOSED: Final = 2
RESCUED: Final = 3


@dataclass(frozen=True, slots=True)
class RunState:
    """What a run's file says. `accepted` counts every call handed to the spool, those `dropped` included, and those that
    were `rescued`: under way when it was killed, and put into a segment since (None: nobody has looked). `closed` says
    that the worker ended in good order, so the counts are exact. A run that was killed may have stored or dropped one
    record more than it counted."""

    run_id: UUID
    worker: str
    started_us: int
    accepted: int
    dropped: int
    closed: bool
    rescued: int | None = None

    @property
    def stored(self) -> int:
        """How many records its worker has stored, in all its segments."""
        return self.accepted - self.dropped - (self.rescued or 0)


class Run:
    """A worker's hold on its run file. `counters` (accepted, dropped, closed, rescued) are the file's bytes themselves, and
    so are the calls `under_way`."""

    __slots__ = ("_fd", "_map", "counters", "id", "path", "under_way")

    def __init__(self, directory: Path, worker: str) -> None:
        """Raises OSError. The file gets its name when it is locked and whole: nobody sees an unlocked run that lives."""
        self.id = uuid4()
        self.path = directory / f"{self.id.hex}{RUN_SUFFIX}"
        new = self.path.with_suffix(NEW_SUFFIX)
        self._fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            reserve(self._fd, _BYTES + TABLE_BYTES)
            header = _HEADER.pack(_MAGIC, _VERSION, self.id.bytes, time.time_ns() // 1000, worker.encode()[:64])
            os.pwrite(self._fd, header + _CRC.pack(crc32(header)), 0)
            os.pwrite(self._fd, boot_id(), _BOOT_AT)
            self._map = mmap.mmap(self._fd, _BYTES + TABLE_BYTES)
            self._map.madvise(mmap.MADV_RANDOM)  # as of a segment: a page at a time
            os.rename(new, self.path)
        except OSError:
            os.close(self._fd)
            new.unlink(missing_ok=True)
            raise
        self.counters = memoryview(self._map)[_COUNTERS_AT : _COUNTERS_AT + _COUNTERS.size].cast("Q")
        self.under_way = CallsUnderWay(self._map)

    def close(self) -> None:
        """Says that the counts are final, and lets the lock go."""
        self.counters[CLOSED] = 1
        self.counters.release()
        self.under_way.end()
        self._map.close()  # it holds the file open as well, and with it the lock
        try:
            os.close(self._fd)
        except OSError:  # of a failing disk; Linux has let it go all the same, and the counts are in the page cache
            pass


def read_run(path: Path) -> RunState:
    """Raises DamagedFile, and OSError from reading."""
    with path.open("rb") as file:
        data = file.read(_BYTES)
    if len(data) < _BYTES:
        raise DamagedFile(f"{len(data)} bytes are too few for a run file")
    magic, version, run_id, started_us, worker = _HEADER.unpack_from(data)
    if magic != _MAGIC or _CRC.unpack_from(data, _HEADER.size)[0] != crc32(data[: _HEADER.size]):
        raise DamagedFile("its header is not that of a run file")
    if version != _VERSION:
        raise DamagedFile(f"it is of version {version}, and this Ostiary reads version {_VERSION}")
    accepted, dropped, closed, told = _COUNTERS.unpack_from(data, _COUNTERS_AT)
    rescued = told - 1 if told else None
    name = worker.rstrip(b"\0").decode("utf-8", "replace")
    return RunState(UUID(bytes=run_id), name, started_us, accepted + (rescued or 0), dropped, closed == 1, rescued)


def boot_id() -> bytes:
    """Which life of this machine it is; empty where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()[:_BOOT_BYTES]
    except OSError:
        return b""


def is_of_this_boot(path: Path) -> bool:
    """Was the run of this life of the machine? Of another, its file is what the disk had of it. Raises OSError."""
    with path.open("rb") as file:
        file.seek(_BOOT_AT)
        return file.read(_BOOT_BYTES).rstrip(b"\0") == boot_id()


def write_rescued(path: Path, count: int) -> None:
    """Says of a run that is over how many of its calls were rescued. Raises OSError."""
    with path.open("r+b") as file:
        file.seek(_RESCUED_AT)
        file.write((count + 1).to_bytes(8, sys.byteorder))


def is_alive(path: Path) -> bool:
    """Does the process of this run still live? A shared lock, so that two who ask don't take each other for the worker."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
