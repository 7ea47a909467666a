"""What is recorded of a call, and for how long: the section `usage` of the configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from ostiary.core.upstream import TargetTls

REQUEST_ID_BYTES_MAX: Final = 128  # what the contract takes from a client


class AddressRecording(StrEnum):
    """What usage keeps of a client's address: itself; its network (/24, IPv6 /48); a hash that is another one every day;
    nothing."""

    FULL = "full"
    TRUNCATED = "truncated"
    HASHED = "hashed"
    NONE = "none"


class AgentRecording(StrEnum):
    """What usage keeps of `User-Agent`: all of it; its first product (`curl/8.5.0`); nothing."""

    FULL = "full"
    PRODUCT = "product"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Recording:
    """`country_database` is a file in MaxMind's format; without one `country` stays empty."""

    address: AddressRecording = AddressRecording.FULL
    agent: AgentRecording = AgentRecording.FULL
    country_database: str | None = None


@dataclass(frozen=True, slots=True)
class Retention:
    """For how many days each is kept; None for ever."""

    events_days: int | None = 90
    minutes_days: int | None = 3
    hours_days: int | None = 100
    days_days: int | None = None


@dataclass(frozen=True, slots=True)
class NatsStream:
    """A stream of NATS JetStream between the gateways and Postgres. URLs may carry passwords: never log them. The stream must
    be kept on at least `replicas` servers; `message_bytes_max` bounds a message's payload, `ack_wait_seconds` how long a
    consumer may be silent with one. `credentials` is the file of a user's JWT and seed, read whenever a connection is made;
    `quarantine` the folder of messages that can't be stored."""

    servers: tuple[str, ...] = field(repr=False)
    stream: str
    replicas: int
    message_bytes_max: int
    ack_wait_seconds: float
    credentials: str | None
    tls: TargetTls | None
    quarantine: str


class WhenFull(StrEnum):
    """What a spool that is full, or can't be written, does to calls: they are served, and what is not metered is counted;
    those that would be metered are refused."""

    SHED = "shed"
    BLOCK = "block"


@dataclass(frozen=True, slots=True)
class SpoolSettings:
    """`sync_seconds` is how often a worker has its segments written to the disk; None: the kernel does when it likes."""

    when_full: WhenFull = WhenFull.SHED
    sync_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class UsageSettings:
    """`sink` is where shippers take usage; None: to Postgres themselves."""

    recording: Recording = Recording()
    retention: Retention = Retention()
    spool: SpoolSettings = SpoolSettings()
    sink: NatsStream | None = None


DEFAULT_USAGE = UsageSettings()
