"""Which route takes a request: the routes of a configuration, compiled so that a match costs the same for ten and for ten
thousand of them.

**Order.** Hosts first: an exact host, then `*.suffix` (the longest suffix first; it stands for any number of labels), then
routes without hosts. Within a host, paths are compared segment by segment from the left: an exact segment comes before a
`{parameter}`, which comes before `/**`; so the longest prefix wins. Methods are part of the match: of the routes whose host
and path fit, the first in this order *that takes the method* is the one. When there is none, the answer is the set of
methods that would have been taken.

**What is compared.** The bytes of the path as they were sent. Two spellings that RFC 3986 §6.2.2 calls equivalent are one:
an encoded unreserved character (`%63` for `c`) and the case of hexadecimal digits, so neither can step around a more
specific route. Nothing else is decoded, no dot segment is resolved: what is ambiguous is refused elsewhere, by the route's
path policy. `/a` also takes `/a/`, unless a route names `/a/`, for most servers treat the two as one, and a slash must not
lead past a protected route to an open one. The path is never rewritten here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple

from ostiary.core.model import Route
from ostiary.core.paths import Parameter, Rest, Segment, equivalent_path, parse_template

_NO_PARAMETERS: Mapping[str, bytes] = MappingProxyType({})


class RouteMatch(NamedTuple):
    """The route that takes the request, and its place among all. `parameters` are the segments behind `{names}`, as they
    were sent."""

    route: Route
    number: int
    path_template: str
    parameters: Mapping[str, bytes]


class MethodNotAllowed(NamedTuple):
    """Host and path fit at least one route, the method none; `allow` is sorted, for the `Allow` header."""

    allow: tuple[str, ...]


class NoRoute:
    """No route has this host and path."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "NO_ROUTE"


NO_ROUTE: Final = NoRoute()


class Conflict(NamedTuple):
    """Two routes that take the same request, so that neither comes first. `host` is None for routes without hosts,
    `method` None where both take any."""

    first: Route
    second: Route
    host: str | None
    method: str | None


# --- the compiled form ----------------------------------------------------------------------------------------------


class _Taker:
    """A route at the end of its path; `positions` says which segments are parameters."""

    __slots__ = ("match", "positions")

    def __init__(self, route: Route, number: int, positions: tuple[tuple[str, int], ...]) -> None:
        self.match = RouteMatch(route, number, route.match.path, _NO_PARAMETERS)
        self.positions = positions


class _End:
    """The routes of one host and path, by method; `any_method` takes the methods that none names."""

    __slots__ = ("any_method", "by_method")

    def __init__(self) -> None:
        self.by_method: dict[str, _Taker] = {}
        self.any_method: _Taker | None = None

    def or_else(self, less: _End) -> _End:
        """This end's routes, and behind them those of `less`."""
        if self.any_method is not None:
            return self
        both = _End()
        both.by_method = less.by_method | self.by_method
        both.any_method = less.any_method
        return both


class _Node:
    __slots__ = ("children", "end", "parameter", "rest")

    def __init__(self) -> None:
        self.children: dict[bytes, _Node] = {}
        self.parameter: _Node | None = None
        self.end: _End | None = None
        self.rest: _End | None = None


class _Paths:
    """The paths of one host. Paths that are exact stand in `literal` alone: they come before all others."""

    __slots__ = ("literal", "root")

    def __init__(self) -> None:
        self.literal: dict[bytes, _End] = {}
        self.root: _Node | None = None

    def end_of(self, template: tuple[Segment, ...]) -> _End:
        """The place of routes with this path, made if there is none yet."""
        if all(isinstance(segment, bytes) for segment in template):
            return self.literal.setdefault(b"/" + b"/".join(s for s in template if isinstance(s, bytes)), _End())
        node = self.root = self.root or _Node()
        for segment in template:
            if isinstance(segment, Rest):
                node.rest = node.rest or _End()
                return node.rest
            if isinstance(segment, Parameter):
                node.parameter = node.parameter or _Node()
                node = node.parameter
            else:
                node = node.children.setdefault(segment, _Node())
        node.end = node.end or _End()
        return node.end

    def take_closing_slashes(self) -> None:
        """`/a` takes `/a/` too; the tree does the same while it is walked."""
        for path, end in list(self.literal.items()):
            if not path.endswith(b"/"):
                named = self.literal.get(path + b"/")
                self.literal[path + b"/"] = end if named is None else named.or_else(end)


def _walk(root: _Node, segments: list[bytes], method: str) -> _Taker | None:
    """Depth first, in the order of precedence. A node is visited at most once, whatever the path."""
    node, at, count = root, 1, len(segments)
    pending: list[_Taker | tuple[_Node, int]] = []  # what to go back to, the best on top
    while True:
        if at == count:
            if (end := node.end) is not None and (taker := end.by_method.get(method) or end.any_method) is not None:
                return taker
            if (end := node.rest) is not None and (taker := end.by_method.get(method) or end.any_method) is not None:
                return taker
        else:
            if (end := node.rest) is not None and (taker := end.by_method.get(method) or end.any_method) is not None:
                pending.append(taker)
            segment = segments[at]
            at += 1
            parameter = node.parameter
            if not segment:
                parameter = None  # a parameter is never empty
                if (  # a closing slash, and not the second one
                    at == count
                    and segments[at - 2]
                    and (end := node.end) is not None
                    and (taker := end.by_method.get(method) or end.any_method) is not None
                ):
                    pending.append(taker)
            if (child := node.children.get(segment)) is not None:
                if parameter is not None:
                    pending.append((parameter, at))
                node = child
                continue
            if parameter is not None:
                node = parameter
                continue
        if not pending:
            return None
        best = pending.pop()
        if isinstance(best, _Taker):
            return best
        node, at = best


def _ends(node: _Node, segments: list[bytes], at: int) -> Iterator[_End]:
    """Every end in the tree that the path reaches, whatever the method."""
    if node.rest is not None:
        yield node.rest
    remaining = len(segments) - at
    if node.end is not None and (remaining == 0 or (remaining == 1 and not segments[at] and segments[at - 1])):
        yield node.end
    if remaining:
        if (child := node.children.get(segments[at])) is not None:
            yield from _ends(child, segments, at + 1)
        if node.parameter is not None and segments[at]:
            yield from _ends(node.parameter, segments, at + 1)


class RouteTable:
    """Compiled routes; immutable once made. See the module for the order in which routes are tried."""

    __slots__ = ("_anywhere", "_by_host", "_by_suffix")

    def __init__(self, routes: Sequence[Route]) -> None:
        """Raises ValueError if two routes take the same requests, or a path is not well formed."""
        for conflict in find_conflicts(routes):
            raise ValueError(f"the routes {conflict.first.name!r} and {conflict.second.name!r} take the same requests")
        tables: dict[bytes, _Paths] = {}
        for number, route in enumerate(routes):
            template = parse_template(route.match.path)
            positions = tuple((s.name, i + 1) for i, s in enumerate(template) if isinstance(s, Parameter))
            taker = _Taker(route, number, positions)
            for host in route.match.hosts or ("",):
                end = tables.setdefault(host.encode("ascii").lower(), _Paths()).end_of(template)
                if route.match.methods:
                    end.by_method.update(dict.fromkeys(route.match.methods, taker))
                else:
                    end.any_method = taker
        for table in tables.values():
            table.take_closing_slashes()
        anywhere = tables.pop(b"", None)
        self._anywhere: tuple[_Paths, ...] = () if anywhere is None else (anywhere,)
        # keyed by what follows the star: b".example.com"
        self._by_suffix = {host[1:]: table for host, table in tables.items() if host.startswith(b"*.")}
        self._by_host = {
            host: (table, *self._less_exact(host)) for host, table in tables.items() if not host.startswith(b"*.")
        }

    def match(self, host: bytes, path: bytes, method: str) -> RouteMatch | MethodNotAllowed | NoRoute:
        """`host` in lower case and without a port, `path` without the query, as it was sent. Raises nothing."""
        compared = equivalent_path(path) if 0x25 in path else path
        tables = self._by_host.get(host)
        if tables is None:
            tables = self._tables_of(host)
        segments: list[bytes] | None = None
        for table in tables:
            end = table.literal.get(compared)
            if end is not None:
                taker = end.by_method.get(method) or end.any_method
                if taker is not None:
                    return taker.match
            root = table.root
            if root is None:
                continue
            if segments is None:
                segments = compared.split(b"/")
                if segments[0] or len(segments) < 2:
                    return NO_ROUTE
            taker = _walk(root, segments, method)
            if taker is not None:
                if not taker.positions:
                    return taker.match
                sent = segments if compared is path else path.split(b"/")
                parameters = {}
                for name, position in taker.positions:  # a comprehension would cost a call before Python 3.12
                    parameters[name] = sent[position]
                return RouteMatch(taker.match.route, taker.match.number, taker.match.path_template, parameters)
        return self._refusal(tables, compared)

    def _tables_of(self, host: bytes) -> tuple[_Paths, ...]:
        if host.endswith(b"."):  # the root label may be written (RFC 1034 §3.1); it must not lead past a host's routes
            host = host[:-1]
            if (tables := self._by_host.get(host)) is not None:
                return tables
        return self._less_exact(host)

    def _less_exact(self, host: bytes) -> tuple[_Paths, ...]:
        """The tables of the wildcards that cover `host`, the longest first, then the one for any host."""
        if not self._by_suffix:
            return self._anywhere
        found = []
        dot = host.find(b".", 1)
        while dot != -1:
            if (table := self._by_suffix.get(host[dot:])) is not None:
                found.append(table)
            dot = host.find(b".", dot + 1)
        return (*found, *self._anywhere)

    @staticmethod
    def _refusal(tables: tuple[_Paths, ...], path: bytes) -> MethodNotAllowed | NoRoute:
        methods: set[str] = set()
        segments = path.split(b"/")
        if segments[0] or len(segments) < 2:
            return NO_ROUTE
        for table in tables:
            if (end := table.literal.get(path)) is not None:
                methods.update(end.by_method)
            if table.root is not None:
                for end in _ends(table.root, segments, 1):
                    methods.update(end.by_method)
        return MethodNotAllowed(tuple(sorted(methods))) if methods else NO_ROUTE


def compile_routes(routes: Sequence[Route]) -> RouteTable:
    """Raises ValueError if two routes take the same requests (a checked configuration has none)."""
    return RouteTable(routes)


def find_conflicts(routes: Sequence[Route]) -> Iterator[Conflict]:
    """Every route that takes requests which an earlier one takes with the same precedence: same host, same path but for the
    names of its parameters, and a method in common (or any method in both). A route is named at most once."""
    taken: dict[tuple[str, tuple[object, ...], str | None], Route] = {}
    for route in routes:
        shape = tuple(type(s) if isinstance(s, Parameter) else s for s in parse_template(route.match.path))
        clash: Conflict | None = None
        for host in route.match.hosts or ("",):
            for method in sorted(route.match.methods) or (None,):
                first = taken.setdefault((host, shape, method), route)
                if first is not route and clash is None:
                    clash = Conflict(first, route, host or None, method)
        if clash is not None:
            yield clash


def sample_requests(route: Route) -> Iterator[tuple[bytes, bytes, str]]:
    """Host, path and method of requests that the route's match describes, one for each of its hosts and methods: for
    questions about a configuration ("who takes these calls now?")."""
    texts = []
    for segment in parse_template(route.match.path):
        if isinstance(segment, Rest):
            texts.append(b"example")
        else:
            texts.append(b"example-" + segment.name.encode("ascii") if isinstance(segment, Parameter) else segment)
    path = b"/" + b"/".join(texts)
    for host in route.match.hosts or ("any.invalid",):
        for method in sorted(route.match.methods) or ("GET",):
            yield host.replace("*", "any", 1).encode("ascii"), path, method
