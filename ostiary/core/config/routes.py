"""The section `routes`: which calls are taken, who may make them, and where they go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from ostiary.core.config.addresses import RouteHost, RoutePath
from ostiary.core.config.costs import COST
from ostiary.core.config.edge import EDGE_FIELDS, read_edge
from ostiary.core.config.fields import (
    Kind,
    ListOf,
    MapOf,
    NameOrRecord,
    Placed,
    Record,
    Schema,
    Values,
    defaulted,
    optional,
    required,
)
from ostiary.core.config.gzip import GZIP_CHOICE
from ostiary.core.config.kinds import Choice, NameUse, Size, TextKind, or_reference
from ostiary.core.config.methods import METHODS, Method
from ostiary.core.config.plans import NAME
from ostiary.core.config.reading import Place, Reading, Refused
from ostiary.core.config.route_limits import ROUTE_LIMIT, are_leased_in_vain, problem_of_twins
from ostiary.core.model import (
    Authentication,
    Environment,
    LimitBy,
    Match,
    PathPolicy,
    Priority,
    Route,
    Scheme,
    StoreFailure,
    Upgrade,
)
from ostiary.core.scopes import is_wildcard
from ostiary.core.signature_base import Uncoverable, component_text
from ostiary.core.structured_fields import Malformed

_HOSTS = optional("hosts", ListOf(RouteHost(), low=1, high=1000), "Hosts it is for; any if not given.")
_PATH = required("path", RoutePath(), "The path it is for. `/**` takes the path before it and everything below.")
_METHODS = optional(
    "methods", ListOf(Method(), low=1, high=len(METHODS)), "Methods it takes (GET takes HEAD too); any if not given."
)


def _match(values: Values) -> Match:
    hosts, methods_given = values[_HOSTS], values[_METHODS]
    methods = frozenset(methods_given or ())
    if "GET" in methods:  # HEAD is GET without the body (RFC 9110 §9.3.2): who offers the one offers the other
        methods |= {"HEAD"}
    return Match(path=values[_PATH], hosts=tuple(dict.fromkeys(hosts or ())), methods=methods)


MATCH: Record[Match] = Record(
    "Match", "Which calls a route takes; all that is given must fit.", (_HOSTS, _PATH, _METHODS), _match
)

# --- who may call -----------------------------------------------------------------------------------------------------

_LATER: Final = {
    "oauth": "use bearer or hmac",
}
SCOPE = TextKind(
    r"[a-z0-9_.:*-]{1,64}", "a scope of up to 64 of a-z, 0-9, `_`, `.`, `:`, `*` and `-`, as in `clients:read`"
)
# Of other issuers too, who write them in their own ways (`User.Read`, `https://api.example.com/orders`; RFC 6749 §3.3).
NEEDED_SCOPE = TextKind(
    r"[A-Za-z0-9_.:*/-]{1,128}",
    "a scope of up to 128 letters, digits, `_`, `.`, `:`, `*`, `/` and `-`, as in `clients:read`",
)
_ALL_OF = defaulted("all", ListOf(NEEDED_SCOPE, high=64), "All of these.", [])
_ANY_OF = defaulted("any", ListOf(NEEDED_SCOPE, high=64), "One of these, if there are any.", [])


class NeededScopes(NamedTuple):
    all_of: frozenset[str]
    any_of: frozenset[str]


SCOPE_RULE: Record[NeededScopes] = Record(
    "Needed scopes",
    "The scopes of one method, in long form.",
    (_ALL_OF, _ANY_OF),
    lambda values: NeededScopes(frozenset(values[_ALL_OF]), frozenset(values[_ANY_OF])),
)


class AllOf(Kind[NeededScopes]):
    """A list in short form: all of them are needed."""

    _LIST: Final = ListOf(NEEDED_SCOPE, high=64)

    def read(self, place: Place, reading: Reading) -> NeededScopes | Refused:
        scopes = self._LIST.read(place, reading)
        return scopes if isinstance(scopes, Refused) else NeededScopes(frozenset(scopes), frozenset())

    def schema(self) -> Schema:
        return self._LIST.schema()

    @property
    def words(self) -> str:
        return self._LIST.words


_SCHEMES = required(
    "schemes",
    ListOf(Choice(Scheme, later=_LATER), low=1, high=len(Scheme)),
    "How a caller proves who it is; any one of them is enough. `[anonymous]` opens the route to everyone.",
)
_SCOPES = defaulted(
    "scopes",
    MapOf(Method(or_star=True), NameOrRecord(AllOf(), SCOPE_RULE), high=len(METHODS) + 1),
    "The scopes that each method needs: a list for all of them, `{any: […]}` for one of them; `[]` for none. If any are "
    "given, every method must be named.",
    {},
)
_ISSUERS = defaulted(
    "issuers", ListOf(NameUse("issuer"), high=100), "Whose tokens are taken; for the scheme `jwt`.", []
)


class SignedComponent(Kind[str]):
    """A component that a signature of RFC 9421 can cover, without parameters."""

    words = "a component of RFC 9421: a header's name in lower case, or `@authority`, `@target-uri` and their like"

    def read(self, place: Place, reading: Reading) -> str | Refused:
        text = reading.text(place)
        if isinstance(text, Refused):
            return text
        name = text.value
        try:
            component_text(name)
        except (Uncoverable, Malformed) as error:
            return reading.problem(place, f"can't be signed: {error}", f"must be {self.words}")
        return name

    def schema(self) -> Schema:
        return or_reference({"type": "string", "pattern": r"^(@[a-z-]{4,20}|[a-z0-9!#$%&'*+.^_`|~-]{1,64})$"})


_COMPONENTS = defaulted(
    "components",
    ListOf(SignedComponent(), high=16),
    "What a signature of the scheme `http-signature` must cover besides the method, the target and the digest of a body: "
    "`@authority`, or headers by their names in lower case.",
    [],
)


def _auth(values: Values) -> Authentication:
    schemes = frozenset(values[_SCHEMES])
    if values[_COMPONENTS] and Scheme.HTTP_SIGNATURE not in schemes:
        values.problem(_COMPONENTS, "only http-signature has components", "add it to schemes, or remove the components")
    if Scheme.ANONYMOUS in schemes and len(schemes) > 1:
        values.problem(
            _SCHEMES,
            "'anonymous' lets everyone in, so the other schemes mean nothing",
            "remove it, or leave it alone",
        )
    if Scheme.ANONYMOUS in schemes and values[_SCOPES]:
        values.problem(_SCOPES, "an anonymous caller has no scopes", "remove the scopes, or choose another scheme")
    if Scheme.JWT in schemes and not values[_ISSUERS]:
        values.problem(_SCHEMES, "'jwt' needs to know whose tokens are taken", "add issuers: [name] beside schemes")
    if Scheme.JWT not in schemes and values[_ISSUERS]:
        values.problem(_ISSUERS, "means nothing without the scheme 'jwt'", "add jwt to schemes, or remove it")
    needed = dict(values[_SCOPES])
    if "GET" in needed and "HEAD" not in needed:
        needed["HEAD"] = needed["GET"]
    for scope in sorted(
        {scope for rule in needed.values() for scopes in rule for scope in scopes if is_wildcard(scope)}
    ):
        values.reading.warn(
            values.place_of(_SCOPES),
            f"asks for {scope!r}: a wildcard is for keys, and this one is covered by itself and wider ones alone",
            "name the scopes; {any: […]} takes one of several",
        )
    return Authentication(
        schemes=schemes,
        scopes={method: rule.all_of for method, rule in needed.items()},
        any_scopes={method: rule.any_of for method, rule in needed.items() if rule.any_of},
        issuers=tuple(dict.fromkeys(values[_ISSUERS])),
        components=tuple(dict.fromkeys(values[_COMPONENTS])),
    )


AUTH: Record[Authentication] = Record("Auth", "Who may call.", (_SCHEMES, _ISSUERS, _SCOPES, _COMPONENTS), _auth)

# --- where calls go ---------------------------------------------------------------------------------------------------


class Both(Kind[Mapping[Environment, str]]):
    """One name: the upstream of live and test keys alike."""

    _NAME: Final = NameUse("upstream")

    def read(self, place: Place, reading: Reading) -> Mapping[Environment, str] | Refused:
        name = self._NAME.read(place, reading)
        return name if isinstance(name, Refused) else dict.fromkeys(Environment, name)

    def schema(self) -> Schema:
        return self._NAME.schema()

    @property
    def words(self) -> str:
        return self._NAME.words


_LIVE = optional("live", NameUse("upstream"), "Where the calls of live keys go; without it they get 403.")
_TEST = optional("test", NameUse("upstream"), "Where the calls of test keys go; without it they get 403.")


def _environments(values: Values) -> Mapping[Environment, str] | Refused:
    named = {Environment.LIVE: values[_LIVE], Environment.TEST: values[_TEST]}
    given = {environment: name for environment, name in named.items() if name is not None}
    if not given:
        return values.reading.problem(values.place, "names no upstream", "give live, test, or both")
    return given


ENVIRONMENTS: Record[Mapping[Environment, str]] = Record(
    "Environments",
    "An upstream for each environment. An upstream that is one route's `live` can't be where another route sends test keys.",
    (_LIVE, _TEST),
    _environments,
)

_NAME = required("name", NAME, "Its name in logs, metrics and usage.")
_MATCH = required("match", MATCH, "Which calls it takes.")
UPSTREAM_OF_ROUTE = required(
    "upstream", NameOrRecord(Both(), ENVIRONMENTS), "Where calls go. One name serves live and test keys alike."
)
_AUTH = required(
    "auth",
    AUTH,
    "Who may call.",
    missing="say who may call: auth: {schemes: [bearer]}, or {schemes: [anonymous]} to let everyone in",
)
_LIMITS = defaulted("limits", ListOf(ROUTE_LIMIT, high=16), "Limits besides the plan of the key.", [])
_COST = defaulted("cost", COST, "What a call takes of its limits.", 1)
_ON_STORE_FAILURE = defaulted(
    "on_store_failure",
    Choice(StoreFailure),
    "While Redis is away: each node counts its share, all are let in, or all are refused.",
    "local",
)
_PATHS = defaulted(
    "paths",
    Choice(PathPolicy),
    "Ambiguous paths (dot segments, `//`, `%2F`): refuse, resolve once, or pass on.",
    "strict",
)
_PRIORITY = defaulted(
    "priority",
    Choice(Priority),
    "Whose calls an overloaded gateway refuses first: `low` before `normal`, and `high` last.",
    "normal",
)
_MAX_BODY = defaulted("max_body", Size("0B", "1TiB"), "Largest request body; beyond it 413.", "1TiB")
_MAX_SIGNED_BODY = defaulted(
    "max_signed_body",
    Size("0B", "1GiB"),
    "Largest body of a signed call, which is held back until its signature has verified; beyond it 413.",
    "1MiB",
)
_UPGRADES = defaulted(
    "upgrades",
    ListOf(Choice(Upgrade), high=len(Upgrade)),
    "Protocols that a call may change its connection to. Others are ignored, and never asked for upstream.",
    [],
)


_MAX_HEAD = optional(
    "max_head",
    Size("1KiB", "1MiB"),
    "Largest request head on this route; beyond it 431. The gateway's own bound holds before the route is known.",
)
_GZIP = optional(
    "gzip", GZIP_CHOICE, "Compress answers for clients that take it. Read about BREACH below before you do."
)


def _route(values: Values) -> Route:
    match, authentication = values[_MATCH], values[_AUTH]
    _check_scopes(values, match, authentication)
    anonymous = Scheme.ANONYMOUS in authentication.schemes
    of_a_key = {LimitBy.KEY, LimitBy.APP, LimitBy.ORGANIZATION}
    if anonymous and (wrong := sorted(limit.by for limit in values[_LIMITS] if limit.by in of_a_key)):
        values.problem(_LIMITS, f"an anonymous caller has no {wrong[0]} to count by", "count by ip or route")
    if (twins := problem_of_twins(values[_LIMITS])) is not None:
        values.problem(_LIMITS, twins, "leave the smaller one: both would have to hold")
    if are_leased_in_vain(values[_LIMITS]):
        values.problem(
            _LIMITS,
            "some are leased and some are not: each call would ask Redis all the same",
            "lease all limits of the route, or none",
        )
    if anonymous and Environment.LIVE not in values[UPSTREAM_OF_ROUTE]:
        values.problem(
            UPSTREAM_OF_ROUTE,
            "anonymous calls are live calls, and there is no live upstream",
            "name one upstream, or add live",
        )
    if values.given(_MAX_SIGNED_BODY) and values[_MAX_SIGNED_BODY] > values[_MAX_BODY]:
        values.problem(_MAX_SIGNED_BODY, "is larger than max_body, which holds for every call", "raise max_body")
    if values[_UPGRADES] and match.methods and "GET" not in match.methods:
        values.problem(
            _UPGRADES, "a WebSocket begins with GET, which the route does not take", "add GET to match.methods"
        )
    if match.methods and (foreign := sorted(set(values[_COST].methods) - match.methods - {"HEAD"})):
        values.problem(_COST, f"names {', '.join(foreign)}, which the route does not take", "add the method to match")
    return Route(
        name=values[_NAME],
        match=match,
        upstreams=values[UPSTREAM_OF_ROUTE],
        authentication=authentication,
        limits=values[_LIMITS],
        on_store_failure=values[_ON_STORE_FAILURE],
        paths=values[_PATHS],
        priority=values[_PRIORITY],
        body_bytes_max=values[_MAX_BODY],
        signed_body_bytes_max=min(values[_MAX_SIGNED_BODY], values[_MAX_BODY]),
        upgrades=frozenset(values[_UPGRADES]),
        edge=read_edge(values, match, authentication.schemes, values[_PATHS]),
        head_bytes_max=values[_MAX_HEAD],
        gzip=values[_GZIP],
        cost=values[_COST],
    )


def _check_scopes(values: Values, match: Match, authentication: Authentication) -> None:
    """A method that was forgotten among the scopes would be open to every key: say which scopes it needs, or that it needs
    none."""
    scopes = authentication.scopes
    if not scopes:
        return
    if match.methods:
        if foreign := sorted(set(scopes) - match.methods - {"*", "HEAD"}):
            values.problem(
                _AUTH,
                f"names scopes for {', '.join(foreign)}, which the route does not take",
                "add the method to match",
            )
        missing = sorted(match.methods - set(scopes))
    else:
        missing = ["other methods"]
    if missing and "*" not in scopes:
        first = missing[0] if match.methods else "'*'"
        values.problem(
            _AUTH,
            f"names scopes, but none for {', '.join(missing)}: any key could call with that",
            f"add {first}: [scope], or {first}: [] if it needs none",
        )


ROUTE: Record[Route] = Record(
    "Route",
    "Calls of one kind. The order of routes means nothing: the most specific one that takes the method is used.",
    (
        *(_NAME, _MATCH, UPSTREAM_OF_ROUTE, _AUTH, _LIMITS, _COST, _ON_STORE_FAILURE, _PATHS, _PRIORITY),
        *(_MAX_HEAD, _MAX_BODY, _MAX_SIGNED_BODY, _UPGRADES, _GZIP),
        *EDGE_FIELDS,
    ),
    _route,
)
ROUTES = ListOf(Placed(ROUTE), high=100_000)
