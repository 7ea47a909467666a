"""Lines that a route takes away and adds, on the way there and back."""

from __future__ import annotations

import pytest

from ostiary.core.config.header_edits import RESERVED_IN_REQUESTS, SECURITY_DEFAULTS
from ostiary.core.edge import NO_SECURITY_HEADERS, Framing, SecurityHeaders
from ostiary.gateway.edge.security import SecurityLines
from ostiary.gateway.wire.grammar import REQUEST_HEADERS, RequestHeader
from tests.gateway.edge.serving import KEY, served
from tests.support.origin import answer_with

OVERRIDES = ("X-HTTP-Method-Override: DELETE", "X-Original-URL: /admin/1", "X-Rewrite-URL: /admin/1")
GUARDED = """
- name: read
  match: {path: "/items/**", methods: [GET]}
  upstream: origin
  auth: {schemes: [anonymous]}
- name: admin
  match: {path: "/admin/**"}
  upstream: origin
  auth: {schemes: [bearer]}
- name: stripped
  match: {path: "/stripped/**"}
  upstream: origin
  auth: {schemes: [anonymous]}
  request_headers: {remove: [X-HTTP-Method-Override, X-Original-URL, X-Rewrite-URL]}
"""


@pytest.mark.parametrize("line", OVERRIDES)
async def test_a_header_that_claims_another_method_or_path_changes_no_policy(line: str) -> None:
    """Row 47: frameworks behind a gateway obey these; a gateway that did would let one route's callers act on another's."""
    async with served(GUARDED) as site:
        assert (await site.ask("/items/1", line)).status == 200
        assert (await site.ask("/admin/1", line)).status == 401
        assert (await site.ask("/items/1", line, method="POST")).status == 405
        assert [(seen.method, seen.target) for seen in site.origin.seen] == [("GET", "/items/1")]
        name, _, value = line.partition(": ")
        assert site.origin.seen[0].one(name) == value


@pytest.mark.parametrize("line", OVERRIDES)
async def test_such_a_header_can_be_kept_from_an_upstream_that_obeys_it(line: str) -> None:
    """Row 47: the upstream would act on what was never authorized."""
    async with served(GUARDED) as site:
        name, _, value = line.partition(": ")
        await site.ask("/stripped/1", line, f"{name.upper()}: {value}", f"{name.lower()}:{value}", "X-Other: 1")
        assert site.origin.seen[0].all(name) == []
        assert site.origin.seen[0].one("x-other") == "1"


async def test_request_headers_are_set_added_and_removed() -> None:
    """A value that a client could put beside the set one would be taken for the operator's."""
    routes = """
    - name: all
      match: {path: "/**"}
      upstream: origin
      auth: {schemes: [bearer]}
      request_headers: {set: {X-Tenant: "acme ltd", X-Upstream-Token: "${SECRET}"}, add: {X-Trace: gateway}, remove: [Cookie]}
    """
    async with served(routes) as site:
        lines = (
            "x-tenant: evil",
            "X-Tenant: evil",
            "X-Trace: client",
            "Cookie: a=1",
            "cookie: b=2",
            "Connection: X-Tenant",
        )
        answer = await site.ask("/", *lines, f"Authorization: Bearer {KEY}")
        assert answer.status == 200
        seen = site.origin.seen[0]
        assert seen.all("x-tenant") == ["acme ltd"]
        assert seen.all("x-upstream-token") == [KEY]
        assert seen.all("x-trace") == ["client", "gateway"]
        assert seen.all("cookie") == []
        assert seen.one("x-ostiary-key") == "ak_test_1"


async def test_response_headers_are_set_added_and_removed() -> None:
    """What an upstream tells about itself stays within, and what is set is there once."""
    upstream = (
        b"HTTP/1.1 200 OK\r\nX-Powered-By: PHP/5\r\nserver: old\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n"
        b"Cache-Control: public\r\nContent-Length: 2\r\n\r\nok"
    )
    routes = """
    - name: all
      match: {path: "/**"}
      upstream: origin
      auth: {schemes: [anonymous]}
      response_headers: {set: {Cache-Control: no-store}, add: {X-Region: eu}, remove: [X-Powered-By, Server]}
    """
    async with served(routes, answer=answer_with(upstream)) as site:
        answer = await site.ask("/")
        assert answer.all("x-powered-by") == answer.all("server") == []
        assert answer.all("set-cookie") == ["a=1", "b=2"]
        assert answer.all("cache-control") == ["no-store"]
        assert answer.all("x-region") == ["eu"]
        assert answer.body == b"ok"


def test_nothing_that_the_gateway_reads_or_says_itself_can_be_edited() -> None:
    """A name that is new among those the gateway decides has to be refused in the configuration too."""
    own = {
        name.decode() for name, kind in REQUEST_HEADERS.items() if kind not in (RequestHeader.PASS, RequestHeader.NOTED)
    }
    assert own <= RESERVED_IN_REQUESTS


# --- security headers -------------------------------------------------------------------------------------------------

ROUTES = """
- name: all
  match: {path: "/**"}
  upstream: origin
  auth: {schemes: [anonymous]}
- name: bare
  match: {path: "/bare"}
  upstream: origin
  auth: {schemes: [anonymous]}
  security_headers: false
- name: framed
  match: {path: "/framed"}
  upstream: origin
  auth: {schemes: [anonymous]}
  security_headers: {framing: same_origin, no_sniff: false, referrer_policy: ""}
"""


async def test_security_headers_are_on_every_answer_also_on_errors_without_a_route() -> None:
    """A page of errors is a page: it can be framed and sniffed as others can."""
    async with served(ROUTES, gateway="gateway: {security_headers: true}") as site:
        for target, method, status in (("/", "GET", 200), ("//", "GET", 400), ("*", "GET", 400), ("*", "OPTIONS", 204)):
            answer = await site.ask(target, method=method)
            assert answer.status == status
            assert answer.one("X-Content-Type-Options") == "nosniff"
            assert answer.one("X-Frame-Options") == "DENY"
            assert answer.one("Content-Security-Policy") == "frame-ancestors 'none'"
            assert answer.one("Referrer-Policy") == "no-referrer"
            assert answer.one("Strict-Transport-Security") is None  # this is plain HTTP


async def test_a_route_says_for_itself_which_security_headers_it_has() -> None:
    """A widget is made to be framed: the gateway's rule would break it."""
    async with served(ROUTES, gateway="gateway: {security_headers: true}") as site:
        bare = await site.ask("/bare")
        assert bare.one("X-Frame-Options") is bare.one("X-Content-Type-Options") is None
        framed = await site.ask("/framed")
        assert framed.one("X-Frame-Options") == "SAMEORIGIN"
        assert framed.one("Content-Security-Policy") == "frame-ancestors 'self'"
        assert framed.one("X-Content-Type-Options") is framed.one("Referrer-Policy") is None


async def test_what_the_upstream_says_about_security_stands() -> None:
    """The upstream knows its pages: a second policy beside its own could only break them."""
    upstream = (
        b"HTTP/1.1 200 OK\r\ncontent-security-policy: default-src 'self'\r\nX-FRAME-OPTIONS: SAMEORIGIN\r\n"
        b"Content-Length: 2\r\n\r\nok"
    )
    async with served(ROUTES, gateway="gateway: {security_headers: true}", answer=answer_with(upstream)) as site:
        answer = await site.ask("/")
        assert answer.all("Content-Security-Policy") == ["default-src 'self'"]
        assert answer.all("X-Frame-Options") == ["SAMEORIGIN"]
        assert answer.all("Referrer-Policy") == ["no-referrer"]


def test_strict_transport_security_is_sent_over_tls_alone() -> None:
    """RFC 6797 §7.2: over plain HTTP anyone on the way could have written it."""
    lines = SecurityLines(SECURITY_DEFAULTS)
    hsts = (b"strict-transport-security", b"Strict-Transport-Security: max-age=31536000")
    assert hsts in lines.lines(secure=True)
    assert hsts not in lines.lines(secure=False)
    below = SecurityLines(SecurityHeaders(60, True, False, Framing.ANY, "")).lines(secure=True)
    assert [line for _, line in below] == [b"Strict-Transport-Security: max-age=60; includeSubDomains"]
    assert SecurityLines(NO_SECURITY_HEADERS).lines(secure=True) == ()
