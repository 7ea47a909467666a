"""The values both planes speak of. Frozen: a request ends under the snapshot it began with.

Units stand in the names (`_seconds`, `_bytes`). Times are Unix seconds, UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network

from ostiary.core.edge import PLAIN_EDGE, AddressLists, Edge, SecurityHeaders
from ostiary.core.errors import PROBLEM_PAGES
from ostiary.core.issuers import Issuer, SignInIssuer
from ostiary.core.published import PublishedRoutes
from ostiary.core.scopes import missing
from ostiary.core.upstream import Upstream
from ostiary.core.usage import DEFAULT_USAGE, UsageSettings

Network = IPv4Network | IPv6Network


class Environment(StrEnum):
    LIVE = "live"
    TEST = "test"


class Scheme(StrEnum):
    """How a caller proves who it is. `ANONYMOUS` lets everyone in, and is only ever chosen by a route."""

    BEARER = "bearer"
    HMAC = "hmac"
    HMAC_BODY = "hmac-body"
    HTTP_SIGNATURE = "http-signature"
    JWT = "jwt"
    MTLS = "mtls"
    ANONYMOUS = "anonymous"


SIGNING_SCHEMES = frozenset({Scheme.HMAC, Scheme.HMAC_BODY, Scheme.HTTP_SIGNATURE})
"""Those whose bodies are held back until the signature has verified."""
NONCE_SCHEMES = frozenset({Scheme.HMAC, Scheme.HTTP_SIGNATURE})
"""Those whose requests are good once."""


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


class Upgrade(StrEnum):
    """A protocol that a route lets a client change its connection to (RFC 9110 §7.8)."""

    WEBSOCKET = "websocket"


class Period(StrEnum):
    """Calendar periods of a quota, in UTC."""

    HOUR = "hour"
    DAY = "day"
    MONTH = "month"


class LimitBy(StrEnum):
    """Whose calls a limit counts together; a plan's are those of the first three. `HEADER`: calls with one value of it."""

    KEY = "key"
    APP = "app"
    ORGANIZATION = "organization"
    ROUTE = "route"
    IP = "ip"
    HEADER = "header"


class LimitMode(StrEnum):
    """Whether a limit refuses, or only tells which calls it would have refused."""

    ENFORCE = "enforce"
    SHADOW = "shadow"


class Counting(StrEnum):
    """Where calls of a limit are counted. LEASED: a worker takes a slice of what is left and counts by itself
    (`core.slicing`)."""

    EXACT = "exact"
    LEASED = "leased"


class RefusedCalls(StrEnum):
    """What a refused call, whichever limit refuses it, takes of a limit: nothing, or what an admitted one takes."""

    FREE = "free"
    CHARGED = "charged"


# --- limits ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rate:
    """A token bucket: `burst` at once, refilled with `requests` every `per_seconds`."""

    requests: int
    per_seconds: int
    burst: int
    mode: LimitMode = LimitMode.ENFORCE
    refused: RefusedCalls = RefusedCalls.FREE
    counting: Counting = Counting.EXACT


@dataclass(frozen=True, slots=True)
class Window:
    """A sliding window: never more than `requests` in any span of `window_seconds`."""

    requests: int
    window_seconds: int
    mode: LimitMode = LimitMode.ENFORCE
    refused: RefusedCalls = RefusedCalls.FREE
    counting: Counting = Counting.EXACT


@dataclass(frozen=True, slots=True)
class Quota:
    """At most `requests` in a calendar period, UTC. `overage`: what happens past it; None as the plan says."""

    requests: int
    period: Period
    mode: LimitMode = LimitMode.ENFORCE
    refused: RefusedCalls = RefusedCalls.FREE
    overage: Overage | None = None
    counting: Counting = Counting.EXACT


@dataclass(frozen=True, slots=True)
class Concurrency:
    """At most so many calls under way at once."""

    at_most: int
    mode: LimitMode = LimitMode.ENFORCE


@dataclass(frozen=True, slots=True)
class RouteLimit:
    """A limit of a route, besides the plan of the key; `by` says whose calls are counted together. `header`, in lower case,
    is whose values tell callers apart, if they are told apart by one."""

    limit: Rate | Window | Quota | Concurrency
    by: LimitBy
    header: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """All parts given must hold. `concurrency` is calls under way at once, None for no bound. `by` is whose use it counts:
    each key's, or that of all keys of an app or an organization together."""

    name: str
    rate: Rate | None = None
    windows: tuple[Window, ...] = ()
    quotas: tuple[Quota, ...] = ()
    concurrency: int | None = None
    overage: Overage = Overage.BLOCK
    concurrency_mode: LimitMode = LimitMode.ENFORCE
    by: LimitBy = LimitBy.KEY


@dataclass(frozen=True, slots=True)
class Cost:
    """What a call takes of every limit but those of calls under way: `default`, or what its method costs.

    With `response_header` (lower case) the upstream says what the call really cost, at most `at_most`, and the difference
    is settled when it has answered."""

    default: int = 1
    methods: Mapping[str, int] = field(default_factory=dict)
    response_header: str | None = None
    at_most: int = 0

    @property
    def dearest(self) -> int:
        """The most that there must be room for before a call."""
        return max(self.default, *self.methods.values(), 0)


PLAIN_COST = Cost()


@dataclass(frozen=True, slots=True)
class LimitOverride:
    """What holds for one key in place of its plan's. None leaves the part as the plan has it; no windows, or no quotas, take
    the plan's away."""

    rate: Rate | None = None
    windows: tuple[Window, ...] | None = None
    quotas: tuple[Quota, ...] | None = None
    concurrency: int | None = None
    overage: Overage | None = None
    concurrency_mode: LimitMode | None = None

    def applied_to(self, plan: Plan | None) -> Plan:
        """The limits of a key with this plan, or with none. They count the key by itself, whatever the plan counts by: who
        shares it would otherwise be held to limits that are meant for another."""
        base = Plan("") if plan is None else plan
        return Plan(
            base.name,
            rate=base.rate if self.rate is None else self.rate,
            windows=base.windows if self.windows is None else self.windows,
            quotas=base.quotas if self.quotas is None else self.quotas,
            concurrency=base.concurrency if self.concurrency is None else self.concurrency,
            overage=base.overage if self.overage is None else self.overage,
            concurrency_mode=self._concurrency_mode(base),
        )

    def _concurrency_mode(self, base: Plan) -> LimitMode:
        """A bound that is the key's own is in force, unless it says that it is not."""
        if self.concurrency_mode is not None:
            return self.concurrency_mode
        return base.concurrency_mode if self.concurrency is None else LimitMode.ENFORCE


# --- routes ---------------------------------------------------------------------------------------------------------


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
    """Schemes a route takes, the issuers of its tokens, and the scopes each method needs: all of `scopes`, and one of
    `any_scopes` where there are any. `*` stands for methods that `scopes` does not name; it names each that `any_scopes`
    does. `components` are what an `http-signature` must cover besides what every one must."""

    schemes: frozenset[Scheme]
    scopes: Mapping[str, frozenset[str]] = field(default_factory=dict)
    any_scopes: Mapping[str, frozenset[str]] = field(default_factory=dict)
    issuers: tuple[str, ...] = ()
    components: tuple[str, ...] = ()

    def lacking(self, granted: frozenset[str], method: str) -> tuple[str, ...]:
        """What a caller with these scopes lacks for a call by `method`."""
        named = method if method in self.scopes else "*"
        return missing(granted, self.scopes.get(named, ()), self.any_scopes.get(named, ()))


@dataclass(frozen=True, slots=True)
class Gzip:
    """Which answers are compressed for clients that take it: of these media types, and of at least so many bytes where the
    length is known."""

    bytes_min: int
    types: frozenset[str]


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
    upgrades: frozenset[Upgrade] = frozenset()
    edge: Edge = PLAIN_EDGE
    head_bytes_max: int | None = None
    gzip: Gzip | None = None
    cost: Cost = PLAIN_COST


# --- callers --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, repr=False)
class Key:
    """A credential as the gateway needs it.

    `secret` is the whole secret string where it must be recoverable (signing), else None; `secret_sha256` is what a bearer
    credential is looked up by. Neither is ever shown: `repr` gives the id alone. `generation` numbers the secrets that the
    key has had. `previous` is the same key under the secret before this one, which works until its own `expires_at`."""

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
    limits: LimitOverride | None = None
    generation: int = 1
    previous: Key | None = None

    def __repr__(self) -> str:
        return f"Key({self.id!r})"


# --- the whole configuration ----------------------------------------------------------------------------------------


class ClientCertificate(StrEnum):
    """What is asked of a client that connects by TLS."""

    REQUIRED = "required"
    OPTIONAL = "optional"


@dataclass(frozen=True, slots=True)
class ClientAuthorities:
    """Whose client certificates are taken, as a file and what stood in it, and which of theirs are revoked: by the DER of the
    issuer's name and the serial number."""

    file: str
    pem: bytes = field(repr=False)
    presence: ClientCertificate = ClientCertificate.REQUIRED
    revocation_file: str | None = None
    revoked: frozenset[tuple[bytes, int]] = field(default=frozenset(), repr=False)
    revocation_until: float | None = None  # Unix seconds: when the first of the lists was to be renewed

    @property
    def files(self) -> tuple[str, ...]:
        return (self.file,) if self.revocation_file is None else (self.file, self.revocation_file)


class CertificateName(StrEnum):
    """By what a client certificate is known: itself, its public key, or a name that an authority has put in it."""

    SHA256 = "sha256"
    SPKI_SHA256 = "spki_sha256"
    URI = "uri"
    DNS = "dns"
    COMMON_NAME = "common_name"


@dataclass(frozen=True, slots=True)
class CertificateUse:
    """Client certificates with this name are this key (scheme `mtls`). Fingerprints are lower-case hexadecimal."""

    by: CertificateName
    value: str
    key_id: str


@dataclass(frozen=True, slots=True)
class Certificate:
    """Files, and what stood in them when the configuration was read: a file that changes since changes nothing. `names` are
    DNS names in lower case, `*.` and a suffix among them. The key is never shown."""

    cert: str
    key: str
    cert_pem: bytes = field(repr=False)
    key_pem: bytes = field(repr=False)
    names: tuple[str, ...]
    expires_at: float
    clients: ClientAuthorities | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """What its renewal changes."""
        return (self.cert, self.key) if self.clients is None else (self.cert, self.key, *self.clients.files)


@dataclass(frozen=True, slots=True)
class Listen:
    host: str
    port: int
    workers: int = 1
    tls: tuple[Certificate, ...] = ()

    @property
    def socket(self) -> tuple[str, int, int]:
        """What can't change while it runs: host, port and the number of workers."""
        return self.host, self.port, self.workers


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """Bounds on what a client may send, on how long it may take, and on what all clients of a worker may take.

    `memory_bytes` is of one worker; None for what the machine allows. `held_body_bytes` is what signed bodies may take of a
    worker's disk until their signatures have verified."""

    request_line_bytes: int = 16 * 1024
    head_bytes: int = 64 * 1024
    headers: int = 128
    head_seconds: float = 10.0
    body_idle_seconds: float = 30.0
    keepalive_seconds: float = 75.0
    write_idle_seconds: float = 60.0
    connections: int = 20_000
    connections_per_address: int = 1_000
    memory_bytes: int | None = None
    held_body_bytes: int = 1 << 30


@dataclass(frozen=True, slots=True)
class FailedAttempts:
    """How many attempts to authenticate may fail in a minute: of one address (for IPv6 a /64) before it has to wait, of one
    key before there is an alarm."""

    per_address: int = 100
    per_key: int = 1000


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
    addresses: AddressLists | None = None
    security: SecurityHeaders | None = None
    failed_attempts: FailedAttempts | None = FailedAttempts()


class AppApproval(StrEnum):
    """Whether apps that members make wait for the platform's approval."""

    AUTOMATIC = "automatic"
    MANUAL = "manual"


@dataclass(frozen=True, slots=True, repr=False)
class ControlPlaneSettings:
    listen: Listen
    operator_token: str | None
    key_prefix: str
    rate_per_actor: Rate | None = Rate(6000, 60, 1000)
    rate_per_address: Rate | None = Rate(600, 60, 300)
    app_approval: AppApproval = AppApproval.AUTOMATIC
    public_url: str | None = None
    issuer: SignInIssuer | None = None
    privileged_certificate: ClientCertificate = ClientCertificate.OPTIONAL


@dataclass(frozen=True, slots=True, repr=False)
class RedisSentinels:
    """Redis Sentinels, by their URLs, and the name under which they know the master. `url` is how that one is spoken to: its
    scheme, user, password, database and TLS options hold; host and port are what the Sentinels say."""

    sentinels: tuple[str, ...]
    service: str
    url: str


# One Redis by its URL, a cluster by URLs of some of its nodes, or Sentinels.
RedisLocation = str | tuple[str, ...] | RedisSentinels


@dataclass(frozen=True, slots=True, repr=False)
class SecretFile:
    """A secret that is read from its file each time it is needed, because others renew it there."""

    path: str


@dataclass(frozen=True, slots=True, repr=False)
class AppRole:
    """How a process signs in at Vault by itself. `mount` is where the method is mounted."""

    role_id: str | SecretFile
    secret_id: str | SecretFile
    mount: str = "approle"


@dataclass(frozen=True, slots=True, repr=False)
class VaultTransit:
    """A KEK that Vault, or OpenBao, keeps: the Transit key `key` under `mount`. Either `token` or `app_role` is given.

    `ca` is a PEM file of authorities, None for the system's. A data key that Vault has opened is used for `cache_seconds`."""

    address: str
    key: str
    mount: str
    namespace: str | None
    ca: str | None
    token: str | SecretFile | None
    app_role: AppRole | None
    timeout_seconds: float
    cache_seconds: float


@dataclass(frozen=True, slots=True, repr=False)
class KeyEncryption:
    """The KEKs by name, each the 32 bytes themselves or where they are kept. `current` wraps what is made from now on; the
    others only open."""

    current: str
    keys: Mapping[str, bytes | VaultTransit]


@dataclass(frozen=True, slots=True, repr=False)
class Stores:
    """Where state lives. URLs may carry passwords: never log them. `spool` is the directory of usage not yet in Postgres;
    `key_encryption` has what wraps the data keys that encrypt signing secrets. `state` is the directory of what a start must
    know while others are away; None to keep nothing."""

    redis: RedisLocation | None
    redis_deadline_seconds: float
    postgres: str | None
    spool: str
    spool_bytes_max: int
    key_encryption: KeyEncryption | None
    state: str | None = None


@dataclass(frozen=True, slots=True)
class Configuration:
    """A checked configuration: every name resolves, nothing contradicts. Mappings are by name. With `published`, plans,
    upstreams, routes, issuers and certificates are those of a version that the control plane published; empty without one."""

    gateway: GatewaySettings
    control_plane: ControlPlaneSettings
    stores: Stores
    plans: Mapping[str, Plan]
    upstreams: Mapping[str, Upstream]
    routes: tuple[Route, ...]
    keys: Mapping[str, Key] = field(repr=False)
    usage: UsageSettings = DEFAULT_USAGE
    warnings: tuple[str, ...] = ()
    issuers: Mapping[str, Issuer] = field(default_factory=dict)
    certificates: tuple[CertificateUse, ...] = ()
    published: PublishedRoutes | None = None

    @property
    def metered(self) -> bool:
        """Is there anywhere for usage to go?"""
        return self.stores.postgres is not None or self.usage.sink is not None
