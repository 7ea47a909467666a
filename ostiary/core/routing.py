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

**Memory.** Of ten thousand routes none is in a cache of the processor when it is asked for, so each object on the way to it
costs more than a comparison: segments at which no paths part have no node, a path with one route leads to that, and what is
equal in many routes (a segment, a set of methods) is one object. See docs/decisions/0042-cold-routes.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple

from ostiary.core.model import Route
from ostiary.core.paths import Parameter, Rest, Segment, equivalent_path, parse_template

_NO_PARAMETERS: Mapping[str, bytes] = MappingProxyType({})


class RouteEntry:
    """A route as a table has it, and its place among all. `methods` is what it takes, None for any."""

    __slots__ = ("_parameters", "methods", "number", "route")

    def __init__(self, route: Route, number: int) -> None:
        """Raises ValueError for a path that is not well formed."""
        self.methods = frozenset(route.match.methods) or None
        self.number = number
        self.route = route
        template = parse_template(route.match.path)
        self._parameters = tuple((s.name, i + 1) for i, s in enumerate(template) if isinstance(s, Parameter))

    def parameters(self, path: bytes) -> Mapping[str, bytes]:
        """The segments behind `{names}` of a path that the route was found for, as they were sent."""
        if not self._parameters:
            return _NO_PARAMETERS
        segments = path.split(b"/")
        parameters = {}
        for name, position in self._parameters:  # a comprehension would cost a call before Python 3.12
            parameters[name] = segments[position]
        return parameters


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


# --- while a table is made --------------------------------------------------------------------------------------------


class _Several:
    """The routes of one host and path, by method; `any_method` takes the methods that none names."""

    __slots__ = ("any_method", "by_method")

    def __init__(self) -> None:
        self.by_method: dict[str, RouteEntry] = {}
        self.any_method: RouteEntry | None = None

    def add(self, entry: RouteEntry) -> None:
        if entry.methods is None:
            self.any_method = entry
        else:
            self.by_method.update(dict.fromkeys(entry.methods, entry))

    def or_else(self, less: _Several) -> _Several:
        """These routes, and behind them those of `less`."""
        if self.any_method is not None:
            return self
        both = _Several()
        both.by_method = less.by_method | self.by_method
        both.any_method = less.any_method
        return both

    def compiled(self) -> _End:
        """The route itself, where it is the only one and takes nothing less than it says."""
        entries = {id(entry): entry for entry in (*self.by_method.values(), self.any_method) if entry is not None}
        if len(entries) > 1:
            return self
        (only,) = entries.values()
        return only


_End = RouteEntry | _Several


class _Branch:
    """A segment of the tree, and what is behind it."""

    __slots__ = ("children", "end", "parameter", "rest")

    def __init__(self) -> None:
        self.children: dict[bytes, _Branch] = {}
        self.parameter: _Branch | None = None
        self.end: _Several | None = None
        self.rest: _Several | None = None

    def compiled(self, known: dict[bytes, bytes]) -> _Node:
        """`known` has the segments of other branches: one object stands for all that are equal."""
        before: list[bytes] = []
        branch = self
        while branch.leads_on:
            ((segment, branch),) = branch.children.items()
            before.append(known.setdefault(segment, segment))
        node = _Node()
        node.before = tuple(before)
        node.end = None if branch.end is None else branch.end.compiled()
        node.rest = None if branch.rest is None else branch.rest.compiled()
        node.parameter = None if branch.parameter is None else branch.parameter.compiled(known)
        node.children = {segment: child.compiled(known) for segment, child in branch.children.items()}
        return node

    @property
    def leads_on(self) -> bool:
        """Whether no path ends here, and all go on with one segment."""
        return len(self.children) == 1 and self.end is None and self.rest is None and self.parameter is None


class _Paths:
    """The paths of one host."""

    __slots__ = ("literal", "root")

    def __init__(self) -> None:
        self.literal: dict[bytes, _Several] = {}
        self.root: _Branch | None = None

    def at(self, template: tuple[Segment, ...]) -> _Several:
        """The place of routes with this path, made if there is none yet."""
        if all(isinstance(segment, bytes) for segment in template):
            return self.literal.setdefault(b"/" + b"/".join(s for s in template if isinstance(s, bytes)), _Several())
        branch = self.root = self.root or _Branch()
        for segment in template:
            if isinstance(segment, Rest):
                branch.rest = branch.rest or _Several()
                return branch.rest
            if isinstance(segment, Parameter):
                branch.parameter = branch.parameter or _Branch()
                branch = branch.parameter
            else:
                branch = branch.children.setdefault(segment, _Branch())
        branch.end = branch.end or _Several()
        return branch.end

    def compiled(self, known: dict[bytes, bytes]) -> _Host:
        """`/a` takes `/a/` too; the tree does the same while it is walked."""
        literal = {path: several.compiled() for path, several in self.literal.items()}
        for path, several in self.literal.items():
            if not path.endswith(b"/"):
                named = self.literal.get(path + b"/")
                literal[path + b"/"] = literal[path] if named is None else named.or_else(several).compiled()
        return _Host(literal, None if self.root is None else self.root.compiled(known))


# --- the compiled form ------------------------------------------------------------------------------------------------


class _Node:
    """A place in the tree where paths end or part. `before` are the segments, mostly none, that lead to it from where its
    parent's leads."""

    __slots__ = ("before", "children", "end", "parameter", "rest")

    def __init__(self) -> None:
        self.before: tuple[bytes, ...] = ()
        self.end: _End | None = None
        self.rest: _End | None = None
        self.parameter: _Node | None = None
        self.children: dict[bytes, _Node] = {}

    def reached(self, segments: list[bytes], at: int) -> int:
        """Where this node is, if `at` follows the segment that leads here; -1 if the path leads elsewhere."""
        before = self.before
        if before:
            if at + len(before) > len(segments):
                return -1
            for segment in before:
                if segments[at] != segment:
                    return -1
                at += 1
        return at


class _Host:
    """The paths of one host. Paths that are exact stand in `literal` alone: they come before all others."""

    __slots__ = ("literal", "root")

    def __init__(self, literal: dict[bytes, _End], root: _Node | None) -> None:
        self.literal = literal
        self.root = root


def _taker(end: _End, method: str) -> RouteEntry | None:
    if isinstance(end, _Several):
        return end.by_method.get(method) or end.any_method
    methods = end.methods
    return end if methods is None or method in methods else None


def _walk(root: _Node, segments: list[bytes], method: str) -> RouteEntry | None:
    """Depth first, in the order of precedence. A node is visited at most once, whatever the path."""
    node, at, count = root, root.reached(segments, 1), len(segments)
    pending: list[RouteEntry | tuple[_Node, int]] = []  # what to go back to, the best on top
    while True:
        if at == count:
            if (end := node.end) is not None and (taker := _taker(end, method)) is not None:
                return taker
            if (end := node.rest) is not None and (taker := _taker(end, method)) is not None:
                return taker
        elif at > 0:
            if (end := node.rest) is not None and (taker := _taker(end, method)) is not None:
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
                    and (taker := _taker(end, method)) is not None
                ):
                    pending.append(taker)
            if (child := node.children.get(segment)) is not None:
                if parameter is not None:
                    pending.append((parameter, at))
                node, at = child, child.reached(segments, at)
                continue
            if parameter is not None:
                node, at = parameter, parameter.reached(segments, at)
                continue
        if not pending:
            return None
        best = pending.pop()
        if not isinstance(best, tuple):
            return best
        node, at = best
        at = node.reached(segments, at)


def _ends(node: _Node, segments: list[bytes], at: int) -> Iterator[_End]:
    """Every end in the tree that the path reaches, whatever the method; `at` follows the segment that leads to the node."""
    at = node.reached(segments, at)
    if at < 0:
        return
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

    def __init__(self, entries: Sequence[RouteEntry]) -> None:
        """Raises ValueError if two routes take the same requests, or a path is not well formed."""
        for conflict in find_conflicts([entry.route for entry in entries]):
            raise ValueError(f"the routes {conflict.first.name!r} and {conflict.second.name!r} take the same requests")
        paths: dict[bytes, _Paths] = {}
        sets: dict[frozenset[str], frozenset[str]] = {}
        for entry in entries:
            if entry.methods is not None:
                entry.methods = sets.setdefault(entry.methods, entry.methods)
            template = parse_template(entry.route.match.path)
            for host in entry.route.match.hosts or ("",):
                paths.setdefault(host.encode("ascii").lower(), _Paths()).at(template).add(entry)
        segments: dict[bytes, bytes] = {}
        tables = {host: of_host.compiled(segments) for host, of_host in paths.items()}
        anywhere = tables.pop(b"", None)
        self._anywhere: tuple[_Host, ...] = () if anywhere is None else (anywhere,)
        # keyed by what follows the star: b".example.com"
        self._by_suffix = {host[1:]: table for host, table in tables.items() if host.startswith(b"*.")}
        self._by_host = {
            host: (table, *self._less_exact(host)) for host, table in tables.items() if not host.startswith(b"*.")
        }

    def match(self, host: bytes, path: bytes, method: str) -> RouteEntry | MethodNotAllowed | NoRoute:
        """`host` in lower case and without a port, `path` without the query, as it was sent. Raises nothing."""
        compared = equivalent_path(path) if 0x25 in path else path
        tables = self._by_host.get(host)
        if tables is None:
            tables = self._tables_of(host)
        segments: list[bytes] | None = None
        for table in tables:
            end = table.literal.get(compared)
            if end is not None and (taker := _taker(end, method)) is not None:
                return taker
            root = table.root
            if root is None:
                continue
            if segments is None:
                segments = compared.split(b"/")
                if segments[0] or len(segments) < 2:
                    return NO_ROUTE
            if (taker := _walk(root, segments, method)) is not None:
                return taker
        return self._refusal(tables, compared)

    def _tables_of(self, host: bytes) -> tuple[_Host, ...]:
        if host.endswith(b"."):  # the root label may be written (RFC 1034 §3.1); it must not lead past a host's routes
            host = host[:-1]
            if (tables := self._by_host.get(host)) is not None:
                return tables
        return self._less_exact(host)

    def _less_exact(self, host: bytes) -> tuple[_Host, ...]:
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
    def _refusal(tables: tuple[_Host, ...], path: bytes) -> MethodNotAllowed | NoRoute:
        methods: set[str] = set()
        segments = path.split(b"/")
        if segments[0] or len(segments) < 2:
            return NO_ROUTE
        for table in tables:
            ends = [] if table.root is None else list(_ends(table.root, segments, 1))
            if (exact := table.literal.get(path)) is not None:
                ends.append(exact)
            for end in ends:
                # One that takes any method would have taken this one.
                methods.update(end.by_method if isinstance(end, _Several) else end.methods or ())
        return MethodNotAllowed(tuple(sorted(methods))) if methods else NO_ROUTE


def compile_routes(routes: Sequence[Route]) -> RouteTable:
    """A table of the routes alone. Raises ValueError if two routes take the same requests (a checked configuration has
    none)."""
    return RouteTable([RouteEntry(route, number) for number, route in enumerate(routes)])


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
