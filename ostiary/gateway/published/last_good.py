"""The last good snapshot: the version of the routes that this node ran last, in a file, for a start while Postgres is away.

    <state>/routes.snapshot     the SHA-256 of what follows; one line of JSON; the document as it was published

The document has references in it (`${NAME}`, names of files) and not what they stand for: there are no secrets on this disk.
It decides who may call what, so a file that others could have written is not read, and neither is one that is damaged: the
checksum is of all of it."""

from __future__ import annotations

import json
import os
import stat
import time
from hashlib import sha256
from pathlib import Path
from typing import Final

from ostiary.core.published import DOCUMENT_BYTES_MAX, RouteVersion

_FORMAT: Final = "ostiary routes 1"
_HEAD_BYTES_MAX: Final = 1024
FILE_NAME: Final = "routes.snapshot"


class SnapshotUnusable(Exception):
    """There is a file, and it is not to be believed; the text says why and what to do."""


class LastGood:
    """The snapshot in `directory`; without one nothing is kept. `problem` is why it could not be written last, None if it
    could; `kept` is the number and SHA-256 of what is there, as far as this process knows."""

    def __init__(self, directory: str | None) -> None:
        self.path = None if directory is None else Path(directory) / FILE_NAME
        self.problem: str | None = None
        self.kept: tuple[int, str] | None = None

    def read(self) -> RouteVersion | None:
        """None if there is none. Raises SnapshotUnusable."""
        if self.path is None:
            return None
        try:
            with self.path.open("rb") as file:
                status = os.fstat(file.fileno())
                if status.st_uid not in (os.geteuid(), 0) or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                    raise SnapshotUnusable(
                        f"{self.path} could have been written by others: see who did, then chmod 600 or remove it"
                    )
                content = file.read(DOCUMENT_BYTES_MAX + _HEAD_BYTES_MAX + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SnapshotUnusable(f"{self.path} can't be read: {error.strerror}") from error
        version = _parse(content)
        if version is None:
            raise SnapshotUnusable(
                f"{self.path} is damaged (its checksum does not fit); remove it, and start while Postgres can be reached"
            )
        self.kept = version.number, version.sha256
        return version

    def write(self, version: RouteVersion) -> None:
        """Replaces the file as a whole: whatever happens meanwhile, the one before is there, or this one. Raises OSError."""
        if self.path is None:
            return
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = self.path.with_name(f"{FILE_NAME}.{os.getpid()}.new")
        try:
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(descriptor, 0o600)  # one that was left there may have had another mode
                file.write(_render(version))
                file.flush()
                os.fsync(descriptor)
            fresh.replace(self.path)
        except OSError:
            fresh.unlink(missing_ok=True)
            raise
        _sync_directory(self.path.parent)
        self.kept = version.number, version.sha256


def _render(version: RouteVersion) -> bytes:
    said = {
        "format": _FORMAT,
        "number": version.number,
        "sha256": version.sha256,
        "published_at": version.published_at,
        "saved_at": time.time(),
    }
    rest = json.dumps(said).encode() + b"\n" + version.text.encode()
    return sha256(rest).hexdigest().encode() + b"\n" + rest


def _parse(content: bytes) -> RouteVersion | None:
    check, _, rest = content.partition(b"\n")
    if check != sha256(rest).hexdigest().encode():
        return None
    head, _, text = rest.partition(b"\n")
    try:
        said = json.loads(head)
        if said["format"] != _FORMAT:
            return None
        version = RouteVersion(said["number"], text.decode(), said["sha256"], said["published_at"])
    except (ValueError, KeyError, TypeError):
        return None
    return version if version.intact else None


def _sync_directory(path: Path) -> None:
    """Without it a crash of the machine may bring the name back to the file before (fsync(2))."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
