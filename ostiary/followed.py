"""Files that are followed: when they have changed and come to rest, and the configuration as it then is."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from ostiary.core.config import ConfigurationError
from ostiary.core.model import Configuration

log = logging.getLogger("ostiary.followed")

PROBLEMS_KEPT_MAX = 100  # of one refused file, for whoever asks how it went

_Signature = tuple[int, int, int, int] | None


class FileWatch:
    """Tells when a file, or one that it names, has changed since it was last read, and has come to rest: a file that an
    editor is writing may be valid and half of what is meant. Asked at a steady pace; a change is told when two questions in a
    row saw the same."""

    def __init__(self, path: Path, also: Iterable[str] = ()) -> None:
        self._files = (str(path), *also)
        self._read = self.signature()
        self._last = self._read

    def follow(self, also: Iterable[str]) -> None:
        """The other files whose change counts from now on. What was read of those that stay is not forgotten: they may have
        changed since."""
        self._files = (self._files[0], *also)
        now = self.signature()
        self._read = {file: self._read.get(file, signature) for file, signature in now.items()}
        self._last = now

    def signature(self) -> dict[str, _Signature]:
        """None for a file that is not there. An editor that replaces the file changes the inode, one that writes in place
        the time and mostly the size."""
        return {file: _signature(file) for file in self._files}

    def mark_read(self) -> None:
        """The files as they are now count as read."""
        self._read = self._last = self.signature()

    def came_to_rest(self) -> bool:
        now = self.signature()
        at_rest = now == self._last
        self._last = now
        return at_rest and now != self._read


def _signature(path: str) -> _Signature:
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


class Refused(Exception):
    """A file that does not take effect; `problems` says why, with file and line where there is one. A change of one of the
    files `followed` may mend it."""

    def __init__(self, problems: tuple[str, ...], followed: tuple[str, ...] = ()) -> None:
        super().__init__(problems)
        self.problems = problems
        self.followed = followed


def read_whole(path: Path, load: Callable[[Path], Configuration], watch: FileWatch) -> Configuration:
    """The configuration in a file that did not change while it was read. Raises Refused and nothing else: a defect of the
    loader must not do what a mistake in the file can't."""
    before = watch.signature()
    try:
        configuration = load(path)
    except ConfigurationError as error:
        problems = tuple(str(problem) for problem in error.problems[:PROBLEMS_KEPT_MAX])
        raise Refused(problems, error.followed) from error
    except Exception as error:
        log.exception("reload_failed")
        raise Refused((f"{path}: can't be read: {type(error).__name__}",)) from error
    if watch.signature() != before:
        raise Refused((f"{path}: it changed while it was being read; the next look takes it as it is then",))
    return configuration
