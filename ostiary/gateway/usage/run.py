"""A run: one life of one worker, as its spool sees it.

Its file holds the worker's own counts, in memory that outlives the process, and a lock that the kernel lets go when the
process ends however it ends. The counts are what `ostiary usage reconcile` holds the delivered rows against; the lock is how
the shipper knows that nobody writes to a segment any more."""

from __future__ import annotations

import fcntl
import mmap
import os
import time
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from uuid import UUID, uuid4
from zlib import crc32

from ostiary.gateway.usage.segment import DamagedFile, reserve

RUN_SUFFIX = ".run"
NEW_SUFFIX = ".new"

_BYTES = 4096
_MAGIC = b"OSTRUN\r\n"
_VERSION = 1
_HEADER = Struct("<8sI16sq64s")
_CRC = Struct("<I")
_COUNTERS_AT = 2048
_COUNTERS = Struct("=QQQ")

ACCEPTED, DROPPED, CLOSED = range(3)


@dataclass(frozen=True, slots=True)
class RunState:
    """What a run's file says. `accepted` counts every call handed to the spool, those `dropped` included; `closed` says that
    the worker ended in good order, so the counts are exact. A run that was killed may have stored or dropped one record
    more than it counted."""

    run_id: UUID
    worker: str
    started_us: int
    accepted: int
    dropped: int
    closed: bool


class Run:
    """A worker's hold on its run file. `counters` (accepted, dropped, closed) are the file's bytes themselves."""

    __slots__ = ("_fd", "_map", "counters", "id", "path")

    def __init__(self, directory: Path, worker: str) -> None:
        """Raises OSError. The file gets its name when it is locked and whole: nobody sees an unlocked run that lives."""
        self.id = uuid4()
        self.path = directory / f"{self.id.hex}{RUN_SUFFIX}"
        new = self.path.with_suffix(NEW_SUFFIX)
        self._fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            reserve(self._fd, _BYTES)
            header = _HEADER.pack(_MAGIC, _VERSION, self.id.bytes, time.time_ns() // 1000, worker.encode()[:64])
            os.pwrite(self._fd, header + _CRC.pack(crc32(header)), 0)
            self._map = mmap.mmap(self._fd, _BYTES)
            os.rename(new, self.path)
        except OSError:
            os.close(self._fd)
            new.unlink(missing_ok=True)
            raise
        self.counters = memoryview(self._map)[_COUNTERS_AT : _COUNTERS_AT + _COUNTERS.size].cast("Q")

    def close(self) -> None:
        """Says that the counts are final, and lets the lock go."""
        self.counters[CLOSED] = 1
        self.counters.release()
        self._map.close()  # it holds the file open as well, and with it the lock
        try:
            os.close(self._fd)
        except OSError:  # of a failing disk; Linux has let it go all the same, and the counts are in the page cache
            pass


def read_run(path: Path) -> RunState:
    """Raises DamagedFile, and OSError from reading."""
    data = path.read_bytes()
    if len(data) < _BYTES:
        raise DamagedFile(f"{len(data)} bytes are too few for a run file")
    magic, version, run_id, started_us, worker = _HEADER.unpack_from(data)
    if magic != _MAGIC or _CRC.unpack_from(data, _HEADER.size)[0] != crc32(data[: _HEADER.size]):
        raise DamagedFile("its header is not that of a run file")
    if version != _VERSION:
        raise DamagedFile(f"it is of version {version}, and this Ostiary reads version {_VERSION}")
    accepted, dropped, closed = _COUNTERS.unpack_from(data, _COUNTERS_AT)
    name = worker.rstrip(b"\0").decode("utf-8", "replace")
    return RunState(UUID(bytes=run_id), name, started_us, accepted, dropped, closed == 1)


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
