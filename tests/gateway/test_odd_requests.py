"""Requests that are well formed, and unlike what programs usually send."""

from __future__ import annotations

import pytest

from tests.gateway.edge.serving import served

OPEN = """
- name: all
  match: {path: "/**"}
  upstream: origin
  auth: {schemes: [anonymous]}
"""


async def test_options_of_the_server_is_answered_by_the_gateway_and_by_no_upstream() -> None:
    """Row 21: `*` is no path, so no route can take it; an upstream would be asked about itself by a stranger."""
    async with served(OPEN) as site:
        answer = await site.ask("*", method="OPTIONS")
        assert (answer.status, answer.body) == (204, b"")
        assert answer.one("Allow") == "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
        assert answer.one("X-Request-Id")
        assert site.gateway.count("http_requests_total", route="none", method="OPTIONS", status="204") == 1
        assert site.origin.seen == []


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "*"),
        ("POST", "*"),
        ("GET", "api.test:80"),
        ("OPTIONS", "api.test:80"),
        ("OPTIONS", "*?q"),
        ("GET", "api.test"),
    ],
)
async def test_a_target_that_is_neither_path_nor_url_is_refused(method: str, target: str) -> None:
    """Row 21: what a target of this form means differs from server to server."""
    async with served(OPEN) as site:
        assert (await site.ask(target, method=method)).status == 400
        assert site.origin.seen == []


@pytest.mark.parametrize(
    "line",
    [
        "Range: bytes=" + ",".join(["0-"] * 1300),
        "Accept-Encoding: " + ", ".join(["gzip;q=0.1"] * 4000),
        "Cookie: " + "; ".join(f"c{at}=" + "v" * 90 for at in range(600)),
        "If-None-Match: " + ", ".join(f'"{at}"' for at in range(5000)),
    ],
    ids=lambda line: line.partition(":")[0],
)
async def test_a_long_header_within_the_bound_passes_byte_for_byte(line: str) -> None:
    """Row 48: what it costs is for the upstream to bound, which alone knows what it serves; a gateway that cut it short
    would make another request of it."""
    async with served(OPEN) as site:
        assert (await site.ask("/", line)).status == 200
        name, _, value = line.partition(": ")
        assert site.origin.seen[0].one(name) == value
        assert line.encode() in b"".join(site.origin.raw)


@pytest.mark.parametrize("name", ["Cookie", "Range", "Accept-Encoding"])
async def test_a_header_of_64_kib_is_refused(name: str) -> None:
    """Row 48: the head has a bound, so that ten thousand clients can't fill memory."""
    async with served(OPEN) as site:
        answer = await site.ask("/", f"{name}: " + "a" * 65_536)
        assert answer.status == 431
        assert b"headers_too_large" in answer.body
        assert site.origin.seen == []


async def test_many_headers_are_refused_by_their_number() -> None:
    """Row 48: a flood of Range lines is bounded as one long line is."""
    async with served(OPEN) as site:
        assert (await site.ask("/", *["Range: bytes=0-"] * 128)).status == 431
        assert site.origin.seen == []
