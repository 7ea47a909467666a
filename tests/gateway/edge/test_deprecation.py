"""A version on its way out says so in every answer, and the operator sees who still calls it."""

from __future__ import annotations

from email.utils import parsedate_to_datetime

from tests.gateway.edge.serving import KEY, served
from tests.support.origin import answer_with

ROUTES = """
- name: v1
  match: {path: "/v1/**"}
  upstream: origin
  auth: {schemes: [bearer]}
  deprecation: {since: 2026-01-01, sunset: 2099-12-31, link: "https://api.example.com/docs/v2"}
- name: v0
  match: {path: "/v0/**"}
  upstream: origin
  auth: {schemes: [bearer]}
  deprecation: {since: 2020-01-01, sunset: 2021-01-01, after_sunset: not_found}
- name: kept
  match: {path: "/kept/**"}
  upstream: origin
  auth: {schemes: [anonymous]}
  deprecation: {since: 2020-01-01, sunset: 2021-01-01}
"""


async def test_every_answer_of_a_deprecated_route_says_until_when() -> None:
    """Programs warn their owners by these (RFC 9745, RFC 8594); an answer without them is a warning missed."""
    upstream = b"HTTP/1.1 200 OK\r\nDeprecation: true\r\nLink: </x>; rel=next\r\nContent-Length: 2\r\n\r\nok"
    async with served(ROUTES, answer=answer_with(upstream)) as site:
        good = await site.ask("/v1/x", f"Authorization: Bearer {KEY}")
        refused = await site.ask("/v1/x")
        assert (good.status, refused.status) == (200, 401)
        about = '<https://api.example.com/docs/v2>; rel="deprecation", <https://api.example.com/docs/v2>; rel="sunset"'
        for answer in (good, refused):
            assert answer.all("Deprecation") == ["@1767225600"]
            assert parsedate_to_datetime(answer.one("Sunset") or "").isoformat() == "2099-12-31T00:00:00+00:00"
        assert good.all("Link") == ["</x>; rel=next", about]
        assert refused.all("Link") == [about]


async def test_calls_of_a_deprecated_route_are_counted_by_who_makes_them() -> None:
    """Nobody can end a version without knowing whom that would break."""
    async with served(ROUTES) as site:
        await site.ask("/v1/x", f"Authorization: Bearer {KEY}")
        await site.ask("/v1/x", f"Authorization: Bearer {KEY}")
        await site.ask("/v0/x")
        await site.ask("/elsewhere")
        assert site.gateway.count("deprecated_requests_total", route="v1", app="") == 2
        assert site.gateway.count("deprecated_requests_total", route="v0", app="") == 1


async def test_after_its_sunset_a_route_is_gone_where_it_says_so_and_serves_on_where_not() -> None:
    """A day in a file that silently ends a product would be found out by its customers."""
    async with served(ROUTES) as site:
        gone = await site.ask("/v0/x", f"Authorization: Bearer {KEY}")
        assert gone.status == 404
        assert b"route_not_found" in gone.body
        assert gone.one("Sunset") == "Fri, 01 Jan 2021 00:00:00 GMT"
        assert (await site.ask("/kept/x")).status == 200
        assert [seen.target for seen in site.origin.seen] == ["/kept/x"]
