"""What a change of routes and plans means for the keys there are: how many gain access, lose it, or lose their plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from ostiary.core.config.difference import Change, ChangeKind
from ostiary.core.model import Authentication, Configuration, Environment, Route, Scheme

# With more routes changed, times groups of keys, counting takes longer than a call may.
_LOOKS_MAX: Final = 1_000_000
# Stands for every method that no scope and no match names.
_ANY_OTHER: Final = "any other"
_OF_KEYS: Final = frozenset({Scheme.BEARER, Scheme.HMAC, Scheme.HMAC_BODY, Scheme.HTTP_SIGNATURE})
# The part of a route in whose line the count stands, the first of these that changed.
_FIELDS: Final = ("auth.scopes", "auth.schemes", "upstream", "match")


class KeyGroup(NamedTuple):
    """`keys` is how many keys are of this environment and plan, with exactly these scopes."""

    environment: Environment
    plan: str | None
    scopes: frozenset[str]
    keys: int


class Consequence(NamedTuple):
    """A change, and how many keys it gives access to, or takes it from; None where that is not what it is about."""

    change: Change
    keys_gaining: int | None = None
    keys_losing: int | None = None


def with_consequences(
    changes: Sequence[Change], before: Configuration, after: Configuration, groups: Sequence[KeyGroup] | None
) -> tuple[list[Consequence], bool]:
    """The changes in their order; and False if there was too much to count. `groups` None: there were too many already."""
    old, new = _routes(before), _routes(after)
    counted = _where_to_count(changes)
    if groups is None or len(counted) * len(groups) > _LOOKS_MAX:
        return [Consequence(change) for change in changes], False
    found = []
    for change in changes:
        kind, _, name = change.subject.partition(" ")
        if kind == "plan":
            found.append(Consequence(_of_plan(change, sum(group.keys for group in groups if group.plan == name))))
        elif kind == "route" and counted.get(name) is change:
            found.append(_of_route(change, old.get(name), new.get(name), groups))
        else:
            found.append(Consequence(change))
    return found, True


def _routes(configuration: Configuration) -> dict[str, Route]:
    return {route.name: route for route in configuration.routes}


def _where_to_count(changes: Sequence[Change]) -> Mapping[str, Change]:
    """By the name of a route whose access may change: the change that tells how."""
    found: dict[str, Change] = {}
    for change in changes:
        kind, _, name = change.subject.partition(" ")
        if kind != "route" or (change.field is not None and change.field not in _FIELDS):
            continue
        known = found.get(name)
        if known is None or _rank(change) < _rank(known):
            found[name] = change
    return found


def _rank(change: Change) -> int:
    return -1 if change.field is None else _FIELDS.index(change.field)


def _of_plan(change: Change, keys: int) -> Change:
    told: str | None
    if change.kind is ChangeKind.REMOVED:
        told = f"OPEN: {_keys(keys)} of this plan {_are(keys)} held to no plan from now on" if keys else "no key has it"
    elif change.kind is ChangeKind.ADDED:
        told = f"{_keys(keys)} {'names' if keys == 1 else 'name'} it already" if keys else None
    else:
        told = f"holds for {_keys(keys)}" if keys else "no key has it"
    return change._replace(meaning=_joined(change.meaning, told))


def _of_route(change: Change, old: Route | None, new: Route | None, groups: Sequence[KeyGroup]) -> Consequence:
    gaining = losing = 0
    methods = {*_methods(old), *_methods(new)}
    for group in groups:
        before, after = _allowed(old, group, methods), _allowed(new, group, methods)
        gaining += group.keys if after - before else 0
        losing += group.keys if before - after else 0
    told = [f"{_keys(gaining)} {'gains' if gaining == 1 else 'gain'} access"] if gaining else []
    told += [f"{_keys(losing)} {'loses' if losing == 1 else 'lose'} access"] if losing else []
    words = ", ".join(told) or "no key gains or loses access"
    if change.field == "auth.scopes" and old is not None and new is not None:
        words = f"{_scopes_changed(old.authentication, new.authentication)}: {words}"
    return Consequence(change._replace(meaning=_joined(change.meaning, words)), gaining, losing)


def _methods(route: Route | None) -> set[str]:
    """Those that the route tells apart."""
    if route is None:
        return set()
    named = {*route.authentication.scopes, *route.authentication.any_scopes} - {"*"}
    return {*route.match.methods, *named} if route.match.methods else {*named, _ANY_OTHER}


def _allowed(route: Route | None, group: KeyGroup, methods: set[str]) -> set[str]:
    """By which methods a key of the group may call, as the gateway decides it (`phases.authorize`)."""
    if route is None or group.environment not in route.upstreams:
        return set()
    authentication = route.authentication
    taken = {method for method in methods if not route.match.methods or method in route.match.methods}
    if Scheme.ANONYMOUS in authentication.schemes:
        return taken
    if not authentication.schemes & _OF_KEYS:
        return set()
    return {method for method in taken if not authentication.lacking(group.scopes, method)}


def _scopes_changed(old: Authentication, new: Authentication) -> str:
    told: dict[str, list[str]] = {}
    for method in sorted({*old.scopes, *new.scopes, *old.any_scopes, *new.any_scopes}):
        before = {*old.scopes.get(method, ()), *old.any_scopes.get(method, ())}
        after = {*new.scopes.get(method, ()), *new.any_scopes.get(method, ())}
        for scope, what in [
            *((scope, "removed") for scope in before - after),
            *((scope, "added") for scope in after - before),
        ]:
            told.setdefault(f"scope {scope} {what}", []).append(method)
    if not told:
        return "the same scopes are asked for in another way"
    return ", ".join(f"{what}{_where(methods)}" for what, methods in sorted(told.items()))


def _where(methods: list[str]) -> str:
    """HEAD goes with GET, and `*` needs no word."""
    named = [method for method in methods if method != "*" and not (method == "HEAD" and "GET" in methods)]
    return f" ({', '.join(named)})" if named else ""


def _joined(meaning: str | None, told: str | None) -> str | None:
    return "; ".join(part for part in (meaning, told) if part) or None


def _keys(count: int) -> str:
    return "1 key" if count == 1 else f"{count} keys"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"
