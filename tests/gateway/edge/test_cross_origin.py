"""CORS from policy: browsers may do what the route says, and nothing that its upstream says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ostiary.core.edge import CrossOrigin
from ostiary.gateway.edge.cross_origin import CrossOriginRules
from tests.gateway.edge.serving import KEY, NARROW_KEY, Served, served
from tests.support.origin import answer_with

ROUTES = """
- name: clients
  match: {path: "/clients/**", methods: [GET, POST]}
  upstream: origin
  auth: {schemes: [bearer]}
  limits: [{requests: 3, per: hour, by: ip}]
  ip: {deny: [192.0.2.0/24]}
  cors: {origins: ["https://app.example.com", "https://*.pages.example.com"], headers: [X-Tenant], credentials: true}
- name: read
  match: {path: "/mixed", methods: [GET, OPTIONS]}
  upstream: origin
  auth: {schemes: [anonymous]}
  cors: {origins: ["*"], max_age: 1h, expose: [X-Total]}
- name: write
  match: {path: "/mixed", methods: [POST]}
  upstream: origin
  auth: {schemes: [anonymous]}
- name: open
  match: {path: "/open/**"}
  upstream: origin
  auth: {schemes: [anonymous]}
"""
GATEWAY = "gateway: {trusted_proxies: [127.0.0.1]}"
PAGE = "Origin: https://app.example.com"
ASKS_POST = "Access-Control-Request-Method: POST"
UPSTREAM = (
    b"HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\naccess-control-allow-credentials: true\r\n"
    b"Vary: Accept-Encoding\r\nContent-Length: 2\r\n\r\nok"
)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Served]:
    async with served(ROUTES, gateway=GATEWAY, answer=answer_with(UPSTREAM), spool_directory=tmp_path) as site:
        yield site


async def test_a_preflight_is_answered_from_policy_without_a_key_and_is_no_usage(site: Served) -> None:
    """Row 49: browsers send no key with a preflight, so a route that asked for one could be called by no page."""
    answer = await site.ask(
        "/clients/1", PAGE, ASKS_POST, "Access-Control-Request-Headers: authorization", method="OPTIONS"
    )
    assert answer.status == 204
    assert answer.one("Access-Control-Allow-Origin") == "https://app.example.com"
    assert answer.one("Access-Control-Allow-Credentials") == "true"
    assert answer.one("Access-Control-Allow-Methods") == "GET, HEAD, POST"
    allowed = (answer.one("Access-Control-Allow-Headers") or "").split(", ")
    assert {"Authorization", "X-API-Key", "Content-Type", "X-Tenant"} <= set(allowed)
    assert answer.one("Access-Control-Max-Age") == "600"
    assert answer.one("Vary") == "Origin"
    assert answer.one("Content-Length") is None
    assert answer.body == b""
    assert site.origin.seen == []
    gateway = site.gateway
    assert gateway.count("http_requests_total", route="clients", method="OPTIONS", status="204") == 1
    assert gateway.count("usage_events_accepted_total") == 0
    assert gateway.count("api_key_usage_total", app="", plan="", environment="") == 0
    assert (await site.ask("/clients/1", f"Authorization: Bearer {KEY}")).status == 200
    assert gateway.count("usage_events_accepted_total") == 1


async def test_a_preflight_counts_against_the_limit_by_address(site: Served) -> None:
    """Row 49: preflights past the limits would be a way to ask as often as one likes."""
    statuses = [(await site.ask("/clients/1", PAGE, ASKS_POST, method="OPTIONS")).status for _ in range(4)]
    assert statuses == [204, 204, 204, 429]
    refused = await site.ask("/clients/1", PAGE, f"Authorization: Bearer {KEY}")
    assert refused.status == 429
    assert refused.one("Access-Control-Allow-Origin") == "https://app.example.com"
    other = "X-Forwarded-For: 198.51.100.7"
    assert (await site.ask("/clients/1", PAGE, ASKS_POST, other, method="OPTIONS")).status == 204


async def test_a_preflight_is_held_to_the_lists_of_addresses(site: Served) -> None:
    """Row 49: a refused address would learn what the route takes."""
    answer = await site.ask("/clients/1", PAGE, ASKS_POST, "X-Forwarded-For: 192.0.2.9", method="OPTIONS")
    assert answer.status == 403
    assert b"ip_not_allowed" in answer.body
    assert answer.one("Access-Control-Allow-Methods") is None


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example.com",
        "http://app.example.com",
        "https://app.example.com.evil.test",
        "https://app.example.com:8443",
        "https://a.pages.example.com.evil.test",
        "https://evil.test/https://a.pages.example.com",
        "https://pages.example.com",
        "https://evil.test#.pages.example.com",
        "https://evil.test/.pages.example.com",
        "https://user@x.pages.example.com",
        "https://xpages.example.com",
        "null",
        "https://" + "a." * 200 + "pages.example.com",
        "",
    ],
)
async def test_a_page_of_another_origin_gets_no_permission(origin: str, site: Served) -> None:
    """Row 49: one that is let in by mistake acts with its visitors' cookies."""
    answer = await site.ask("/clients/1", f"Origin: {origin}", ASKS_POST, method="OPTIONS")
    assert answer.status == 403
    assert b"origin_not_allowed" in answer.body
    actual = await site.ask("/clients/1", f"Origin: {origin}", f"Authorization: Bearer {KEY}")
    assert actual.status == 200
    for each in (answer, actual):
        assert not [name for name, _ in each.lines if name.lower().startswith("access-control-")]
        assert "Origin" in (each.one("Vary") or "")


async def test_a_host_below_the_wildcard_is_let_in_by_its_own_name(site: Served) -> None:
    """`*` and credentials together are refused by browsers: the answer has to name who asks."""
    answer = await site.ask("/clients/1", "Origin: https://a.b.pages.example.com", ASKS_POST, method="OPTIONS")
    assert answer.status == 204
    assert answer.one("Access-Control-Allow-Origin") == "https://a.b.pages.example.com"


async def test_an_answer_carries_the_policys_lines_in_place_of_the_upstreams(site: Served) -> None:
    """An upstream that says `*` beside the gateway's line makes browsers refuse both; a cache that does not know of Vary
    gives one site's permission to another."""
    answer = await site.ask("/clients/1", PAGE, f"Authorization: Bearer {KEY}")
    assert answer.one("Access-Control-Allow-Origin") == "https://app.example.com"
    assert answer.one("Access-Control-Allow-Credentials") == "true"
    exposed = (answer.one("Access-Control-Expose-Headers") or "").split(", ")
    assert {"X-Request-Id", "RateLimit", "Retry-After"} <= set(exposed)
    assert answer.one("Vary") == "Accept-Encoding, Origin"
    without_page = await site.ask("/clients/1", f"Authorization: Bearer {KEY}")
    assert without_page.one("Access-Control-Allow-Origin") is None
    assert without_page.one("Vary") == "Accept-Encoding, Origin"


async def test_the_gateways_own_errors_can_be_read_by_pages() -> None:
    """Browsers hide an answer without the lines: a page would see a network error where it should sign in, or wait."""
    routes = ROUTES.replace("requests: 3", "requests: 100")
    async with served(routes, answer=answer_with(b"nonsense\r\n\r\n", close=True)) as site:
        statuses = {}
        for credential in ("", f"Authorization: Bearer {KEY}", *[f"Authorization: Bearer {NARROW_KEY}"] * 2):
            answer = await site.ask("/clients/1", PAGE, *filter(None, [credential]))
            statuses[answer.status] = answer
        assert set(statuses) == {401, 502, 429}
        for answer in statuses.values():
            assert answer.one("Access-Control-Allow-Origin") == "https://app.example.com"
            assert answer.one("Vary") == "Origin"


async def test_a_preflight_belongs_to_the_route_that_takes_the_method_asked_for(site: Served) -> None:
    """Row 49: the policy of the route for reading is not that of the route for writing."""
    read = await site.ask("/mixed", PAGE, "Access-Control-Request-Method: GET", method="OPTIONS")
    assert (read.status, read.one("Access-Control-Allow-Origin"), read.one("Vary")) == (204, "*", None)
    assert read.one("Access-Control-Max-Age") == "3600"
    for method in ("POST", "DELETE", "FOO", "g\xe4t"):
        other = await site.ask("/mixed", PAGE, f"Access-Control-Request-Method: {method}", method="OPTIONS")
        assert (other.status, other.one("Allow")) == (405, "GET, HEAD, OPTIONS")
        assert other.one("Access-Control-Allow-Methods") is None
    assert site.origin.seen == []
    assert (await site.ask("/clients/1", PAGE, "Access-Control-Request-Method: PUT", method="OPTIONS")).status == 405


async def test_a_route_without_cors_leaves_preflights_to_its_upstream(site: Served) -> None:
    """Upstreams that know CORS themselves worked before the gateway stood there."""
    answer = await site.ask("/open/1", PAGE, ASKS_POST, method="OPTIONS")
    assert answer.one("Access-Control-Allow-Origin") == "*"
    assert [seen.method for seen in site.origin.seen] == ["OPTIONS"]
    assert site.origin.seen[0].one("access-control-request-method") == "POST"


async def test_options_that_is_no_preflight_is_a_call_like_others(site: Served) -> None:
    """Row 49: OPTIONS without an Origin would otherwise be a way past the key."""
    assert (await site.ask("/mixed", method="OPTIONS")).status == 200
    assert (await site.ask("/clients/1", PAGE, method="OPTIONS")).status == 405
    assert [seen.target for seen in site.origin.seen] == ["/mixed"]


async def test_a_preflight_with_an_ambiguous_path_is_refused_as_its_call_would_be(site: Served) -> None:
    """Rows 39, 49: a way of asking that reads paths differently is a way to ask about other routes."""
    for path in ("//clients/1", "/./clients/1", "/x/../clients/1"):
        assert (await site.ask(path, PAGE, ASKS_POST, method="OPTIONS")).status == 400


async def test_a_preflight_with_a_body_is_answered_and_ends_the_connection(site: Served) -> None:
    """Row 49: a body that is left unread would be taken for the next request."""
    answer = await site.ask("/clients/1", PAGE, ASKS_POST, "Content-Length: 5", method="OPTIONS")
    assert (answer.status, answer.one("Connection")) == (204, "close")


def test_an_origin_is_judged_in_bounded_time() -> None:
    """A wildcard is a regular expression: 64 KiB of dots must not cost a second."""
    rules = CrossOriginRules(CrossOrigin(("https://*.example.com",), ("GET",), (), (), False, 0))
    assert not rules.allows(b"https://" + b"a." * 30_000 + b"example.org")
    assert rules.allows(b"https://a.example.com")
