"""What a route says about the edge, read and held against the rest of the route."""

from __future__ import annotations

from calendar import timegm
from datetime import date
from typing import Final

from ostiary.core.config.addresses import RoutePath
from ostiary.core.config.cross_origin import CORS, complete
from ostiary.core.config.fields import Field, Kind, ListOf, Record, Schema, Values, defaulted, optional, required
from ostiary.core.config.header_edits import REQUEST_EDITS, RESPONSE_EDITS, SECURITY
from ostiary.core.config.kinds import Choice, NetworkKind, TextKind, read_text
from ostiary.core.config.reading import Place, Reading, Refused
from ostiary.core.edge import AddressLists, AfterSunset, Deprecation, Edge, HeaderEdits
from ostiary.core.model import Match, PathPolicy, Scheme
from ostiary.core.paths import Parameter, Rest, parse_template

NETWORKS_MAX: Final = 10_000

_LIST = ListOf(NetworkKind(), low=1, high=NETWORKS_MAX)
_ALLOW = optional("allow", _LIST, "Who may call; everyone if not given.")
_DENY = optional("deny", _LIST, "Who may not, even if allowed above.")


def _lists(values: Values) -> AddressLists | Refused:
    allow, deny = values[_ALLOW], values[_DENY]
    if not values.given(_ALLOW) and not values.given(_DENY):
        return values.reading.problem(values.place, "names no address", "give allow, deny, or both")
    return AddressLists(allow=allow or (), deny=deny or ())


ADDRESS_LISTS: Record[AddressLists] = Record(
    "Ip",
    "Addresses that may call, and that may not: asked before any key. Others get 403 `ip_not_allowed`.",
    (_ALLOW, _DENY),
    _lists,
)


class Day(Kind[int]):
    """A day; the value is its first second in UTC, as Unix time."""

    def read(self, place: Place, reading: Reading) -> int | Refused:
        text = read_text(place, reading, self.words)
        if isinstance(text, Refused):
            return text
        try:
            day = date.fromisoformat(text.value)
        except ValueError:
            day = None
        if day is None or len(text.value) != 10 or day.year < 1970:
            return reading.problem(place, f"must be {self.words}, not {place.shown}")
        return timegm(day.timetuple())

    def schema(self) -> Schema:
        return {"type": "string", "pattern": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$|\$\{"}

    @property
    def words(self) -> str:
        return "a day, as in `2026-12-31`"


_SINCE = required("since", Day(), "The day from which callers should use something else; it may be to come.")
_SUNSET = optional("sunset", Day(), "The day from which the route may be gone.")
_LINK = optional(
    "link",
    TextKind(r"https?://[!#-;=?-~]{1,500}", "a URL, as in `https://api.example.com/docs/v2`"),
    "Where callers read what to do.",
)
_AFTER_SUNSET = defaulted(
    "after_sunset", Choice(AfterSunset), "From the sunset on: serve as before, or 404 `route_not_found`.", "serve"
)


def _deprecation(values: Values) -> Deprecation:
    sunset = values[_SUNSET]
    if sunset is not None and sunset < values[_SINCE]:
        values.problem(_SUNSET, "comes before since (RFC 9745 §4)", "deprecate first, and end later")
    if sunset is None and values[_AFTER_SUNSET] is not AfterSunset.SERVE:
        values.problem(_AFTER_SUNSET, "says what happens from a sunset on, and there is none", "add sunset")
    return Deprecation(since=values[_SINCE], sunset=sunset, link=values[_LINK], after_sunset=values[_AFTER_SUNSET])


DEPRECATION: Record[Deprecation] = Record(
    "Deprecation",
    "A version on its way out: told in Deprecation (RFC 9745), Sunset (RFC 8594) and Link, and counted by app.",
    (_SINCE, _SUNSET, _LINK, _AFTER_SUNSET),
    _deprecation,
)

# --- the fields of a route ---------------------------------------------------------------------------------------------

_CORS = optional("cors", CORS, "Which pages of other origins may call. Without it, CORS is the upstream's affair.")
_IP = optional("ip", ADDRESS_LISTS, "Which addresses may call, before any key is looked at.")
_REQUEST_HEADERS = optional("request_headers", REQUEST_EDITS, "Header lines that the upstream gets, or does not.")
_RESPONSE_HEADERS = optional(
    "response_headers", RESPONSE_EDITS, "Header lines of the upstream that clients get, or not."
)
_SECURITY_HEADERS = optional(
    "security_headers", SECURITY, "What browsers are told to be careful about; as the gateway has it if not given."
)
_REWRITE = optional(
    "rewrite",
    RoutePath(),
    "The path that the upstream gets instead: with parameters of the match, and `/**` for what the match's `/**` took.",
)
_DEPRECATION = optional("deprecation", DEPRECATION, "That this version is on its way out.")
EDGE_FIELDS: Final[tuple[Field[object], ...]] = (
    *(_CORS, _IP, _REQUEST_HEADERS, _RESPONSE_HEADERS, _SECURITY_HEADERS, _REWRITE, _DEPRECATION),
)


def read_edge(values: Values, match: Match, schemes: frozenset[Scheme], paths: PathPolicy) -> Edge:
    """The fields above, from the values of a route. Notes what contradicts the rest of it."""
    cors, deprecation = values[_CORS], values[_DEPRECATION]
    if cors is not None:
        if match.methods and (foreign := sorted(set(cors.methods) - match.methods)):
            values.problem(_CORS, f"names {foreign[0]}, which the route does not take", "add the method to match")
        cors = complete(cors, match, schemes, deprecated=deprecation is not None)
        _check_not_cors(values, values[_RESPONSE_HEADERS])
    if (rewrite := values[_REWRITE]) is not None:
        _check_rewrite(values, match, rewrite, paths)
    return Edge(
        cross_origin=cors,
        addresses=values[_IP],
        request_headers=values[_REQUEST_HEADERS],
        response_headers=values[_RESPONSE_HEADERS],
        security=values[_SECURITY_HEADERS],
        rewrite=rewrite,
        deprecation=deprecation,
    )


def _check_not_cors(values: Values, edits: HeaderEdits | None) -> None:
    if edits is None:
        return
    named = [*(name for name, _ in edits.set), *(name for name, _ in edits.add), *edits.remove]
    if any(name.lower().startswith("access-control-") for name in named):
        values.problem(_RESPONSE_HEADERS, "changes a header that cors decides", "leave Access-Control-* to cors")


def _check_rewrite(values: Values, match: Match, rewrite: str, paths: PathPolicy) -> None:
    if paths is PathPolicy.RAW:
        # A raw parameter may be `..` or hold `%2F`: put into another path, it would lead out of it.
        values.problem(_REWRITE, "can't stand beside paths: raw", "use paths: normalize, or leave the path as it is")
    taken, written = parse_template(match.path), parse_template(rewrite)
    known = [segment.name for segment in taken if isinstance(segment, Parameter)]
    for segment in written:
        if isinstance(segment, Parameter) and segment.name not in known:
            mend = f"it has {', '.join(f'{{{name}}}' for name in known)}" if known else "it has none"
            values.problem(_REWRITE, f"names {{{segment.name}}}, which the path of the match does not have", mend)
    below = isinstance(taken[-1], Rest)
    if below and not isinstance(written[-1], Rest):
        values.problem(_REWRITE, "would send everything below the path to one path", "end it with /** too")
    if not below and isinstance(written[-1], Rest):
        values.problem(_REWRITE, "ends with /**, and the path of the match does not", "leave /** out")
