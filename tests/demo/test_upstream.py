"""The sample API that the demo puts the gateway before."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest

from ostiary.demo.upstream import LIVE_RECORDS, TEXT_CHARACTERS_MAX, SampleUpstream


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    upstream = SampleUpstream(LIVE_RECORDS)
    await upstream.start()
    async with aiohttp.ClientSession(upstream.url) as session:
        yield session
    await upstream.stop()


async def test_a_created_record_is_found_again(client: aiohttp.ClientSession) -> None:
    fields = {"title": "Diaz and Novak", "date": "2027-09-04", "venue": "Harbour House"}
    async with client.post("/v1/weddings", json=fields) as created:
        assert created.status == 201
        place = created.headers["Location"]
    async with client.get(place) as found:
        assert await found.json() == {"id": "3", **fields}
    async with client.get("/v1/weddings?q=harbour") as listed:
        assert (await listed.json())["total"] == 1


@pytest.mark.parametrize("number", ["4", "0", "-1", "x", "\u0664", "1" * 30])
async def test_what_is_not_there_is_404(client: aiohttp.ClientSession, number: str) -> None:
    async with client.get(f"/v1/clients/{number}") as answer:
        assert answer.status == 404


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ("{", 400, "not JSON"),
        ("[]", 422, "JSON object"),
        ('{"name": "A"}', 422, "email is required"),
        ('{"name": "A", "email": 7}', 422, "email must be a text"),
        ('{"name": "A", "email": "a", "admin": "yes"}', 422, "admin is not a field"),
        ('{"name": "A", "email": "%s"}' % ("a" * (TEXT_CHARACTERS_MAX + 1)), 422, "at most"),
    ],
)
async def test_what_is_no_record_is_refused_with_the_reason(
    client: aiohttp.ClientSession, body: str, status: int, says: str
) -> None:
    async with client.post("/v1/clients", data=body, headers={"Content-Type": "application/json"}) as answer:
        assert answer.status == status
        assert says in await answer.text()


async def test_it_says_which_app_the_gateway_named(client: aiohttp.ClientSession) -> None:
    """The demo shows by this that upstreams get identified requests."""
    async with client.get("/v1/clients", headers={"X-Ostiary-App": "app-1"}) as answer:
        assert answer.headers["X-Served-For"] == "app-1"


async def test_it_holds_a_bounded_number_of_records() -> None:
    """A load test against the demo would fill the machine's memory."""
    upstream = SampleUpstream(LIVE_RECORDS, records_max=len(LIVE_RECORDS["clients"]) + 1)
    await upstream.start()
    async with aiohttp.ClientSession(upstream.url) as session:
        for expected in (201, 507):
            async with session.post("/v1/clients", json={"name": "A", "email": "a"}) as answer:
                assert answer.status == expected
    await upstream.stop()
