"""What is known of an issuer's key document, in a file: one attempt to fetch it serves all workers of a node, and what was
fetched outlives a restart while the issuer is away.

    <state>/keys-<issuer>-<hash of the URL>.json    the record; replaced as a whole
    <state>/keys-<issuer>-<hash of the URL>.lock    locked by whoever fetches, until it has written

The keys in it let callers in, so a file that others could have written is not read. All times are Unix seconds: monotonic
ones mean nothing after a restart."""

from __future__ import annotations

import base64
import fcntl
import json
import logging
import os
import stat
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

log: Final = logging.getLogger("ostiary.gateway.tokens")

_VERSION: Final = 1
_RECORD_BYTES_MAX: Final = 512 * 1024  # a document in base64, and some


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """`document` is the last good one and `fetched_at` its time; `attempted_at` is the last attempt and `failure` why that
    failed, None if it did not. Times are 0.0 for never."""

    document: bytes | None = None
    fetched_at: float = 0.0
    attempted_at: float = 0.0
    failure: str | None = None


class Turn:
    """The right to fetch, until `end`."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def end(self) -> None:
        os.close(self._descriptor)


class RecordFile:
    """One issuer's. Where the directory can't be used, each process is by itself: that is told, once, and in /status."""

    def __init__(self, directory: str | None, *, issuer: str, url: str) -> None:
        self._stem = f"keys-{issuer}-{sha256(url.encode()).hexdigest()[:12]}"
        self._directory = None if directory is None else Path(directory)
        self.problem: str | None = None

    def read(self, now: float) -> KeyRecord | None:
        """None if there is none that can be used. What claims to be of the future counts as of now: a clock was set back."""
        if self._directory is None:
            return None
        try:
            with (self._directory / f"{self._stem}.json").open("rb") as file:
                status = os.fstat(file.fileno())
                if status.st_uid not in (os.geteuid(), 0) or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                    self._tell("the file could have been written by others; it is not read")
                    return None
                said = json.loads(file.read(_RECORD_BYTES_MAX))
            if said["version"] != _VERSION:
                return None
            document = said["document"]
            return KeyRecord(
                None if document is None else base64.b64decode(document, validate=True),
                min(float(said["fetched_at"]), now),
                min(float(said["attempted_at"]), now),
                said["failure"],
            )
        except FileNotFoundError:
            return None
        except OSError as error:
            self._tell(f"can't be read: {error.strerror}")
        except (ValueError, KeyError, TypeError):
            self._tell("is damaged; it is written anew")
        return None

    def write(self, record: KeyRecord) -> None:
        if self._directory is None:
            return
        content = {
            "version": _VERSION,
            "fetched_at": record.fetched_at,
            "attempted_at": record.attempted_at,
            "failure": record.failure,
            "document": None if record.document is None else base64.b64encode(record.document).decode(),
        }
        fresh = self._directory / f"{self._stem}.{os.getpid()}.new"
        try:
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
            with os.fdopen(descriptor, "w") as file:
                json.dump(content, file)
            fresh.replace(self._directory / f"{self._stem}.json")
            self.problem = None
        except OSError as error:
            self._tell(f"can't be written: {error.strerror}")

    def take_turn(self) -> Turn | None:
        """None while another process has it. Where there can be no file everyone has a turn."""
        if self._directory is None:
            return Turn(os.open(os.devnull, os.O_RDONLY))
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(self._directory / f"{self._stem}.lock", flags, 0o600)
        except OSError as error:
            self._tell(f"can't be written: {error.strerror}")
            return Turn(os.open(os.devnull, os.O_RDONLY))
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return None
        return Turn(descriptor)

    def _tell(self, problem: str) -> None:
        if problem != self.problem:
            self.problem = problem
            log.warning(
                "issuer_keys_file",
                extra={"fields": {"directory": str(self._directory), "file": self._stem, "problem": problem}},
            )
