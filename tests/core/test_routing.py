"""Which route takes a request. Invariant: the compiled tree answers as a reader of the rules would, who looks at every route
in turn."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ostiary.core.model import Authentication, Environment, Match, Route, Scheme
from ostiary.core.paths import TemplateError, equivalent_path, parse_template
from ostiary.core.routing import (
    NO_ROUTE,
    MethodNotAllowed,
    NoRoute,
    RouteEntry,
    RouteTable,
    compile_routes,
    find_conflicts,
    sample_requests,
)


def route(path: str, *, hosts: tuple[str, ...] = (), methods: Sequence[str] = (), name: str | None = None) -> Route:
    return Route(
        name=name or f"{','.join(methods) or 'any'} {path} {','.join(hosts)}".strip(),
        match=Match(path, hosts, frozenset(methods)),
        upstreams={Environment.LIVE: "upstream"},
        authentication=Authentication(frozenset({Scheme.BEARER})),
    )


def taken_by(routes: Sequence[Route], path: bytes, *, host: bytes = b"h", method: str = "GET") -> str | None:
    found = compile_routes(routes).match(host, path, method)
    return found.route.match.path if isinstance(found, RouteEntry) else None


# --- the rules, one by one --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"/v1/clients", "/v1/clients"),
        (b"/v1/clients/", "/v1/clients"),
        (b"/v1/clients/17", "/v1/clients/{id}"),
        (b"/v1/clients/17/", "/v1/clients/{id}"),
        (b"/v1/clients/new", "/v1/clients/new"),
        (b"/v1/clients/17/orders", "/v1/clients/{id}/orders"),
        (b"/v1/clients/new/orders", "/v1/clients/{id}/orders"),  # `new` leads nowhere: the parameter is tried
        (b"/v1/clients/17/other", "/v1/**"),
        (b"/v1/clientsX", "/v1/**"),
        (b"/v1", "/v1/**"),
        (b"/v1/", "/v1/**"),
        (b"/v1x", None),
        (b"/", None),
        (b"", None),
        (b"*", None),
        (b"v1/clients", None),
        (b"/v1/files/a/b", "/v1/files/**"),
        (b"/v1/closed/", "/v1/closed/"),
        (b"/v1/closed//", "/v1/**"),
        (b"/v1/closed", "/v1/**"),
        (b"//v1/clients", None),
        (b"/v1//clients", "/v1/**"),
        (b"/v1/clients//orders", "/v1/**"),  # a parameter is never empty
    ],
)
def test_the_most_specific_path_takes_the_call(path: bytes, expected: str | None) -> None:
    """A call would meet another route's scopes and upstream."""
    paths = ["/v1/**", "/v1/clients", "/v1/clients/{id}", "/v1/clients/new", "/v1/clients/{id}/orders"]
    paths += ["/v1/files/**", "/v1/closed/"]
    for routes in ([route(p) for p in paths], [route(p) for p in reversed(paths)]):
        assert taken_by(routes, path) == expected


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        (b"api.example.com", "api.example.com"),
        (b"api.example.com.", "api.example.com"),
        (b"www.example.com", "*.example.com"),
        (b"a.b.example.com", "*.b.example.com"),
        (b"c.a.b.example.com", "*.b.example.com"),
        (b"b.example.com", "*.example.com"),
        (b"example.com", ""),
        (b"notexample.com", ""),
        (b".example.com", ""),
        (b"", ""),
        (b"a" * 60_000, ""),
    ],
)
def test_the_most_specific_host_takes_the_call(host: bytes, expected: str) -> None:
    """One customer's host would be served by another's routes."""
    hosts = ["api.example.com", "*.example.com", "*.b.example.com", ""]
    routes = [route("/**", hosts=(h,) if h else (), name=h or "any") for h in hosts]
    found = compile_routes(routes).match(host, b"/x", "GET")
    assert isinstance(found, RouteEntry)
    assert found.route.match.hosts == ((expected,) if expected else ())


def test_a_host_without_the_path_leaves_the_call_to_less_specific_hosts() -> None:
    """A route for any host would end where some host has a route of its own."""
    routes = [route("/a", hosts=("h",)), route("/b", hosts=("*.h",)), route("/**")]
    assert taken_by(routes, b"/b", host=b"h") == "/**"
    assert taken_by(routes, b"/b", host=b"x.h") == "/b"


def test_methods_are_part_of_the_match() -> None:
    """Reads and writes of one path could not have routes of their own."""
    routes = [
        route("/a/{id}", methods=["GET"]),
        route("/a/**", methods=["POST", "PUT"]),
        route("/a/b", methods=["PUT"]),
    ]
    assert taken_by(routes, b"/a/b") == "/a/{id}"
    assert taken_by(routes, b"/a/b", method="POST") == "/a/**"
    assert taken_by(routes, b"/a/b", method="PUT") == "/a/b"
    table = compile_routes(routes)
    assert table.match(b"h", b"/a/b", "DELETE") == MethodNotAllowed(("GET", "POST", "PUT"))
    assert table.match(b"h", b"/a", "GET") == MethodNotAllowed(("POST", "PUT"))
    assert table.match(b"h", b"/b", "GET") is NO_ROUTE


def test_one_closing_slash_is_taken_and_not_two() -> None:
    """`/a//` is another path, which most routes refuse as ambiguous; a slash that a route names is its own."""
    assert taken_by([route("/{x}/"), route("/{x}/b")], b"/a//") is None
    assert taken_by([route("/{x}/"), route("/{x}/b")], b"/a/b//") is None
    routes = [route("/a/", methods=["GET"]), route("/a", methods=["GET", "POST"])]
    assert taken_by(routes, b"/a/") == "/a/"
    assert taken_by(routes, b"/a/", method="POST") == "/a"  # the route that names the slash does not take POST


def test_a_route_that_names_the_method_comes_before_one_for_any() -> None:
    """Two routes of one path would hide one another."""
    routes = [route("/a"), route("/a", methods=["GET"])]
    table = compile_routes(routes)
    for method, name in (("GET", "GET /a"), ("POST", "any /a")):
        found = table.match(b"h", b"/a", method)
        assert isinstance(found, RouteEntry)
        assert found.route.name == name


def test_parameters_are_given_as_they_were_sent() -> None:
    """The upstream would get another id than the caller named."""
    table = compile_routes([route("/a/{first}/b/{second}")])
    sent = b"/a/%41%2f/%62/x%7e/"
    found = table.match(b"h", sent, "GET")
    assert isinstance(found, RouteEntry)
    assert found.parameters(sent) == {"first": b"%41%2f", "second": b"x%7e"}


@pytest.mark.parametrize("path", [b"/%61dmin", b"/admi%6E", b"/%61%64%6d%69%6e/", b"/admin/"])
def test_another_spelling_does_not_step_around_a_route(path: bytes) -> None:
    """Row 39: `/admin/` and `/%61dmin` would reach the open route beside the protected one, and the upstream takes them for
    `/admin`."""
    assert taken_by([route("/admin"), route("/**")], path) == "/admin"
    assert (
        taken_by([route("/admin/**"), route("/**")], path + b"/x" if not path.endswith(b"/") else path) == "/admin/**"
    )


def test_what_is_not_the_same_path_is_not_made_the_same() -> None:
    """An encoded slash is no separator, and no case is folded: the upstream may tell them apart."""
    routes = [route("/a/b"), route("/A"), route("/x%20y")]
    assert taken_by(routes, b"/a%2fb") is None
    assert taken_by(routes, b"/a") is None
    assert taken_by(routes, b"/x%20y") == "/x%20y"
    assert taken_by(routes, b"/x y") is None
    assert taken_by([route("/x%c3%a9")], b"/x%C3%A9") == "/x%c3%a9"


@pytest.mark.parametrize(
    ("sent", "compared"),
    [
        (b"/%41%7e%2D", b"/A~-"),
        (b"/%2f%c3", b"/%2F%C3"),
        (b"/%zz%4", b"/%zz%4"),
        (b"/%2541", b"/%2541"),
        (b"/%%41", b"/%A"),
    ],
)
def test_only_unreserved_characters_are_decoded_and_only_once(sent: bytes, compared: bytes) -> None:
    """Row 41: decoding twice makes `%252e` a dot."""
    assert equivalent_path(sent) == compared


def test_routes_that_take_the_same_calls_are_not_compiled() -> None:
    """Which of them took a call would be chance."""
    same = [route("/a/{x}", methods=["GET"]), route("/a/{y}", methods=["GET", "PUT"])]
    (conflict,) = find_conflicts(same)
    assert (conflict.first, conflict.second, conflict.method) == (same[0], same[1], "GET")
    with pytest.raises(ValueError, match="take the same requests"):
        compile_routes(same)
    assert not list(find_conflicts([route("/a/{x}"), route("/a/**"), route("/a/b"), route("/a"), route("/a/")]))


def test_a_route_takes_the_requests_it_describes() -> None:
    """`config diff` asks with these what becomes of a route's calls."""
    for path in ("/a", "/a/{id}/b", "/a/**", "/**", "/a/"):
        alone = route(path, hosts=("h", "*.k"), methods=["GET", "PUT"])
        requests = list(sample_requests(alone))
        assert len(requests) == 4
        for host, sample, method in requests:
            assert isinstance(compile_routes([alone]).match(host, sample, method), RouteEntry)


# --- the compiled tree against the rules ------------------------------------------------------------------------------

_SEGMENTS = st.sampled_from(["a", "b", "%20", "{x}", "{y}"])
_TEMPLATES = st.builds(
    lambda segments, end: "/" + "/".join([*segments, *([end] if end is not None else [])]),
    st.lists(_SEGMENTS, max_size=4),
    st.sampled_from([None, "**", ""]),
)
_HOSTS = st.lists(st.sampled_from(["h", "g.h", "*.h", "*.g.h"]), max_size=2, unique=True).map(tuple)
_METHODS = st.lists(st.sampled_from(["GET", "PUT"]), max_size=2, unique=True)
_PATHS = st.lists(st.sampled_from(["a", "b", "%61", "%62", "%20", "c", ""]), max_size=5).map(
    lambda s: "/" + "/".join(s)
)


def _regular_expression(path: str) -> str:
    """The paths of a template, written down another way than the tree walks them."""
    if path.endswith("/**"):
        return "".join(f"/{_segment(s)}" for s in path[1:-3].split("/") if s) + "(?:/.*)?"
    return "".join(f"/{_segment(s)}" for s in path[1:].split("/")) + ("" if path.endswith("/") else "/?")


def _segment(text: str) -> str:
    return "[^/]+" if text.startswith("{") else re.escape(text)


def _host_rank(route: Route, host: str) -> tuple[int, int] | None:
    ranks = [(2, 0) for _ in [0] if not route.match.hosts]
    ranks += [(0, 0) for name in route.match.hosts if name == host]
    ranks += [(1, -len(name)) for name in route.match.hosts if name.startswith("*.") and host.endswith(name[1:])]
    return min(ranks, default=None)


def _reference(routes: Sequence[Route], host: str, path: str, method: str) -> Route | set[str]:
    """The route by the rules, or the methods there would be."""
    plain = path.replace("%61", "a").replace("%62", "b")
    fits = []
    for each in routes:
        rank = _host_rank(each, host)
        if rank is not None and re.fullmatch(_regular_expression(each.match.path), plain):
            kinds = [2 if s == "**" else 1 if s.startswith("{") else 0 for s in each.match.path[1:].split("/")]
            # A path that ends comes before one that goes on with /**, and one that ends as it was sent before all.
            closing = 0 if plain.endswith("/") == each.match.path.endswith("/") or 2 in kinds else 1
            own = kinds[:-1] if each.match.path.endswith("/") and each.match.path != "/" else kinds
            fits.append(((rank, [*own, -1] if 2 not in own else own, closing, not each.match.methods), each))
    taking = [(order, each) for order, each in fits if not each.match.methods or method in each.match.methods]
    if taking:
        return min(taking, key=lambda fit: fit[0])[1]
    return {name for _, each in fits for name in each.match.methods}


@given(
    st.lists(st.builds(lambda p, h, m: (p, h, m), _TEMPLATES, _HOSTS, _METHODS), min_size=1, max_size=12),
    st.lists(
        st.tuples(st.sampled_from(["h", "g.h", "f.g.h", "x"]), _PATHS, st.sampled_from(["GET", "PUT", "POST"])),
        min_size=1,
        max_size=12,
    ),
)
@settings(max_examples=600, deadline=None)
def test_the_tree_answers_as_the_rules_do(
    described: list[tuple[str, tuple[str, ...], list[str]]], calls: list[tuple[str, str, str]]
) -> None:
    """A route would be passed over, or take what is not its own, in some combination that nobody thought of."""
    routes: list[Route] = []
    for number, (path, hosts, methods) in enumerate(described):
        try:
            candidate = route(path, hosts=hosts, methods=methods, name=str(number))
            parse_template(path)
        except TemplateError:
            continue
        if not list(find_conflicts([*routes, candidate])):
            routes.append(candidate)
    table = compile_routes(routes)
    for host, path, method in calls:
        expected = _reference(routes, host, path, method)
        found = table.match(host.encode(), path.encode(), method)
        if isinstance(expected, Route):
            assert isinstance(found, RouteEntry), (host, path, method, expected)
            assert found.route is expected, (host, path, method)
        elif expected:
            assert found == MethodNotAllowed(tuple(sorted(expected)))
        else:
            assert isinstance(found, NoRoute)


@given(st.binary(max_size=40), st.binary(max_size=60), st.text(max_size=8))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_matched_or_not(host: bytes, path: bytes, method: str) -> None:
    """An exception in the match would end a connection, and its other calls."""
    table = compile_routes([route("/a/{x}/**", hosts=("*.h",)), route("/**", methods=["GET"]), route("/{a}/{b}")])
    table.match(host, path, method)


def test_ten_thousand_routes_match_as_fast_as_ten() -> None:
    """Each new customer would slow down every call."""

    def table(count: int) -> RouteTable:
        routes = [route(f"/v1/r{n}/**") for n in range(count // 2)]
        return compile_routes(routes + [route(f"/v1/r{n}/{{id}}/x") for n in range(count // 2)])

    best: dict[int, float] = {}
    tables = {count: table(count) for count in (10, 10_000)}
    for _ in range(15):  # in turn, so that what else the machine does meets both
        for count, each in tables.items():
            began = time.process_time()
            for _ in range(1000):
                each.match(b"h", b"/v1/r3/17/x", "GET")
            best[count] = min(best.get(count, 1.0), time.process_time() - began)
    assert best[10_000] < 1.5 * best[10], f"{best[10_000] / best[10]:.2f} times"
