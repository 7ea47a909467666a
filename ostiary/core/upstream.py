"""What is configured of an upstream: its targets, how one is chosen, how long it may take, when it is asked again and when it
is left alone. Frozen values; the gateway makes pools, checks and breakers of them (`gateway/upstreams.py`,
`gateway/resilience`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Balance(StrEnum):
    ROUND_ROBIN = "round_robin"
    LEAST_CONNECTIONS = "least_connections"
    CONSISTENT_HASH = "consistent_hash"


class HashSource(StrEnum):
    """What of a call consistent hashing goes by."""

    KEY = "key"
    IP = "ip"
    HEADER = "header"
    PATH_PARAMETER = "path_parameter"


@dataclass(frozen=True, slots=True)
class TargetTls:
    """How the TLS of an upstream's targets is checked, beyond the defaults: authorities of its own, another name than the
    target's host, a certificate to show. Files, and what stood in them when the configuration was read: a file that changes
    since changes nothing. The key is never shown."""

    ca: str | None = None
    ca_pem: bytes | None = field(default=None, repr=False)
    server_name: str | None = None
    cert: str | None = None
    cert_pem: bytes | None = field(default=None, repr=False)
    key: str | None = None
    key_pem: bytes | None = field(default=None, repr=False)

    @property
    def files(self) -> tuple[str, ...]:
        """What its renewal changes."""
        return tuple(file for file in (self.ca, self.cert, self.key) if file is not None)


UNIX = "unix"  # the scheme of targets that are reached over a unix socket


@dataclass(frozen=True, slots=True)
class Target:
    """One server of an upstream. That of the scheme `unix` has the socket's path as its host, and port 0. `tls` is its
    upstream's."""

    scheme: str
    host: str
    port: int
    weight: int = 1
    tls: TargetTls | None = None

    @property
    def authority(self) -> str:
        """`host[:port]` for the Host header; IPv6 in brackets, the scheme's default port left out (RFC 9110 §7.2). A unix
        socket has no name that a server could know: it is `localhost`, as nginx and curl have it."""
        if self.scheme == UNIX:
            return "localhost"
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = 443 if self.scheme == "https" else 80
        return host if self.port == default else f"{host}:{self.port}"

    @property
    def label(self) -> str:
        """What tells it from others, in logs, metrics and `/status`."""
        return f"unix:{self.host}" if self.scheme == UNIX else self.authority


@dataclass(frozen=True, slots=True)
class Timeouts:
    connect_seconds: float = 2.0
    first_byte_seconds: float = 15.0
    idle_seconds: float = 30.0
    upgrade_idle_seconds: float = 300.0
    whole_seconds: float | None = None  # from the first try to the last byte of the answer


@dataclass(frozen=True, slots=True)
class Retries:
    """`attempts` counts all tries, the first included. `on`: connect, reset, or a 5xx status as text. `budget_share` bounds
    the further tries of all calls together, as a share of these calls."""

    attempts: int = 2
    on: frozenset[str] = frozenset({"connect"})
    budget_share: float = 0.1


@dataclass(frozen=True, slots=True)
class Health:
    """Active checks: GET `path` every `every_seconds`; 2xx and 3xx are healthy."""

    path: str
    every_seconds: float = 5.0
    unhealthy_after: int = 3
    healthy_after: int = 2


@dataclass(frozen=True, slots=True)
class HashBy:
    """What consistent hashing goes by; `name` is that of the header or the path parameter. A key falls back to the address,
    the others to the key."""

    source: HashSource = HashSource.KEY
    name: str = ""


# What went wrong with a target, as `ejection.on` and `breaker.on` name it; a status from 500 to 599 is the others.
TARGET_FAULTS = frozenset({"connect", "reset", "timeout", "protocol"})


@dataclass(frozen=True, slots=True)
class Ejection:
    """Passive checks: `after` failures in a row take a target out for `seconds`, doubled each time it fails again, up to
    `seconds_max`. Statuses are not counted unless named: one may be the service's own word on one call."""

    after: int = 5
    seconds: float = 10.0
    seconds_max: float = 300.0
    on: frozenset[str] = TARGET_FAULTS


@dataclass(frozen=True, slots=True)
class Breaker:
    """Opens when `errors_share` of at least `calls` calls within `window_seconds` failed; after `open_seconds` it lets
    `trials` calls through, and closes when all of them went well."""

    errors_share: float = 0.5
    calls: int = 20
    window_seconds: float = 10.0
    open_seconds: float = 5.0
    trials: int = 3
    on: frozenset[str] = TARGET_FAULTS | {"502", "503", "504"}


@dataclass(frozen=True, slots=True)
class Connections:
    """Of one worker to one target. When all of them are in use, up to `waiting` calls wait for one, for `wait_seconds`."""

    at_most: int = 4096
    waiting: int = 256
    wait_seconds: float = 1.0


@dataclass(frozen=True, slots=True)
class Upstream:
    """While more than `panic_share` of the targets' weight is out, all of them are used."""

    name: str
    targets: tuple[Target, ...]
    balance: Balance = Balance.ROUND_ROBIN
    timeouts: Timeouts = Timeouts()
    retries: Retries = Retries()
    health: Health | None = None
    hash_by: HashBy = HashBy()
    ejection: Ejection | None = Ejection()
    breaker: Breaker | None = None
    connections: Connections = Connections()
    panic_share: float = 0.5
