"""The spool's directory: which segments and runs are there, what they weigh, and whose spool it is.

    <created us>.<run id>.<segment id>.open        being written, or left behind by a worker that was killed
                                      .sealed      finished: the shipper may take it
                                      .quarantine  damaged; kept for a person to look at
    <run id>.run                                   counts and lock of one life of one worker
    spool.id  shipper.lock

Names sort by time."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

from ostiary.gateway.usage.run import NEW_SUFFIX, RUN_SUFFIX, is_alive

OPEN = ".open"
SEALED = ".sealed"
QUARANTINE = ".quarantine"
LOCK_NAME = "shipper.lock"
_ID_NAME = "spool.id"

# Making such a file takes less than a millisecond; one this old will not be finished.
_LEFTOVER_SECONDS = 60.0


@dataclass(frozen=True, slots=True, order=True)
class SegmentName:
    """What a segment file's name says."""

    created_us: int
    run_id: UUID
    segment_id: UUID
    state: str

    def path(self, directory: Path) -> Path:
        return directory / f"{self.created_us:016d}.{self.run_id.hex}.{self.segment_id.hex}{self.state}"

    @classmethod
    def parse(cls, name: str) -> SegmentName | None:
        """None for a file that is no segment."""
        parts = name.split(".")
        if len(parts) != 4 or "." + parts[3] not in (OPEN, SEALED, QUARANTINE):
            return None
        try:
            return cls(int(parts[0]), UUID(parts[1]), UUID(parts[2]), "." + parts[3])
        except ValueError:
            return None


@dataclass(frozen=True, slots=True)
class Contents:
    """A spool directory at one moment: segments oldest first, runs by id, and the bytes of all segments."""

    segments: list[SegmentName]
    runs: dict[UUID, Path]
    segment_bytes: int


def look(directory: Path) -> Contents:
    """Raises OSError if the directory can't be read. A file that goes while it is looked at is left out."""
    segments: list[SegmentName] = []
    runs: dict[UUID, Path] = {}
    segment_bytes = 0
    with os.scandir(directory) as entries:
        for entry in entries:
            if (segment := SegmentName.parse(entry.name)) is not None:
                try:
                    segment_bytes += entry.stat().st_size
                except FileNotFoundError:
                    continue
                segments.append(segment)
            elif entry.name.endswith(RUN_SUFFIX):
                try:
                    runs[UUID(entry.name.removesuffix(RUN_SUFFIX))] = Path(entry.path)
                except ValueError:
                    continue
    segments.sort()
    return Contents(segments, runs, segment_bytes)


def clear_leftovers(directory: Path) -> None:
    """Removes what a process left that was killed while it made a run's file or the spool's id: nothing was counted there
    yet. Raises OSError if the directory can't be read."""
    oldest = time.time() - _LEFTOVER_SECONDS
    for path in directory.iterdir():
        if path.suffix == NEW_SUFFIX or path.name.startswith(f"{_ID_NAME}."):
            try:
                if path.stat().st_mtime < oldest and not is_alive(path):
                    path.unlink()
            except FileNotFoundError:
                continue


def known_spool_id(directory: Path) -> UUID | None:
    """Whose spool this is, if anyone has used it. Raises OSError, and ValueError if its file holds no UUID."""
    try:
        return UUID((directory / _ID_NAME).read_text(encoding="ascii").strip())
    except FileNotFoundError:
        return None


def spool_id(directory: Path) -> UUID:
    """Whose spool this is: settled once, by whoever asks first. Raises as `known_spool_id`."""
    if (known := known_spool_id(directory)) is not None:
        return known
    new = directory / f"{_ID_NAME}.{uuid4().hex}"
    new.write_text(f"{uuid4()}\n", encoding="ascii")
    try:
        os.link(new, directory / _ID_NAME)  # fails if another was quicker: then theirs is the id
    except FileExistsError:
        pass
    finally:
        new.unlink()
    settled = known_spool_id(directory)
    if settled is None:
        raise FileNotFoundError(directory / _ID_NAME)
    return settled
