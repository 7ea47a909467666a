"""When to read the configuration file again, and which changes a running gateway can take."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from ostiary.core.config import ConfigurationError, compose
from ostiary.core.model import Configuration
from ostiary.core.published import RouteVersion
from ostiary.followed import PROBLEMS_KEPT_MAX, Refused

log = logging.getLogger("ostiary.gateway.supervisor")

PROBLEMS_LOGGED_MAX = 20  # a line of the log is bounded, and would be cut as a whole


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


def certificate_files(configuration: Configuration) -> tuple[str, ...]:
    """What is followed besides the configuration file: a certificate, towards clients or towards targets, a revocation list
    or the keys of an issuer are renewed without touching it."""
    towards_clients = (file for certificate in configuration.gateway.listen.tls for file in certificate.files)
    targets = (target for upstream in configuration.upstreams.values() for target in upstream.targets)
    towards_targets = (file for target in targets if target.tls is not None for file in target.tls.files)
    of_issuers = (file for issuer in configuration.issuers.values() for file in issuer.keys.files)
    return tuple(dict.fromkeys((*towards_clients, *towards_targets, *of_issuers)))


@dataclass(frozen=True, slots=True)
class RefusedVersion:
    """A published version that can't be taken here, and why. A change of one of the files `followed` may mend it."""

    version: RouteVersion
    problems: tuple[str, ...]
    followed: tuple[str, ...] = ()


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
