"""The sections about the machine: `gateway`, `control_plane`, `stores`."""

from __future__ import annotations

from ostiary.core.config.addresses import Directory, StoreUrl
from ostiary.core.config.callers import asks_for_certificates
from ostiary.core.config.edge import ADDRESS_LISTS
from ostiary.core.config.fields import ListOf, NameOrRecord, Record, Values, defaulted, optional
from ostiary.core.config.header_edits import SECURITY
from ostiary.core.config.issuers import SIGN_IN_ISSUER
from ostiary.core.config.key_encryption import fields as key_encryption_fields
from ostiary.core.config.key_encryption import the_only_one
from ostiary.core.config.kinds import Choice, Duration, Integer, NetworkKind, Secret, Size, TextKind
from ostiary.core.config.listening import ADMIN, CONTROL_LISTEN, LISTEN
from ostiary.core.config.plans import COUNT_MAX, Span
from ostiary.core.config.reading import Refused
from ostiary.core.config.redis import REDIS
from ostiary.core.config.resilience import Off
from ostiary.core.errors import PROBLEM_PAGES
from ostiary.core.limiting import LimitOutOfRange, TokenBucket
from ostiary.core.model import (
    AppApproval,
    ClientCertificate,
    ClientLimits,
    ControlPlaneSettings,
    FailedAttempts,
    GatewaySettings,
    Rate,
    Stores,
)

# --- gateway ----------------------------------------------------------------------------------------------------------

_REQUEST_LINE = defaulted("request_line", Size("1KiB", "1MiB"), "Longest request line; beyond it 414.", "16KiB")
_HEAD = defaulted("head", Size("4KiB", "1MiB"), "Largest request head; beyond it 431.", "64KiB")
_HEADERS = defaulted("headers", Integer(8, 1000), "Most header fields; beyond them 431.", 128)
_HEAD_TIMEOUT = defaulted("head_timeout", Duration("100ms", "5m"), "Time for the whole request head.", "10s")
_BODY_TIMEOUT = defaulted("body_timeout", Duration("100ms", "1h"), "Longest pause within a request body.", "30s")
_KEEPALIVE = defaulted("keepalive", Duration("1s", "1h"), "How long an idle connection is kept.", "75s")
_WRITE_TIMEOUT = defaulted("write_timeout", Duration("100ms", "1h"), "Longest pause of a client that reads.", "60s")
_CONNECTIONS = defaulted("connections", Integer(1, 1_000_000), "Most client connections of one worker.", 20_000)
_PER_ADDRESS = defaulted(
    "connections_per_address",
    Integer(1, 1_000_000),
    "Most client connections of one address (for IPv6, of one /64) to one worker. Trusted proxies have no such bound.",
    1_000,
)
_MEMORY = optional(
    "memory",
    Size("96MiB", "1TiB"),
    "Memory of one worker, near which it sheds calls; without it, what the system or the container allows.",
)
_HELD_BODIES = defaulted(
    "held_bodies",
    Size("0B", "100TiB"),
    "Disk that bodies of signed calls may take in one worker until their signatures have verified; past it 503. They lie in "
    "the spool's directory, or in the system's for temporary files where there is no spool. One of up to 64 KiB needs none.",
    "1GiB",
)
CLIENT_LIMITS: Record[ClientLimits] = Record(
    "Client limits",
    "What a client may send, and how long it may take.",
    (
        *(_REQUEST_LINE, _HEAD, _HEADERS, _HEAD_TIMEOUT, _BODY_TIMEOUT, _KEEPALIVE, _WRITE_TIMEOUT),
        *(_CONNECTIONS, _PER_ADDRESS, _MEMORY, _HELD_BODIES),
    ),
    lambda values: ClientLimits(
        request_line_bytes=values[_REQUEST_LINE],
        head_bytes=values[_HEAD],
        headers=values[_HEADERS],
        head_seconds=values[_HEAD_TIMEOUT],
        body_idle_seconds=values[_BODY_TIMEOUT],
        keepalive_seconds=values[_KEEPALIVE],
        write_idle_seconds=values[_WRITE_TIMEOUT],
        connections=values[_CONNECTIONS],
        connections_per_address=values[_PER_ADDRESS],
        memory_bytes=values[_MEMORY],
        held_body_bytes=values[_HELD_BODIES],
    ),
)

_FAILED_PER_ADDRESS = defaulted(
    "per_address",
    Integer(1, 1_000_000),
    "Failures in a minute of one address (for IPv6, of one /64); beyond them 429 for all but keys that work. Trusted proxies "
    "have no such bound.",
    100,
)
_FAILED_PER_KEY = defaulted(
    "per_key", Integer(1, 1_000_000), "Failures in a minute with one key's id; beyond them an alarm, and no more.", 1000
)
FAILED_ATTEMPTS: Record[FailedAttempts | None] = Record(
    "Failed attempts",
    "How many attempts to authenticate may fail, of all workers of a node together.",
    (_FAILED_PER_ADDRESS, _FAILED_PER_KEY),
    lambda values: FailedAttempts(per_address=values[_FAILED_PER_ADDRESS], per_key=values[_FAILED_PER_KEY]),
)

_GATEWAY_LISTEN = defaulted("listen", LISTEN, "Where clients connect.", {})
_ADMIN = defaulted(
    "admin", ADMIN, "Where operators look. Keep it off the public network: it has no authentication.", {}
)
_TRUSTED_PROXIES = defaulted(
    "trusted_proxies",
    ListOf(NetworkKind(), high=1000),
    "Proxies in front of the gateway, whose X-Forwarded-For is believed. From others it is replaced.",
    [],
)
_LIMITS = defaulted("limits", CLIENT_LIMITS, "Bounds on clients.", {})
_DRAIN = defaulted("drain", Duration("0s", "1h"), "How long a stopping worker waits for calls under way.", "30s")
_SKEW = defaulted(
    "signature_skew",
    Duration("1s", "1h"),
    "How far the timestamp of a signed call may be off, either way; a nonce is kept for twice as long.",
    "300s",
)
_STALE = defaulted(
    "key_stale_for",
    Duration("0s", "7d"),
    "How long known keys work on while Postgres is away.",
    "1h",
)
_FAILED_ATTEMPTS = defaulted(
    "failed_attempts",
    NameOrRecord(Off(), FAILED_ATTEMPTS),
    "How often credentials may be tried that don't hold.",
    {},
)
_PROBLEM_PAGES = defaulted(
    "problem_pages",
    TextKind(r"https?://[!-~]{1,200}/", "a URL that ends in a slash, as in `https://api.example.com/problems/`"),
    "What the `type` of an error answer begins with; the rest is its code with dashes. The control plane has these pages "
    "at `/problems/`.",
    PROBLEM_PAGES,
)
_IP = optional("ip", ADDRESS_LISTS, "Which addresses may call at all; routes may say more.")
_SECURITY_HEADERS = optional("security_headers", SECURITY, "What browsers are told, where a route says nothing else.")


def _gateway(values: Values) -> GatewaySettings | Refused:
    listen, admin = values[_GATEWAY_LISTEN], values[_ADMIN]
    if listen.port == admin.port != 0 and listen.host in (admin.host, "0.0.0.0", "::"):  # noqa: S104  a comparison
        return values.problem(_ADMIN, f"is on port {admin.port}, where clients connect", "give it a port of its own")
    if values[_SKEW] % 1:
        return values.problem(_SKEW, "must be whole seconds: timestamps are")
    if values[_LIMITS].request_line_bytes > values[_LIMITS].head_bytes:
        return values.problem(_LIMITS, "request_line is larger than head, which includes it", "raise head")
    return GatewaySettings(
        listen=listen,
        admin=admin,
        trusted_proxies=values[_TRUSTED_PROXIES],
        client_limits=values[_LIMITS],
        drain_seconds=values[_DRAIN],
        signature_skew_seconds=int(values[_SKEW]),
        key_stale_seconds=values[_STALE],
        problem_pages=values[_PROBLEM_PAGES],
        addresses=values[_IP],
        security=values[_SECURITY_HEADERS],
        failed_attempts=values[_FAILED_ATTEMPTS],
    )


GATEWAY: Record[GatewaySettings] = Record(
    "Gateway",
    "The data plane.",
    (
        *(_GATEWAY_LISTEN, _ADMIN, _TRUSTED_PROXIES, _LIMITS, _DRAIN, _SKEW, _STALE, _FAILED_ATTEMPTS),
        *(_PROBLEM_PAGES, _IP, _SECURITY_HEADERS),
    ),
    _gateway,
)

# --- control plane ----------------------------------------------------------------------------------------------------

_CONTROL_LISTEN = defaulted("listen", CONTROL_LISTEN, "Where the API and the portal are.", {})
_OPERATOR_TOKEN = optional("operator_token", Secret(32, 256), "The bearer token of the platform's operator.")
_KEY_PREFIX = defaulted(
    "key_prefix",
    TextKind(r"[a-z0-9]{0,12}", "up to 12 of a-z and 0-9"),
    "What made key ids and secrets begin with, as in `bi_sk_live_…`; empty for nothing.",
    "ost",
)


def _api_rate(title: str, whose: str, requests: int, burst: int) -> Record[Rate]:
    requests_field = defaulted("requests", Integer(1, COUNT_MAX), "How many calls.", requests)
    per_field = defaulted("per", Choice(Span), "The span.", "minute")
    burst_field = defaulted("burst", Integer(1, COUNT_MAX), "How many calls at once.", burst)

    def rate(values: Values) -> Rate | Refused:
        found = Rate(values[requests_field], values[per_field].seconds, values[burst_field])
        try:
            TokenBucket.of(found)
        except LimitOutOfRange as error:
            return values.problem(burst_field, str(error))
        return found

    return Record(
        title,
        f"How often {whose} may call the API: `burst` calls at once, refilled with `requests` in every span. Each process "
        "of the control plane counts by itself.",
        (requests_field, per_field, burst_field),
        rate,
    )


_RATE_PER_ACTOR = defaulted(
    "rate_per_actor",
    NameOrRecord(Off(), _api_rate("API rate of an actor", "one user or token", 6000, 1000)),
    "How often one user or token may call the API; beyond it 429.",
    {},
)
_RATE_PER_ADDRESS = defaulted(
    "rate_per_address",
    NameOrRecord(Off(), _api_rate("API rate of an address", "an address", 600, 300)),
    "How often an address (for IPv6, a /64) may call without credentials that hold; beyond it 429. Behind a proxy, all "
    "clients have the proxy's address.",
    {},
)
_APP_APPROVAL = defaulted(
    "app_approval",
    Choice(AppApproval),
    "Whether apps that members make have live keys at once (`automatic`), or when an operator has approved of them "
    "(`manual`). Apps that operators make are approved.",
    "automatic",
)
_PUBLIC_URL = optional(
    "public_url",
    TextKind(r"https?://[A-Za-z0-9.:\[\]-]{1,255}", "scheme and host, as in `https://console.example.com`"),
    "Where browsers find it, behind a proxy with TLS: their cookies and pages are held to it, and tokens name it.",
)
_PRIVILEGED_CERTIFICATE = defaulted(
    "client_certificate",
    Choice(ClientCertificate),
    "Whether a privileged call must come with a client certificate, besides its token. Needs `listen.tls.client_ca`.",
    "optional",
)
PRIVILEGED: Record[ClientCertificate] = Record(
    "Privileged calls",
    "What is asked, besides the token, of calls by whoever has a role over the platform: by the operator token, a platform "
    "token with such a role, or a user who is operator or auditor.",
    (_PRIVILEGED_CERTIFICATE,),
    lambda values: values[_PRIVILEGED_CERTIFICATE],
)
_PRIVILEGED = defaulted("privileged", PRIVILEGED, "What is asked of privileged calls besides their token.", {})
_SIGN_IN_ISSUER = optional("issuer", SIGN_IN_ISSUER, "Whose tokens let users in, besides our own.")


def _control_plane(values: Values) -> ControlPlaneSettings | Refused:
    listen, certificate = values[_CONTROL_LISTEN], values[_PRIVILEGED]
    if certificate is ClientCertificate.REQUIRED and not asks_for_certificates(listen.tls):
        return values.problem(
            _PRIVILEGED,
            "asks for client certificates, and the listener takes none: nobody could make a privileged call",
            "add client_ca to control_plane.listen.tls; client_certificate: optional there if others may do without",
        )
    return ControlPlaneSettings(
        listen=listen,
        operator_token=values[_OPERATOR_TOKEN],
        key_prefix=values[_KEY_PREFIX],
        rate_per_actor=values[_RATE_PER_ACTOR],
        rate_per_address=values[_RATE_PER_ADDRESS],
        app_approval=values[_APP_APPROVAL],
        public_url=values[_PUBLIC_URL],
        issuer=values[_SIGN_IN_ISSUER],
        privileged_certificate=certificate,
    )


CONTROL_PLANE: Record[ControlPlaneSettings] = Record(
    "Control plane",
    "The API that manages organizations, apps, keys and plans.",
    (
        *(_CONTROL_LISTEN, _PUBLIC_URL, _OPERATOR_TOKEN, _PRIVILEGED, _SIGN_IN_ISSUER),
        *(_KEY_PREFIX, _RATE_PER_ACTOR, _RATE_PER_ADDRESS, _APP_APPROVAL),
    ),
    _control_plane,
)

# --- stores -----------------------------------------------------------------------------------------------------------

_REDIS = optional(
    "redis",
    REDIS,
    "Where limits are counted and nonces kept, by all gateways together. Without it each worker counts its own share, and a "
    "node knows the nonces that it took itself, until it is restarted.",
)
_REDIS_DEADLINE = defaulted(
    "redis_deadline",
    Duration("1ms", "10s"),
    "How long a call waits for Redis before its route's `on_store_failure` holds.",
    "20ms",
)
_POSTGRES = optional(
    "postgres",
    StoreUrl(("postgresql", "postgres")),
    "Where keys are looked up and usage is written. Without it, the keys of this file alone are known.",
)
_SPOOL = defaulted(
    "spool", Directory(), "Where finished calls wait to be written to Postgres.", "/var/lib/ostiary/spool"
)
_SPOOL_MAX = defaulted(
    "spool_max",
    Size("1MiB", "100TiB"),
    "How large the spool may grow while Postgres is away; past it, calls are served and drops are counted.",
    "1GiB",
)
_KEY_ENCRYPTION_KEY, _KEY_ENCRYPTION_KEYS = key_encryption_fields()
_STATE = defaulted(
    "state",
    Directory(),
    "What a gateway must know after a restart while others are away: the key documents of issuers. Only its own user may "
    "write there.",
    "/var/lib/ostiary/state",
)


def _stores(values: Values) -> Stores | Refused:
    alone, several = values[_KEY_ENCRYPTION_KEY], values[_KEY_ENCRYPTION_KEYS]
    if values.given(_KEY_ENCRYPTION_KEY) and values.given(_KEY_ENCRYPTION_KEYS):
        return values.problem(
            _KEY_ENCRYPTION_KEY, "stands beside key_encryption_keys", "move it there, as `secret` of a name of its own"
        )
    return Stores(
        redis=values[_REDIS],
        redis_deadline_seconds=values[_REDIS_DEADLINE],
        postgres=values[_POSTGRES],
        spool=values[_SPOOL],
        spool_bytes_max=values[_SPOOL_MAX],
        key_encryption=the_only_one(alone) if alone is not None else several,
        state=values[_STATE],
    )


STORES: Record[Stores] = Record(
    "Stores",
    "Where state lives.",
    (_REDIS, _REDIS_DEADLINE, _POSTGRES, _SPOOL, _SPOOL_MAX, _KEY_ENCRYPTION_KEY, _KEY_ENCRYPTION_KEYS, _STATE),
    _stores,
)
