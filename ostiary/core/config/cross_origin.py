"""The field `cors`: which pages of other origins may call a route (Fetch standard §3.3)."""

from __future__ import annotations

import re
from typing import Final

from ostiary.core.config.fields import Kind, ListOf, Record, Schema, Values, defaulted, optional, required
from ostiary.core.config.kinds import Duration, Flag, TextKind, read_text
from ostiary.core.config.methods import METHODS, Method
from ostiary.core.config.reading import Place, Reading, Refused
from ostiary.core.edge import CrossOrigin
from ostiary.core.model import Match, Scheme

# What a page may send to a route that takes these schemes, besides what it is told.
_HEADERS_OF_EVERY_CALL: Final = ("Content-Type", "X-Request-Id")
_HEADERS_OF_SCHEMES: Final = {
    Scheme.BEARER: ("Authorization", "X-API-Key"),
    Scheme.HMAC: ("X-API-Key", "X-Timestamp", "X-Nonce"),
    Scheme.HMAC_BODY: ("X-API-Key",),
    Scheme.HTTP_SIGNATURE: ("Signature-Input", "Signature", "Content-Digest"),
    Scheme.JWT: ("Authorization",),
}
# What a page must read to keep to its limits, and to quote a failed call.
_EXPOSED: Final = (
    *("Retry-After", "RateLimit", "RateLimit-Policy"),
    *("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset", "X-Request-Id"),
)
_EXPOSED_WHEN_DEPRECATED: Final = ("Deprecation", "Sunset", "Link")
_METHODS_OF_ANY: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


class PageOrigin(Kind[str]):
    """An origin as browsers write it: scheme, host, and the port unless it is the scheme's own. Not `null`, which any page
    can make itself (a sandboxed frame)."""

    _FORM: Final = re.compile(r"(https?)://(?:\*\.)?[a-z0-9_](?:[a-z0-9._-]{0,252})(?::([1-9][0-9]{0,4}))?")

    def read(self, place: Place, reading: Reading) -> str | Refused:
        text = read_text(place, reading, self.words)
        if isinstance(text, Refused):
            return text
        origin = text.value.lower()
        if origin == "*":
            return origin
        if (match := self._FORM.fullmatch(origin)) is None:
            mend = "an origin has no slash at its end" if origin.endswith("/") else None
            return reading.problem(place, f"must be {self.words}, not {place.shown}", mend)
        if match[2] == ("443" if match[1] == "https" else "80"):
            return reading.problem(place, f"names the port {match[2]}, which browsers leave out", "leave it out")
        return origin

    def schema(self) -> Schema:
        return {"type": "string", "pattern": r"^\*$|^[Hh][Tt][Tt][Pp][Ss]?://[^/]+$|\$\{"}

    @property
    def words(self) -> str:
        return "an origin: `https://app.example.com`, `https://*.example.com` for all hosts below, or `*` for all"


_NAME = TextKind(r"[A-Za-z][A-Za-z0-9-]{0,63}|\*", "a header name, or `*`")
_NAMES = ListOf(_NAME, high=64)

_ORIGINS = required("origins", ListOf(PageOrigin(), low=1, high=1000), "Where the pages come from that may call.")
_CORS_METHODS = optional(
    "methods",
    ListOf(Method(), low=1, high=len(METHODS)),
    "Methods that pages may use; those of the route if not given.",
)
_HEADERS = defaulted(
    "headers",
    _NAMES,
    "Headers that pages may send, besides Content-Type, X-Request-Id and those of the route's schemes.",
    [],
)
_EXPOSE = defaulted(
    "expose", _NAMES, "Headers that pages may read, besides X-Request-Id and those about limits and deprecation.", []
)
_CREDENTIALS = defaulted(
    "credentials", Flag(), "Whether browsers may send cookies and client certificates along. Keys need it not.", False
)
_MAX_AGE = defaulted("max_age", Duration("0s", "1d"), "How long a browser may remember the permission.", "10m")


def _cors(values: Values) -> CrossOrigin:
    methods = values[_CORS_METHODS]
    if values[_CREDENTIALS]:
        starred = [field for field in (_ORIGINS, _HEADERS, _EXPOSE) if "*" in values[field]]
        for field in starred:
            values.problem(field, "is `*`, which browsers do not take together with credentials", "name each")
    if "*" in values[_ORIGINS] and len(values[_ORIGINS]) > 1:
        values.problem(_ORIGINS, "has `*`, so the others mean nothing", "leave one of them")
    return CrossOrigin(
        origins=tuple(dict.fromkeys(values[_ORIGINS])),
        methods=methods or (),
        headers=values[_HEADERS],
        expose=values[_EXPOSE],
        credentials=values[_CREDENTIALS],
        max_age_seconds=int(values[_MAX_AGE]),
    )


CORS: Record[CrossOrigin] = Record(
    "Cors",
    "Which pages of other origins may call. The gateway answers preflights itself, and replaces what the upstream says.",
    (_ORIGINS, _CORS_METHODS, _HEADERS, _EXPOSE, _CREDENTIALS, _MAX_AGE),
    _cors,
)


def complete(cors: CrossOrigin, match: Match, schemes: frozenset[Scheme], *, deprecated: bool) -> CrossOrigin:
    """`cors` with what follows from the route."""
    methods = cors.methods or tuple(sorted(match.methods)) or _METHODS_OF_ANY
    of_schemes = [name for scheme in sorted(schemes) for name in _HEADERS_OF_SCHEMES.get(scheme, ())]
    exposed = (*_EXPOSED, *(_EXPOSED_WHEN_DEPRECATED if deprecated else ()), *cors.expose)
    return CrossOrigin(
        origins=cors.origins,
        methods=methods,
        headers=_each_once(*_HEADERS_OF_EVERY_CALL, *of_schemes, *cors.headers),
        expose=_each_once(*exposed),
        credentials=cors.credentials,
        max_age_seconds=cors.max_age_seconds,
    )


def _each_once(*names: str) -> tuple[str, ...]:
    return tuple({name.lower(): name for name in reversed(names)}.values())[::-1]
