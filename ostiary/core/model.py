"""The values both planes speak of. Frozen: a request ends under the snapshot it began with.

Units stand in the names (`_seconds`, `_bytes`). Times are Unix seconds, UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network

from ostiary.core.errors import PROBLEM_PAGES

Network = IPv4Network | IPv6Network


class Environment(StrEnum):
    LIVE = "live"
    TEST = "test"


class Scheme(StrEnum):
    """How a caller proves who it is. `ANONYMOUS` lets everyone in, and is only ever chosen by a route."""

    BEARER = "bearer"
    HMAC = "hmac"
    HMAC_BODY = "hmac-body"
    ANONYMOUS = "anonymous"


class StoreFailure(StrEnum):
    """What a route does while Redis can't decide: share of this node, let all in, refuse all."""

    LOCAL = "local"
    OPEN = "open"
    CLOSED = "closed"


class Overage(StrEnum):
    """What happens past a quota: refuse, allow and flag, allow and bill."""

    BLOCK = "block"
    WARN = "warn"
    CHARGE = "charge"


class Priority(StrEnum):
    """Whose calls an overloaded gateway refuses first: those of `low`; of `high` only when nothing else is left."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


class PathPolicy(StrEnum):
    """What a route accepts as a path: refuse what is ambiguous, resolve it once, or pass it as it is."""

    STRICT = "strict"
    NORMALIZE = "normalize"
    RAW = "raw"


class Balance(StrEnum):
    ROUND_ROBIN = "round_robin"
    LEAST_CONNECTIONS = "least_connections"
    CONSISTENT_HASH = "consistent_hash"


class Period(StrEnum):
    """Calendar periods of a quota, in UTC."""

    HOUR = "hour"
    DAY = "day"
    MONTH = "month"


class LimitBy(StrEnum):
    """Whose calls a route's limit counts together."""

    KEY = "key"
    APP = "app"
    ORGANIZATION = "organization"
    ROUTE = "route"
    IP = "ip"


# --- limits ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rate:
    """A token bucket: `burst` at once, refilled with `requests` every `per_seconds`."""

    requests: int
    per_seconds: int
    burst: int


@dataclass(frozen=True, slots=True)
class Window:
    """A sliding window: never more than `requests` in any span of `window_seconds`."""

    requests: int
    window_seconds: int


@dataclass(frozen=True, slots=True)
class Quota:
    """At most `requests` in a calendar period, UTC."""

    requests: int
    period: Period


@dataclass(frozen=True, slots=True)
class RouteLimit:
    """A sliding window of a route, besides the plan of the key; `by` says whose calls are counted together."""

    requests: int
    window_seconds: int
    by: LimitBy


@dataclass(frozen=True, slots=True)
class Plan:
    """All parts given must hold. `concurrency` is calls under way at once, None for no bound."""

    name: str
    rate: Rate | None = None
    windows: tuple[Window, ...] = ()
    quotas: tuple[Quota, ...] = ()
    concurrency: int | None = None
    overage: Overage = Overage.BLOCK


# --- upstreams and routes -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Target:
    """One server of an upstream."""

    scheme: str
    host: str
    port: int
    weight: int = 1

    @property
    def authority(self) -> str:
        """`host[:port]` for the Host header; IPv6 in brackets, the scheme's default port left out (RFC 9110 §7.2)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = 443 if self.scheme == "https" else 80
        return host if self.port == default else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Timeouts:
    connect_seconds: float = 2.0
    first_byte_seconds: float = 15.0
    idle_seconds: float = 30.0


@dataclass(frozen=True, slots=True)
class Retries:
    """`attempts` counts all tries, the first included. `on`: connect, reset, or a 5xx status as text."""

    attempts: int = 2
    on: frozenset[str] = frozenset({"connect"})


@dataclass(frozen=True, slots=True)
class Health:
    """Active checks: GET `path` every `every_seconds`; 2xx and 3xx are healthy."""

    path: str
    every_seconds: float = 5.0
    unhealthy_after: int = 3
    healthy_after: int = 2


@dataclass(frozen=True, slots=True)
class Upstream:
    name: str
    targets: tuple[Target, ...]
    balance: Balance = Balance.ROUND_ROBIN
    timeouts: Timeouts = Timeouts()
    retries: Retries = Retries()
    health: Health | None = None


@dataclass(frozen=True, slots=True)
class Match:
    """What a request must be for the route to take it. Empty `hosts` and `methods` mean any.

    `path` is exact (`/v1/clients`), has parameters (`/v1/clients/{id}`, one segment each) or ends in `/**` (that path and
    everything below it). A host may start with `*.`."""

    path: str
    hosts: tuple[str, ...] = ()
    methods: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Authentication:
    """Schemes a route takes, and the scopes each method needs (all of them; `*` stands for methods not named)."""

    schemes: frozenset[Scheme]
    scopes: Mapping[str, frozenset[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Route:
    name: str
    match: Match
    upstreams: Mapping[Environment, str]
    authentication: Authentication
    limits: tuple[RouteLimit, ...] = ()
    on_store_failure: StoreFailure = StoreFailure.LOCAL
    paths: PathPolicy = PathPolicy.STRICT
    priority: Priority = Priority.NORMAL
    body_bytes_max: int = 1 << 40
    signed_body_bytes_max: int = 1 << 20


# --- callers --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, repr=False)
class Key:
    """A credential as the gateway needs it.

    `secret` is the whole secret string where it must be recoverable (signing), else None; `secret_sha256` is what a bearer
    credential is looked up by. Neither is ever shown: `repr` gives the id alone."""

    id: str
    environment: Environment
    secret_sha256: bytes
    secret: bytes | None
    plan: str | None
    scopes: frozenset[str]
    app_id: str | None = None
    organization_id: str | None = None
    allowed_networks: tuple[Network, ...] = ()
    allowed_origins: frozenset[str] = frozenset()
    expires_at: float | None = None

    def __repr__(self) -> str:
        return f"Key({self.id!r})"


# --- the whole configuration ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Certificate:
    cert: str
    key: str


@dataclass(frozen=True, slots=True)
class Listen:
    host: str
    port: int
    workers: int = 1
    tls: tuple[Certificate, ...] = ()


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """Bounds on what a client may send, on how long it may take, and on what all clients of a worker may take.

    `memory_bytes` is of one worker; None for what the machine allows."""

    request_line_bytes: int = 16 * 1024
    head_bytes: int = 64 * 1024
    headers: int = 128
    head_seconds: float = 10.0
    body_idle_seconds: float = 30.0
    keepalive_seconds: float = 75.0
    write_idle_seconds: float = 60.0
    connections: int = 20_000
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    listen: Listen
    admin: Listen
    trusted_proxies: tuple[Network, ...] = ()
    client_limits: ClientLimits = ClientLimits()
    drain_seconds: float = 30.0
    signature_skew_seconds: int = 300
    key_stale_seconds: float = 3600.0
    problem_pages: str = PROBLEM_PAGES


@dataclass(frozen=True, slots=True, repr=False)
class ControlPlaneSettings:
    listen: Listen
    operator_token: str | None
    key_prefix: str


@dataclass(frozen=True, slots=True, repr=False)
class Stores:
    """Where state lives. URLs may carry passwords: never log them. `spool` is the directory of usage not yet in Postgres;
    `key_encryption_key` wraps the data keys that encrypt signing secrets (32 bytes)."""

    redis: str | None
    redis_deadline_seconds: float
    postgres: str | None
    spool: str
    spool_bytes_max: int
    key_encryption_key: bytes | None


@dataclass(frozen=True, slots=True)
class Configuration:
    """A checked configuration: every name resolves, nothing contradicts. Mappings are by name."""

    gateway: GatewaySettings
    control_plane: ControlPlaneSettings
    stores: Stores
    plans: Mapping[str, Plan]
    upstreams: Mapping[str, Upstream]
    routes: tuple[Route, ...]
    keys: Mapping[str, Key] = field(repr=False)
    warnings: tuple[str, ...] = ()


# --- metering -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class UsageEvent:
    """One finished call, as it is metered. Durations are microseconds, `occurred_at` is when the call ended."""

    request_id: str
    occurred_at: float
    key_id: str | None
    app_id: str | None
    organization_id: str | None
    environment: str | None
    route: str
    method: str
    path_template: str
    status: int
    latency_us: int
    upstream_us: int | None
    bytes_in: int
    bytes_out: int
    ip: str
    country: str | None
    user_agent: str | None
    overage: bool
    complete: bool
