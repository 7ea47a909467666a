"""Has segments written to the disk every so often, from a thread of its own: no call and no event loop waits for a disk.

A record is in the page cache when `Spool.append` returns, so it outlives every process. What this adds is about a loss of
power: what was appended before the last pass began is on the disk. An error is never taken back: what the kernel could not
write it has forgotten to write, and the next fdatasync of the same file says that all is well. So a segment that failed once
is not asked again; the spool hands it to the shipper, which reads it from the page cache, and goes on with another file."""

from __future__ import annotations

import logging
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# At the end of a worker: a disk that takes longer is not waited for. The shipper has the segments all the same.
CLOSE_SECONDS: Final = 5.0

_log = logging.getLogger("ostiary.gateway.usage")
# Contents, and what is needed to find them; macOS has only the one that writes the times as well.
_to_disk = getattr(os, "fdatasync", os.fsync)


@dataclass(slots=True, eq=False)
class FollowedSegment:
    """A segment's file, whose descriptor is the thread's. `finished`: nothing more will be appended. `failed`: it may have
    lost what it holds, should the power fail."""

    fd: int
    finished: bool = False
    failed: bool = False
    known: bool = False  # its name is on the disk


class SegmentSync:
    """`failing` from a pass in which something could not be written until one in which a segment was, and nothing failed."""

    def __init__(self, *, directory: Path, run: Path, every_seconds: float) -> None:
        """`run` is the file of the worker's counts. Raises OSError."""
        self.every_seconds = every_seconds
        self.failures = 0
        self.failing = False
        self._synced_at = time.monotonic()
        self._lock = threading.Lock()  # of the list alone: nobody waits for the disk under it
        self._followed: list[FollowedSegment] = []
        self._directory_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._run_fd = os.open(run, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            os.close(self._directory_fd)
            raise
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="usage-sync", daemon=True)
        self._thread.start()

    def follow(self, fd: int) -> FollowedSegment:
        """From now on; `fd` is closed when it is finished and on the disk."""
        segment = FollowedSegment(fd)
        with self._lock:
            self._followed.append(segment)
        return segment

    def status(self) -> dict[str, object]:
        """`unsynced_seconds` is how old the oldest record may be that a loss of power would take now."""
        return {
            "failing": self.failing,
            "failures": self.failures,
            "unsynced_seconds": round(time.monotonic() - self._synced_at, 1),
        }

    def close(self) -> None:
        """A last pass, for which it waits CLOSE_SECONDS at most."""
        self._stop.set()
        self._thread.join(CLOSE_SECONDS)

    def _work(self) -> None:
        while not self._stop.wait(self.every_seconds):
            self.write()
        self.write()
        os.close(self._run_fd)
        os.close(self._directory_fd)

    def write(self) -> None:
        """One pass. For the thread, or in the place of it."""
        began = time.monotonic()
        with self._lock:
            followed = list(self._followed)
        errors: list[OSError] = []
        written = 0
        for segment in followed:
            finished = segment.finished  # first: what comes after this is of the next pass
            try:
                written += self._write_segment(segment)
            except OSError as error:
                segment.failed = True
                errors.append(error)
            if finished or segment.failed:
                with self._lock:
                    self._followed.remove(segment)
                _close(segment.fd)
        try:
            # After the segments: records that are on the disk and not counted would look like a surplus.
            _to_disk(self._run_fd)
        except OSError as error:
            errors.append(error)
        self._tell(errors, written)
        if not self.failing:
            self._synced_at = began

    def _write_segment(self, segment: FollowedSegment) -> bool:
        if os.fstat(segment.fd).st_nlink == 0:  # delivered meanwhile
            return False
        _to_disk(segment.fd)
        if not segment.known:
            os.fsync(self._directory_fd)
            segment.known = True
        return True

    def _tell(self, errors: list[OSError], written: int) -> None:
        self.failures += len(errors)
        if errors and not self.failing:
            self.failing = True
            _log.error("usage_spool_sync_failed", extra={"fields": {"reason": str(errors[0])}})
        elif self.failing and written and not errors:
            self.failing = False
            _log.warning("usage_spool_synced_again", extra={"fields": {"failures": self.failures}})


def _close(fd: int) -> None:
    try:
        os.close(fd)
    except OSError as error:
        _log.warning("usage_spool_close_failed", extra={"fields": {"reason": str(error)}})
