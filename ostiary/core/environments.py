"""Live and test never cross. An upstream serves live keys alone, test keys alone, or both alike, and every route that
names it agrees on which: then no key of one environment can reach what is for the other, whatever becomes of a call
afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ostiary.core.model import Environment, Route

BOTH_ALIKE = "live and test keys alike"


def roles(upstreams: Mapping[Environment, str]) -> dict[str, str]:
    """Whom each upstream of a route serves, in words."""
    live, test = upstreams.get(Environment.LIVE), upstreams.get(Environment.TEST)
    if live is not None and live == test:
        return {live: BOTH_ALIKE}
    return {name: f"{environment} keys alone" for name, environment in ((live, "live"), (test, "test")) if name}


class Crossing(NamedTuple):
    """Two routes that do not agree on whom an upstream serves."""

    upstream: str
    first: Route
    first_role: str
    second: Route
    second_role: str


def crossings(routes: Iterable[Route]) -> list[Crossing]:
    """Every disagreement, with the first route that named the upstream."""
    first: dict[str, tuple[Route, str]] = {}
    found = []
    for route in routes:
        for name, role in roles(route.upstreams).items():
            before, known = first.setdefault(name, (route, role))
            if known != role:
                found.append(Crossing(name, before, known, route, role))
    return found
