"""Many routes: their part of a configuration, and a request target for each of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from ostiary.core.config import load_text
from ostiary.core.routing import RouteTable, compile_routes

# Exact paths, paths with a parameter, and prefixes, as a real table has them: what is written, and what is asked for.
_KINDS = (("items", "items"), ("items/{id}", "items/7"), ("files/**", "files/a/b"))
_ROUTE = """\
  - name: route-{number}
    match: {{path: "/v1/service-{number:05}/{path}", methods: [GET, POST]}}
    upstream: {{live: api, test: api}}
    auth: {{schemes: [anonymous]}}
"""


def routes_text(count: int) -> str:
    """`count` items of the section `routes`, each with a path of its own."""
    return "".join(_ROUTE.format(number=number, path=_KINDS[number % 3][0]) for number in range(count))


def routes_targets(count: int) -> tuple[str, ...]:
    """A target for each route; all are of one length (what is missing is made up by the query)."""
    targets = [f"/v1/service-{number:05}/{_KINDS[number % 3][1]}" for number in range(count)]
    longest = max(map(len, targets))
    return tuple(f"{target}?q=".ljust(longest + 3, "x") for target in targets)


def routes_table(count: int) -> RouteTable:
    """`count` routes, compiled as a gateway does it."""
    text = f"version: 1\ngateway: {{}}\nupstreams:\n  api: {{targets: [{{url: 'http://127.0.0.1:1'}}]}}\nroutes:\n{routes_text(count)}"
    return compile_routes(load_text(text, name="routes.yaml", environment={}).routes)


def finding(count: int, *, targets: Sequence[str]) -> Callable[[], object]:
    """Finds the route of the next target among `count`. The path is a new string each time, as it is in a request, so that
    its hash is made anew."""
    table = routes_table(count)
    heads = itertools.cycle([f"GET {target}".encode() for target in targets])

    def find() -> object:
        path = next(heads)[4:].partition(b"?")[0]
        return table.match(b"api.example.com", path, "GET")

    return find
