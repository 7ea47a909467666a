"""Rate limits on the API itself: nobody crowds out the others, and everybody is told how they stand."""

from __future__ import annotations

import pytest

from ostiary.control_plane.http.problems import Problem, ProblemCode
from ostiary.control_plane.http.rates import Buckets, CallRates, counted_as
from ostiary.core.model import Rate
from tests.control_plane.support import configuration_for, serving


class Clock:
    """Microseconds, as they are set."""

    def __init__(self) -> None:
        self.now_us = 1_000_000

    def __call__(self) -> int:
        return self.now_us


async def test_an_actor_is_told_how_it_stands_and_is_refused_beyond_its_rate(database: str) -> None:
    """One script in a loop would take the API from everyone."""
    async with serving(configuration_for(database, rate_per_actor=Rate(1, 86_400, 3))) as api:
        for left in (2, 1, 0):
            reply = await api.get("/organizations")
            assert reply.status == 200
            assert reply.headers["RateLimit-Policy"] == '"actor";q=1;w=86400;burst=3'
            assert reply.headers["RateLimit"].startswith(f'"actor";r={left};t=')
        refused = await api.get("/organizations")
        assert (refused.status, refused.code) == (429, "rate_limited")
        assert int(refused.headers["Retry-After"]) > 86_000
        assert refused.headers["RateLimit"] == f'"actor";r=0;t={refused.headers["Retry-After"]}'
        # What is open, and who is unknown, is counted by itself.
        assert (await api.get("/docs", token=None)).status == 200
        assert (await api.get("/organizations", token="x" * 40)).status == 401


async def test_who_is_unknown_is_counted_by_address_and_takes_nothing_from_who_is_known(database: str) -> None:
    """Guesses from behind the same address would lock out its owner; or could go on for ever."""
    async with serving(configuration_for(database, rate_per_address=Rate(1, 86_400, 3))) as api:
        tried = [
            (await api.get("/organizations", token="guess" * 8)).code,
            (await api.get("/organizations", token=None)).code,
            (await api.get("/docs", token=None)).status,
            (await api.get("/organizations", token="guess" * 8)).code,
            (await api.get("/docs", token=None)).status,
        ]
        assert tried == ["credentials_invalid", "credentials_missing", 200, "rate_limited", 429]
        assert (await api.get("/organizations")).status == 200
        for path in ("/healthz", "/readyz"):
            assert (await api.get(path, token=None)).status == 200


async def test_without_rates_nothing_is_limited_or_said(database: str) -> None:
    async with serving(configuration_for(database)) as api:
        assert "RateLimit" not in (await api.get("/organizations")).headers


def test_a_bucket_refills_at_its_rate_and_tells_a_wait_that_suffices() -> None:
    """A client that waits as told would be refused again."""
    clock = Clock()
    buckets = Buckets("actor", Rate(2, 60, 2), clock=clock)
    buckets.take("one")
    assert dict(buckets.take("one"))["RateLimit"] == '"actor";r=0;t=30'
    with pytest.raises(Problem) as refused:
        buckets.take("one")
    assert refused.value.code is ProblemCode.RATE_LIMITED
    assert dict(refused.value.headers)["Retry-After"] == "30"
    clock.now_us += 29_000_000
    with pytest.raises(Problem):
        buckets.take("one")
    buckets.take("another")
    clock.now_us += 1_000_000
    buckets.take("one")


def test_no_more_subjects_are_remembered_than_the_bound() -> None:
    """A caller with many addresses would fill the memory."""
    buckets = Buckets("address", Rate(1, 60, 1), clock=Clock(), subjects_max=100)
    for number in range(1000):
        buckets.take(f"subject {number}")
    assert len(buckets) == 100
    with pytest.raises(Problem):
        buckets.take("subject 999")
    buckets.take("subject 0")


def test_addresses_are_counted_as_one_customer_has_them() -> None:
    """Whoever has an IPv6 network would have 2^64 buckets."""
    assert counted_as("2001:db8:1:2::1") == counted_as("2001:db8:1:2:ffff::9") != counted_as("2001:db8:1:3::1")
    assert counted_as("::ffff:192.0.2.1") == counted_as("192.0.2.1")
    assert counted_as("fe80::1%eth0") == counted_as("fe80::2")
    assert counted_as(None) == ""
    assert CallRates(per_actor=None, per_address=None).known("x") == ()
