"""When to read the configuration file again, and which changes a running gateway can take."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ostiary.core.config import ConfigurationError, compose
from ostiary.core.model import Configuration
from ostiary.core.published import RouteVersion

log = logging.getLogger("ostiary.gateway.supervisor")

PROBLEMS_KEPT_MAX = 100  # of one refused file, for /status
PROBLEMS_LOGGED_MAX = 20  # a line of the log is bounded, and would be cut as a whole

_Signature = tuple[int, int, int, int] | None


@dataclass(frozen=True, slots=True)
class ReloadResult:
    """`problems` is empty when the configuration took effect. `generation` is the one in force after it."""

    generation: int
    at: float
    problems: tuple[str, ...] = ()

    def status(self) -> dict[str, object]:
        return {
            "result": "refused" if self.problems else "applied",
            "at": self.at,
            "generation": self.generation,
            "problems": list(self.problems),
        }


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


def certificate_files(configuration: Configuration) -> tuple[str, ...]:
    """What is followed besides the configuration file: a certificate, towards clients or towards targets, a revocation list
    or the keys of an issuer are renewed without touching it."""
    towards_clients = (file for certificate in configuration.gateway.listen.tls for file in certificate.files)
    targets = (target for upstream in configuration.upstreams.values() for target in upstream.targets)
    towards_targets = (file for target in targets if target.tls is not None for file in target.tls.files)
    of_issuers = (file for issuer in configuration.issuers.values() for file in issuer.keys.files)
    return tuple(dict.fromkeys((*towards_clients, *towards_targets, *of_issuers)))


class Refused(Exception):
    """A file that does not take effect; `problems` says why, with file and line where there is one. A change of one of the
    files `followed` may mend it."""

    def __init__(self, problems: tuple[str, ...], followed: tuple[str, ...] = ()) -> None:
        super().__init__(problems)
        self.problems = problems
        self.followed = followed


@dataclass(frozen=True, slots=True)
class RefusedVersion:
    """A published version that can't be taken here, and why. A change of one of the files `followed` may mend it."""

    version: RouteVersion
    problems: tuple[str, ...]
    followed: tuple[str, ...] = ()


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


def complete(host: Configuration, version: RouteVersion | None) -> Configuration:
    """A host's configuration with a published version of the routes. Raises Refused and nothing else."""
    try:
        return compose(host, version)
    except ConfigurationError as error:
        problems = tuple(str(problem) for problem in error.problems[:PROBLEMS_KEPT_MAX])
        raise Refused(problems, error.followed) from error
    except Exception as error:
        log.exception("routes_not_read")
        number = None if version is None else version.number
        raise Refused((f"version {number} of the routes: can't be read: {type(error).__name__}",)) from error


def needs_restart(old: Configuration, new: Configuration) -> tuple[str, ...]:
    """Names of changed fields that a running gateway can't take: its sockets and the stores it is connected to."""
    pairs = (
        ("gateway.listen", old.gateway.listen.socket, new.gateway.listen.socket),
        ("gateway.admin", old.gateway.admin, new.gateway.admin),
        ("gateway.key_stale_for", old.gateway.key_stale_seconds, new.gateway.key_stale_seconds),
        ("stores.redis", old.stores.redis, new.stores.redis),
        ("stores.redis_deadline", old.stores.redis_deadline_seconds, new.stores.redis_deadline_seconds),
        ("stores.postgres", old.stores.postgres, new.stores.postgres),
        ("stores.spool", old.stores.spool, new.stores.spool),
        ("stores.spool_max", old.stores.spool_bytes_max, new.stores.spool_bytes_max),
        ("stores.key_encryption_keys", _that_open(old), _that_open(new)),
        ("stores.state", old.stores.state, new.stores.state),
        ("routes.from", old.published is None, new.published is None),
        ("usage.spool", old.usage.spool, new.usage.spool),
        ("usage.sink", old.usage.sink, new.usage.sink),
    )
    return tuple(name for name, before, after in pairs if before != after)


def _that_open(configuration: Configuration) -> object:
    """Which of them is the current one is the control plane's matter: a gateway wraps nothing."""
    encryption = configuration.stores.key_encryption
    return None if encryption is None else encryption.keys
