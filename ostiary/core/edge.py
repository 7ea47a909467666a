"""What a route says about the edge, beyond who may call and how often: cross-origin calls, addresses, header lines, the path
that an upstream sees, and the end of a version. Frozen values; the gateway compiles them (`gateway/edge`)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network


@dataclass(frozen=True, slots=True)
class CrossOrigin:
    """CORS (Fetch standard §3.3). `origins` are exact, have `*.` before their host, or are `*`; `methods`, `headers` and
    `expose` are whole: what the gateway adds by itself is in them."""

    origins: tuple[str, ...]
    methods: tuple[str, ...]
    headers: tuple[str, ...]
    expose: tuple[str, ...]
    credentials: bool
    max_age_seconds: int


@dataclass(frozen=True, slots=True)
class AddressLists:
    """Who may call by address. `deny` wins; with `allow` empty, everyone else may."""

    allow: tuple[IPv4Network | IPv6Network, ...] = ()
    deny: tuple[IPv4Network | IPv6Network, ...] = ()


@dataclass(frozen=True, slots=True, repr=False)
class HeaderEdits:
    """`set` replaces, `add` adds a line, `remove` takes lines away. Values may be secrets: `repr` names the fields alone."""

    set: tuple[tuple[str, str], ...] = ()
    add: tuple[tuple[str, str], ...] = ()
    remove: tuple[str, ...] = ()

    def __repr__(self) -> str:
        names = ", ".join([*(name for name, _ in self.set), *(name for name, _ in self.add), *self.remove])
        return f"HeaderEdits({names})"


class Framing(StrEnum):
    """Which pages may show an answer within a frame."""

    DENY = "deny"
    SAME_ORIGIN = "same_origin"
    ANY = "any"


@dataclass(frozen=True, slots=True)
class SecurityHeaders:
    """`hsts_seconds` 0, `framing` ANY, `no_sniff` False and `referrer_policy` "" leave the header out."""

    hsts_seconds: int
    hsts_subdomains: bool
    no_sniff: bool
    framing: Framing
    referrer_policy: str


NO_SECURITY_HEADERS = SecurityHeaders(0, False, False, Framing.ANY, "")


class AfterSunset(StrEnum):
    """What becomes of calls once the day of the sunset has come."""

    SERVE = "serve"
    NOT_FOUND = "not_found"


@dataclass(frozen=True, slots=True)
class Deprecation:
    """A version on its way out (RFC 9745, RFC 8594). Unix seconds, the first of a day in UTC."""

    since: int
    sunset: int | None
    link: str | None
    after_sunset: AfterSunset


@dataclass(frozen=True, slots=True)
class Edge:
    """None, or nothing, wherever a route says nothing. `security` None: as the gateway has it."""

    cross_origin: CrossOrigin | None = None
    addresses: AddressLists | None = None
    request_headers: HeaderEdits | None = None
    response_headers: HeaderEdits | None = None
    security: SecurityHeaders | None = None
    rewrite: str | None = None
    deprecation: Deprecation | None = None


PLAIN_EDGE = Edge()
