"""A path is matched, authorized and signed as it was sent, and rewritten after that, for the upstream alone."""

from __future__ import annotations

import secrets
import time

import pytest

from ostiary.core.signing import EMPTY_BODY_SHA256, Signer, hmac_message
from tests.gateway.edge.serving import KEY, Served, served

ROUTES = """
- name: client
  match: {path: "/v1/clients/{id}"}
  upstream: origin
  auth: {schemes: [hmac]}
  rewrite: "/internal/clients/{id}"
- name: files
  match: {path: "/files/**"}
  upstream: origin
  auth: {schemes: [anonymous]}
  rewrite: "/store/**"
- name: admin
  match: {path: "/admin"}
  upstream: origin
  auth: {schemes: [hmac]}
  rewrite: "/private/admin"
- name: store
  match: {path: "/store/**"}
  upstream: origin
  auth: {schemes: [hmac]}
- name: tidy
  match: {path: "/tidy/**"}
  upstream: origin
  auth: {schemes: [anonymous]}
  paths: normalize
  rewrite: "/t/**"
"""


async def ask_signed(site: Served, target: str, signed: str) -> int:
    """The status for a request to `target` with the signature of one to `signed`."""
    timestamp, nonce = b"%d" % time.time(), secrets.token_hex(12).encode()
    mark = Signer(KEY.encode()).sign(hmac_message(b"GET", signed.encode(), timestamp, nonce, EMPTY_BODY_SHA256))
    lines = (
        f"X-API-Key: ak_test_1:{mark.decode()}",
        f"X-Timestamp: {timestamp.decode()}",
        f"X-Nonce: {nonce.decode()}",
    )
    return (await site.ask(target, *lines)).status


async def test_callers_sign_what_they_send_and_the_upstream_gets_the_rewritten_path() -> None:
    """Callers don't know the inner path, and a signature for it must not open the outer one."""
    async with served(ROUTES) as site:
        sent = "/v1/clients/a%20b?q=/../%2F"
        assert await ask_signed(site, sent, sent) == 200
        assert await ask_signed(site, sent, "/internal/clients/a%20b?q=/../%2F") == 401
        assert [seen.target for seen in site.origin.seen] == ["/internal/clients/a%20b?q=/../%2F"]
        assert site.gateway.count("http_requests_total", route="client", method="GET", status="200") == 1


async def test_a_prefix_is_replaced_and_the_rest_passes_byte_for_byte() -> None:
    """A rest that were decoded or joined anew would name another file."""
    async with served(ROUTES) as site:
        for target in ("/files/a//?", "/files/../x", "/files/a%2fb"):
            assert (await site.ask(target)).status == 400
        for target in ("/files", "/files/", "/files/a/%C3%A4;v=1/?q=1&q=2"):
            assert (await site.ask(target)).status == 200
        assert [seen.target for seen in site.origin.seen] == ["/store", "/store/", "/store/a/%C3%A4;v=1/?q=1&q=2"]


async def test_the_inner_path_is_no_way_round_a_route_that_guards_it() -> None:
    """A rewritten path is not matched again, and the guarded route keeps its guard."""
    async with served(ROUTES) as site:
        assert (await site.ask("/store/a")).status == 401
        assert (await site.ask("/private/admin")).status == 404
        assert site.origin.seen == []


@pytest.mark.parametrize(
    "path",
    [
        "//admin",
        "/./admin",
        "/admin/",
        "/%61dmin",
        "/files/../admin",
        "/files/..%2fadmin",
        "/tidy/../admin",
        "/admin/.",
    ],
)
async def test_no_spelling_of_a_path_steps_round_its_policy(path: str) -> None:
    """Row 39: an upstream that reads `//admin` as `/admin` would serve it to a caller without a key."""
    async with served(ROUTES) as site:
        assert (await site.ask(path)).status in (400, 401)
        assert site.origin.seen == []


async def test_a_normalized_path_is_rewritten_from_its_normal_form() -> None:
    """Rows 38, 39: the form that was matched is the form that is rewritten, or `..` would be taken along."""
    async with served(ROUTES) as site:
        assert (await site.ask("/tidy/a/../b//c")).status == 200
        assert (await site.ask("/x/../tidy/b/./?q=..")).status == 200
        assert [seen.target for seen in site.origin.seen] == ["/t/b/c", "/t/b/?q=.."]
