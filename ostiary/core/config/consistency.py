"""What only the whole file can tell: names that occur twice, routes that contradict one another, parts that nothing uses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ostiary.core.config.fields import At
from ostiary.core.config.problems import shown, suggestion
from ostiary.core.config.reading import Place, Reading
from ostiary.core.environments import crossings
from ostiary.core.model import NONCE_SCHEMES, Environment, Key, Route, Scheme, Stores
from ostiary.core.paths import Parameter, parse_template
from ostiary.core.routing import find_conflicts
from ostiary.core.scopes import covers, is_wildcard
from ostiary.core.upstream import HashSource, Upstream


def check_routes(reading: Reading, routes: tuple[At[Route], ...], upstreams: Mapping[str, At[Upstream]]) -> None:
    """Names and matches are unique; no upstream serves live keys in one place and test keys in another."""
    _check_unique(reading, "route", [(route.value.name, route.place) for route in routes])
    places = {id(route.value): route.place for route in routes}
    for conflict in find_conflicts([route.value for route in routes]):
        host, method = conflict.host or "any host", conflict.method or "any method"
        reading.problem(
            places[id(conflict.second)],
            f"takes the same calls as the route {conflict.first.name!r}: {method} of {conflict.second.match.path} "
            f"on {host}",
            "give them different paths, hosts or methods (GET includes HEAD)",
        )
    _check_environments(reading, routes)
    for name in sorted(reading.unused("upstream")):
        if name in upstreams:
            reading.warn(upstreams[name].place, "no route uses this upstream")
    _check_targets(reading, routes, upstreams)
    _check_hashing(reading, routes, upstreams)


def check_heads(reading: Reading, routes: tuple[At[Route], ...], head_bytes_max: int) -> None:
    """The gateway reads a head before it knows whose it is: a route can only want less."""
    for route, place in routes:
        if route.head_bytes_max is not None and route.head_bytes_max > head_bytes_max:
            reading.problem(
                place, "max_head is larger than gateway.limits.head, which holds first", "raise gateway.limits.head"
            )


def _check_environments(reading: Reading, routes: tuple[At[Route], ...]) -> None:
    """A test key never reaches a live upstream. An upstream is the live one of two, the test one of two, or serves both;
    which of these it is, every route must agree on."""
    places = {id(route.value): route.place for route in routes}
    for crossing in crossings(route.value for route in routes):
        reading.problem(
            places[id(crossing.second)],
            f"sends {crossing.second_role} to the upstream {crossing.upstream!r}, which serves {crossing.first_role} in the "
            f"route {crossing.first.name!r}",
            "give live and test keys upstreams of their own in both, or one name in both",
        )


def _check_targets(reading: Reading, routes: tuple[At[Route], ...], upstreams: Mapping[str, At[Upstream]]) -> None:
    """Two names for one server would let test keys reach it by the other name."""
    live: dict[tuple[str, int], str] = {}
    reached = [
        (environment, name)
        for route in routes
        if len(set(route.value.upstreams.values())) == len(route.value.upstreams)
        for environment, name in route.value.upstreams.items()
        if name in upstreams
    ]
    for environment, name in reached:
        if environment is Environment.LIVE:
            live.update({(target.host, target.port): name for target in upstreams[name].value.targets})
    for name in sorted({name for environment, name in reached if environment is Environment.TEST}):
        for target in upstreams[name].value.targets:
            if (other := live.get((target.host, target.port))) is not None and other != name:
                reading.warn(
                    upstreams[name].place,
                    f"serves test keys, and has a server in common with {other!r}, which serves live keys",
                )
                break


def _check_hashing(reading: Reading, routes: tuple[At[Route], ...], upstreams: Mapping[str, At[Upstream]]) -> None:
    """An upstream that hashes by a path parameter: every route to it has that parameter."""
    for route, place in routes:
        names = {segment.name for segment in parse_template(route.match.path) if isinstance(segment, Parameter)}
        for name in sorted(set(route.upstreams.values())):
            if name not in upstreams:
                continue
            hash_by = upstreams[name].value.hash_by
            if hash_by.source is HashSource.PATH_PARAMETER and hash_by.name not in names:
                reading.problem(
                    place,
                    f"sends calls to the upstream {name!r}, which goes by the path parameter {hash_by.name!r}, and its path "
                    "has none of that name",
                    suggestion(hash_by.name, sorted(names)) or "give it an upstream of its own",
                )


def check_keys(reading: Reading, keys: tuple[At[Key], ...], routes: tuple[At[Route], ...]) -> None:
    """Ids and secrets are unique (a bearer secret must name one key)."""
    _check_unique(reading, "key", [(key.value.id, key.place) for key in keys])
    owners: dict[bytes, Key] = {}
    asked_for = {
        scope
        for route in routes
        for asked in (route.value.authentication.scopes, route.value.authentication.any_scopes)
        for needed in asked.values()
        for scope in needed
    }
    for key, place in keys:
        for generation in (key, key.previous):
            owner = key if generation is None else owners.setdefault(generation.secret_sha256, key)
            if owner is not key and owner.id != key.id:
                reading.problem(
                    place, f"has the same secret as the key {owner.id!r}", "give each key a secret of its own"
                )
        for scope in sorted(key.scopes - asked_for):
            if is_wildcard(scope) and any(covers(frozenset({scope}), needed) for needed in asked_for):
                continue
            reading.warn(place, f"no route asks for its scope {scope!r}", suggestion(scope, sorted(asked_for)))
        if not any(_takes(route.value, key) for route in routes):
            reading.warn(place, f"no route takes {key.environment} keys")


def _takes(route: Route, key: Key) -> bool:
    return key.environment in route.upstreams and Scheme.ANONYMOUS not in route.authentication.schemes


def check_stores(
    reading: Reading,
    place: Place,
    stores: Stores,
    routes: tuple[At[Route], ...],
    keys: tuple[At[Key], ...],
) -> None:
    """What works less well than one may think without a store, or can't work at all."""
    schemes = _schemes(routes)
    if stores.redis is None and schemes & NONCE_SCHEMES:
        reading.warn(
            place,
            "signed calls without stores.redis: a nonce is known to this node alone, and only until it is restarted",
            "set stores.redis",
        )
    closed = [route for route in routes if stores.redis is None and route.value.on_store_failure == "closed"]
    for route in closed:
        reading.warn(route.place, "on_store_failure is closed and there is no stores.redis", "set stores.redis")
    if schemes - {Scheme.ANONYMOUS, Scheme.JWT} and not keys and stores.postgres is None:
        reading.warn(place, "nobody can call: there are neither keys in this file nor stores.postgres")


def _schemes(routes: Iterable[At[Route]]) -> set[Scheme]:
    return {scheme for route in routes for scheme in route.value.authentication.schemes}


def _check_unique(reading: Reading, what: str, named: list[tuple[str, Place]]) -> None:
    first: dict[str, Place] = {}
    for name, place in named:
        if (before := first.setdefault(name, place)) is not place:
            reading.problem(
                place, f"a second {what} is called {shown(name)}", f"the first is in line {before.node.line}"
            )
