"""Row 65: test keys and live upstreams, in every combination that a configuration can have, and in all that may become of a
call: further tries, other targets, redirects, upgrades.

Invariant: an upstream that some route has for live keys alone never gets a call of a test key, and the other way round."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ostiary.core.environments import crossings
from ostiary.core.keyspace import subject
from ostiary.core.model import (
    Authentication,
    Environment,
    Key,
    LimitBy,
    Match,
    Route,
    RouteLimit,
    Scheme,
    Upgrade,
    Window,
)
from ostiary.core.upstream import Balance, Retries, Target
from ostiary.demo.stores import EmbeddedValkey
from ostiary.gateway.failed_attempts import AttemptTable, Gate
from ostiary.gateway.keys import KeyRing, KnownKey
from ostiary.gateway.limits import Limiter, UnobservedLimiter
from ostiary.gateway.service import Gateway
from ostiary.gateway.telemetry.metrics import Metrics
from tests.support.gateway import configuration, key, route, running_gateway, talk, upstream
from tests.support.messages import parse, request
from tests.support.origin import OK, Origin, Seen, running_origin
from tests.support.tunnels import GRANTED, upgrade_request

BEARER = Authentication(schemes=frozenset({Scheme.BEARER}))
LIVE, TEST = Environment.LIVE, Environment.TEST
LIVE_SECRET, TEST_SECRET = b"l" * 40, b"t" * 40
KEYS = [
    key("ak_live_1", LIVE_SECRET, environment=LIVE),
    key("ak_test_1", TEST_SECRET, environment=TEST),
]

# --- by construction --------------------------------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "b", "c", "d"])
UPSTREAMS = st.one_of(
    NAMES.map(lambda name: {LIVE: name, TEST: name}),
    NAMES.map(lambda name: {LIVE: name}),
    NAMES.map(lambda name: {TEST: name}),
    st.tuples(NAMES, NAMES).map(lambda names: {LIVE: names[0], TEST: names[1]}),
)


def routes_of(upstreams: list[dict[Environment, str]]) -> list[Route]:
    return [
        route(f"r{number}", match=Match(path=f"/{number}/**"), authentication=BEARER, upstreams=each)
        for number, each in enumerate(upstreams)
    ]


@settings(max_examples=60, deadline=None)
@given(st.lists(UPSTREAMS, min_size=1, max_size=6))
async def test_no_snapshot_gives_a_test_key_what_is_for_live_keys_alone(
    upstreams: list[dict[Environment, str]],
) -> None:
    """A check on the way of a request can be forgotten on one of its ways; what is not in the snapshot can't be reached."""
    routes = routes_of(upstreams)
    base = configuration([upstream(9, name=name) for name in "abcd"], routes, keys=KEYS)
    ring = KeyRing(file_keys=base.keys, postgres_url=None, envelope=None, stale_seconds=1.0)
    limiter = Limiter(url=None, deadline_seconds=1.0, workers=1, observe=UnobservedLimiter())

    def compiled() -> Gateway:
        metrics = Metrics.in_memory()
        gate = Gate(AttemptTable.alone(), settings=None, trusted=(), metrics=metrics)
        return Gateway(configuration=base, metrics=metrics, spool=None, keys=ring, limiter=limiter, gate=gate)

    if crossings(routes):
        with pytest.raises(ValueError, match="serves"):
            compiled()
        return
    reached: dict[Environment, set[str]] = {LIVE: set(), TEST: set()}
    for compiled_route, each in itertools.product(compiled().snapshot.routes, KEYS):
        found = ring.find(each.id)
        assert isinstance(found, KnownKey)
        group = compiled_route.admission(found).group
        if group is not None:
            reached[each.environment].add(group.name)
    alike = {each[LIVE] for each in upstreams if len(each) == 2 and each[LIVE] == each[TEST]}
    assert reached[LIVE] & reached[TEST] <= alike
    assert reached[TEST] == {each[TEST] for each in upstreams if TEST in each}


# --- and in fact ------------------------------------------------------------------------------------------------------


class Site:
    """Origins for live keys alone, for test keys alone, and for both alike, each upstream with a second target that nobody
    listens at; what each answers is said by the request."""

    def __init__(self, live: Origin, test: Origin, alike: Origin) -> None:
        self.live, self.test, self.alike = live, test, alike

    async def answer(self, seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        match seen.target.rpartition("/")[2]:
            case "reset":
                writer.transport.abort()
            case "broken":
                writer.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
            case "redirect":
                to = [f"http://127.0.0.1:{origin.port}/" for origin in (self.live, self.test)]
                to.remove(f"http://127.0.0.1:{self.live.port if seen in self.live.seen else self.test.port}/")
                head = f"HTTP/1.1 307 Temporary Redirect\r\nLocation: {to[0]}\r\nContent-Length: 0\r\n\r\n"
                writer.write(head.encode())
            case "socket":
                writer.write(GRANTED)
                await writer.drain()
                writer.close()
            case "retry":
                writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + OK)
            case _:
                writer.write(OK)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with running_origin() as live, running_origin() as test, running_origin() as alike:
        site = Site(live, test, alike)
        live.answer = test.answer = alike.answer = site.answer
        yield site


@pytest.mark.parametrize("balance", list(Balance))
async def test_no_call_of_one_environment_is_seen_by_the_upstream_of_the_other(site: Site, balance: Balance) -> None:
    """A live upstream that got one test call would have charged a real card."""
    changes = {
        "balance": balance,
        "retries": Retries(attempts=3, on=frozenset({"connect", "reset", "503"}), budget_share=1.0),
        "ejection": None,
    }
    upstreams = [
        replace(
            upstream(origin.port, name=name, **changes),
            targets=(Target("http", "127.0.0.1", origin.port), Target("http", "127.0.0.1", 1)),
        )
        for name, origin in (("live", site.live), ("test", site.test), ("alike", site.alike))
    ]
    forms = {
        "two": {LIVE: "live", TEST: "test"},
        "live": {LIVE: "live"},
        "test": {TEST: "test"},
        "alike": {LIVE: "alike", TEST: "alike"},
    }
    routes = [
        route(
            name,
            match=Match(path=f"/{name}/**"),
            authentication=BEARER,
            upstreams=form,
            upgrades=frozenset({Upgrade.WEBSOCKET}),
        )
        for name, form in forms.items()
    ]
    async with running_gateway(configuration(upstreams, routes, keys=KEYS)) as gateway:

        async def call(name: str, secret: bytes, what: str, method: bytes) -> tuple[str, bytes, int]:
            target = f"/{name}/{what}"
            credential = b"X-API-Key: " + secret
            if what == "socket":
                return (
                    name,
                    secret,
                    int(
                        (await talk(gateway.port, upgrade_request(credential, target=target.encode()), eof=True))[9:12]
                    ),
                )
            body = b"x" if method == b"POST" else b""
            lines = (credential, b"Content-Length: 1") if body else (credential,)
            sent = request(target, *lines, method=method, body=body)
            return name, secret, parse(await talk(gateway.port, sent), method)[0].status_code

        behaviours = ("ok", "reset", "broken", "redirect", "socket", "retry")
        answers = await asyncio.gather(
            *(
                call(name, secret, what, method)
                for name, secret, what, method in itertools.product(
                    forms, (LIVE_SECRET, TEST_SECRET), behaviours, (b"GET", b"POST")
                )
            )
        )
    for name, secret, status in answers:
        missing = (name == "live" and secret == TEST_SECRET) or (name == "test" and secret == LIVE_SECRET)
        assert (status == 403) is missing, (name, secret, status)
    seen = {
        name: {each.one("x-ostiary-environment") for each in origin.seen}
        for name, origin in (("live", site.live), ("test", site.test), ("alike", site.alike))
    }
    assert seen == {"live": {"live"}, "test": {"test"}, "alike": {"live", "test"}}


# --- limits and usage -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", [LimitBy.APP, LimitBy.ORGANIZATION, LimitBy.ROUTE])
@pytest.mark.parametrize("redis", [True, False], ids=["with Redis", "without"])
async def test_test_calls_use_up_nothing_of_live_limits(
    by: LimitBy, redis: bool, origin: Origin, valkey_server: EmbeddedValkey
) -> None:
    """A load test with test keys must not take an app's, or everyone's, live calls away."""
    limit = RouteLimit(Window(2, 3600), by)
    app = {"app_id": "6f2a2c3e-0c1f-4f57-9a3b-6f1d2f7f0b11", "organization_id": "0b7f4cf4-64b4-4c52-b7a2-f33d7bb0c9d2"}
    keys: list[Key] = [replace(each, **app) for each in KEYS]  # type: ignore[arg-type]  # two fields of text
    routes = [route(f"environments-{by}-{redis}", authentication=BEARER, limits=(limit,))]
    settings = configuration([upstream(origin.port)], routes, keys=keys, redis=valkey_server.url() if redis else None)
    async with running_gateway(settings) as gateway:

        async def ask(secret: bytes) -> int:
            return parse(await talk(gateway.port, request("/", b"X-API-Key: " + secret)))[0].status_code

        assert [await ask(TEST_SECRET) for _ in range(3)] == [200, 200, 429]
        assert [await ask(LIVE_SECRET) for _ in range(3)] == [200, 200, 429]


def test_names_of_live_subjects_stay_as_they_were() -> None:
    """Others would be forgotten by an update: a quota of a month would begin anew."""
    who: dict[str, Any] = {"route": "r", "key_id": "k", "app_id": "a", "organization_id": "o", "ip": "192.0.2.1"}
    live = [subject(by, environment=LIVE, **who) for by in LimitBy]
    assert live == ["k:k", "a:a", "o:o", "r:r", "i:192.0.2.1", "k:k"]
    test = [subject(by, environment=TEST, **who) for by in LimitBy]
    assert set(live) & set(test) == {"i:192.0.2.1"}  # an address has no environment
