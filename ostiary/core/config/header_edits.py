"""The fields that change header lines: `request_headers`, `response_headers`, `security_headers`."""

from __future__ import annotations

from typing import Final

from ostiary.core.config.fields import Kind, ListOf, MapOf, NameOrRecord, Record, Schema, Values, defaulted
from ostiary.core.config.kinds import Choice, Duration, Flag, TextKind
from ostiary.core.config.reading import Place, Reading, Refused
from ostiary.core.edge import NO_SECURITY_HEADERS, Framing, HeaderEdits, SecurityHeaders

# Enough for any product; each line is work for every call of the route.
EDITS_MAX: Final = 32

# What only the gateway may say, for upstreams and clients rely on it: where a message ends, what holds for this connection
# alone, who calls and from where.
_CONNECTION: Final = frozenset(
    (
        *("connection", "content-length", "keep-alive", "proxy-connection", "te", "trailer"),
        *("transfer-encoding", "upgrade"),
    )
)
RESERVED_IN_REQUESTS: Final = _CONNECTION | frozenset(
    (
        *("authorization", "expect", "host", "http2-settings", "proxy-authorization"),
        *("x-api-key", "x-nonce", "x-timestamp", "signature", "signature-input", "client-cert", "client-cert-chain"),
        *("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-port", "x-forwarded-proto"),
        *("x-real-ip", "x-request-id"),
    )
)
RESERVED_IN_ANSWERS: Final = _CONNECTION | frozenset(
    (
        *("content-encoding", "content-range", "date", "proxy-authenticate", "www-authenticate", "x-request-id"),
        *("ratelimit", "ratelimit-policy", "retry-after"),
        *("x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"),
    )
)
_IDENTITY_PREFIX: Final = "x-ostiary-"


class HeaderName(TextKind):
    """A name that may be changed. No underscore: upstreams of CGI's kind take it for a dash."""

    def __init__(self, reserved: frozenset[str]) -> None:
        super().__init__(r"[A-Za-z][A-Za-z0-9-]{0,63}", "a header name of up to 64 letters, digits and dashes")
        self._reserved = reserved

    def read(self, place: Place, reading: Reading) -> str | Refused:
        name = super().read(place, reading)
        if isinstance(name, Refused):
            return name
        if name.lower() in self._reserved or name.lower().startswith(_IDENTITY_PREFIX):
            return reading.problem(place, f"{name} is the gateway's own to set or to remove", "leave it out")
        return name


VALUE = TextKind(r"[!-~](?:[ \t!-~]{0,4094}[!-~])?", "one line of up to 4096 visible ASCII characters")


def _edits(title: str, says: str, reserved: frozenset[str]) -> Record[HeaderEdits]:
    name = HeaderName(reserved)
    pairs = MapOf(name, VALUE, high=EDITS_MAX)
    set_field = defaulted("set", pairs, "Names and values: whatever came under the name is replaced.", {})
    add_field = defaulted("add", pairs, "Names and values: a line besides those that came.", {})
    remove_field = defaulted("remove", ListOf(name, high=EDITS_MAX), "Names whose lines are taken away.", [])

    def build(values: Values) -> HeaderEdits:
        replaced = [name.lower() for name in values[set_field]]
        removed = [name.lower() for name in values[remove_field]]
        if len(set(replaced)) < len(replaced):
            values.problem(set_field, "names a header twice: case makes no difference")
        if both := sorted(set(replaced) & set(removed)):
            values.problem(remove_field, f"removes {both[0]}, which is set as well", "setting replaces what came")
        return HeaderEdits(
            set=tuple(values[set_field].items()), add=tuple(values[add_field].items()), remove=tuple(removed)
        )

    return Record(title, says, (set_field, add_field, remove_field), build)


REQUEST_EDITS = _edits(
    "Request headers",
    "Changes of what the upstream gets, after everything was checked. Routes and keys never go by these.",
    RESERVED_IN_REQUESTS,
)
RESPONSE_EDITS = _edits(
    "Response headers",
    "Changes of what an upstream answered. The gateway's own errors stay as they are.",
    RESERVED_IN_ANSWERS,
)

# --- security headers -------------------------------------------------------------------------------------------------

_HSTS = defaulted(
    "hsts",
    Duration("0s", "3650d"),
    "How long browsers keep to TLS (Strict-Transport-Security); `0s` leaves it out. Sent over TLS alone.",
    "365d",
)
_SUBDOMAINS = defaulted("hsts_subdomains", Flag(), "Whether that holds for all hosts below this one too.", False)
_NO_SNIFF = defaulted("no_sniff", Flag(), "X-Content-Type-Options: nosniff.", True)
_FRAMING = defaulted(
    "framing",
    Choice(Framing),
    "Who may show answers in a frame: X-Frame-Options, and frame-ancestors in Content-Security-Policy.",
    "deny",
)
_REFERRER = defaulted(
    "referrer_policy",
    TextKind(r"(?:[a-z-]{1,40}(?:, ?[a-z-]{1,40}){0,4})?", "a Referrer-Policy, or empty for none"),
    "Referrer-Policy; empty leaves it out.",
    "no-referrer",
)
_SECURITY: Record[SecurityHeaders] = Record(
    "Security headers",
    "What browsers are told to be careful about. A header that the upstream gives is left as it is.",
    (_HSTS, _SUBDOMAINS, _NO_SNIFF, _FRAMING, _REFERRER),
    lambda values: SecurityHeaders(
        hsts_seconds=int(values[_HSTS]),
        hsts_subdomains=values[_SUBDOMAINS],
        no_sniff=values[_NO_SNIFF],
        framing=values[_FRAMING],
        referrer_policy=values[_REFERRER],
    ),
)

# What `security_headers: true` means: the defaults above.
SECURITY_DEFAULTS: Final = SecurityHeaders(365 * 86_400, False, True, Framing.DENY, "no-referrer")


class SecuritySwitch(Kind[SecurityHeaders]):
    """`true` for the defaults, `false` for none of them."""

    _FLAG: Final = Flag()

    def read(self, place: Place, reading: Reading) -> SecurityHeaders | Refused:
        on = self._FLAG.read(place, reading)
        if isinstance(on, Refused):
            return on
        return SECURITY_DEFAULTS if on else NO_SECURITY_HEADERS

    def schema(self) -> Schema:
        return self._FLAG.schema()

    @property
    def words(self) -> str:
        return "`true`, `false`"


SECURITY: Final = NameOrRecord(SecuritySwitch(), _SECURITY)
