"""`usage.sink`: where usage is taken from the spool. Postgres itself, or a stream of NATS JetStream."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from ostiary.core.config.addresses import Directory, StoreUrl
from ostiary.core.config.fields import Kind, ListOf, NameOrRecord, Record, Schema, Values, defaulted, optional, required
from ostiary.core.config.kinds import Duration, Integer, Size, TextKind, read_text
from ostiary.core.config.pem import PemFile
from ostiary.core.config.problems import close_name
from ostiary.core.config.reading import Place, Reading, Refused
from ostiary.core.config.target_tls import tls_record
from ostiary.core.config.words import store_url, target_tls
from ostiary.core.usage import NatsStream

POSTGRES: Final = "postgres"
_SERVERS_MAX: Final = 100
# JetStream's own bound (`--replicas`).
_REPLICAS_MAX: Final = 5


class PostgresItself(Kind[NatsStream | None]):
    """The word `postgres`; its value is None."""

    def read(self, place: Place, reading: Reading) -> NatsStream | Refused | None:
        text = read_text(place, reading, self.words)
        if isinstance(text, Refused):
            return text
        if text.value != POSTGRES:
            near = close_name(text.value, [POSTGRES])
            mend = near or "for a stream write nats: with its servers below sink:"
            return reading.problem(place, f"must be {self.words}, not {place.shown}", mend)
        return None

    def schema(self) -> Schema:
        return {"type": "string", "pattern": rf"^{POSTGRES}$|\$\{{"}

    @property
    def words(self) -> str:
        return f"`{POSTGRES}`"


class NatsUrl(StoreUrl):
    """`nats://`, with `tls://` as its encrypted form. What stands before the host is a user and a password, or a token."""

    def __init__(self) -> None:
        super().__init__(("nats", "tls"))

    def read(self, place: Place, reading: Reading) -> str | Refused:
        url = super().read(place, reading)
        if isinstance(url, Refused):
            return url
        parts = urlsplit(url)
        if parts.username and not parts.password:  # a token
            reading.is_secret(parts.username)
        if not parts.hostname or parts.path not in ("", "/") or parts.query or parts.fragment:
            return reading.problem(place, "the URL must have a host, and end with the port", "write nats://host:4222")
        return url


_SERVERS = required(
    "servers",
    ListOf(NatsUrl(), low=1, high=_SERVERS_MAX),
    "Servers of the NATS system; one that answers is enough. A user and password, or a token, may stand before the host, as "
    "in `nats://gateway:${NATS_PASSWORD}@n1.internal:4222`.",
)
_STREAM = defaulted(
    "stream",
    TextKind(r"[A-Za-z0-9_-]{1,64}", "the name of a stream: letters, digits, `_` and `-`"),
    "The stream. Its subjects begin with the same name. `ostiary usage stream --create` makes it; a gateway never does.",
    "ostiary_usage",
)
_REPLICAS = defaulted(
    "replicas",
    Integer(1, _REPLICAS_MAX),
    "On how many servers the stream must at least be kept; one that is kept on fewer is refused, and the spool fills.",
    1,
)
_MESSAGE_MAX = defaulted(
    "message_max",
    Size("128KiB", "8MiB"),
    "Largest payload of a message; not more than `max_payload` of the servers, which is 1 MiB unless configured.",
    "1MiB",
)
_ACK_WAIT = defaulted(
    "ack_wait",
    Duration("5s", "10m"),
    "How long a message stays with a consumer that says nothing; then another gets it. One at work says so in time.",
    "30s",
)
_CREDENTIALS = optional(
    "credentials",
    PemFile("a file of credentials (`.creds`), relative to the configuration's folder"),
    "The JWT and seed of a user, as `nsc` writes them. Read again for every connection.",
)
_TLS = optional(
    "tls",
    tls_record(
        "Stream tls",
        "How servers of NATS are checked, and what they are shown. With it, or with `tls://`, only over TLS.",
    ),
    "TLS, if it needs more than the system's authorities.",
)
_QUARANTINE = defaulted(
    "quarantine",
    Directory(),
    "Where `ostiary usage consume` puts messages that can't be read, or of which Postgres refuses records.",
    "/var/lib/ostiary/quarantine",
)


def _nats(values: Values) -> NatsStream:
    credentials = values[_CREDENTIALS]
    return NatsStream(
        servers=values[_SERVERS],
        stream=values[_STREAM],
        replicas=values[_REPLICAS],
        message_bytes_max=values[_MESSAGE_MAX],
        ack_wait_seconds=values[_ACK_WAIT],
        credentials=credentials and credentials.path,
        tls=values[_TLS],
        quarantine=values[_QUARANTINE],
    )


NATS: Record[NatsStream] = Record(
    "NATS JetStream",
    "A stream of NATS JetStream that shippers write and `ostiary usage consume` reads. Needs `pip install 'ostiary[nats]'`.",
    (_SERVERS, _STREAM, _REPLICAS, _MESSAGE_MAX, _ACK_WAIT, _CREDENTIALS, _TLS, _QUARANTINE),
    _nats,
)

_NATS = required("nats", NATS, "The stream.")
_STREAMED: Record[NatsStream | None] = Record(
    "Usage sink",
    "A stream between gateways and Postgres: docs/usage-streaming.md says when it pays.",
    (_NATS,),
    lambda values: values[_NATS],
)

SINK: Final[Kind[NatsStream | None]] = NameOrRecord(PostgresItself(), _STREAMED)


def sink_words(sink: NatsStream | None) -> str:
    """Where usage goes: without users and passwords."""
    if sink is None:
        return POSTGRES
    servers = ", ".join(store_url(url) for url in sink.servers)
    secured = f"; {target_tls(sink.tls)}" if sink.tls is not None else ""
    return f"the stream {sink.stream} of {servers}, on at least {sink.replicas} of them{secured}"
