"""What is left of quotas: from the limiter's counters, or from the roll-ups where those can't be asked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import redis

from ostiary.control_plane.db import Connection
from ostiary.control_plane.usage.counters import READ_SECONDS, Counters
from ostiary.core import keyspace
from ostiary.core.limiting import period_end_us
from ostiary.core.model import (
    Authentication,
    Environment,
    LimitBy,
    LimitMode,
    Match,
    Overage,
    Period,
    Plan,
    Quota,
    RedisLocation,
    RedisSentinels,
    Route,
    RouteLimit,
    Scheme,
    Window,
)
from ostiary.core.quota_state import quotas_of_state
from ostiary.demo.stores import EmbeddedValkey
from ostiary.gateway.limits import compile_policy
from tests.control_plane.people import person
from tests.control_plane.support import SERVICE_ROLE as ROLE
from tests.control_plane.support import Api, configuration_for, serving, url_for
from tests.control_plane.test_usage import _record
from tests.gateway.limits.support import decided, running
from tests.support.certificates import issue
from tests.support.ports import free_port
from tests.support.redis_servers import RedisCluster, SentinelSite, ServerTls, server, wait_until
from tests.support.waiting import MACHINE_SECONDS

CLIENTS = Route(
    "clients",
    Match("/clients"),
    {Environment.LIVE: "origin", Environment.TEST: "origin"},
    Authentication(frozenset({Scheme.BEARER})),
    limits=(
        RouteLimit(Quota(30, Period.DAY, overage=Overage.WARN), LimitBy.APP),
        RouteLimit(Quota(9, Period.DAY), LimitBy.IP),
    ),
)
OPEN = replace(CLIENTS, name="open", authentication=Authentication(frozenset({Scheme.ANONYMOUS})))
OWN = Plan(
    "own", windows=(Window(100, 86_400),), quotas=(Quota(10, Period.DAY), Quota(1000, Period.MONTH, LimitMode.SHADOW))
)
SHARED = Plan("shared", quotas=(Quota(20, Period.DAY),), overage=Overage.CHARGE, by=LimitBy.APP)


@asynccontextmanager
async def asked_with(database: str, location: RedisLocation | None) -> AsyncIterator[Api]:
    configuration = configuration_for(url_for(ROLE, database))
    async with serving(
        replace(
            configuration,
            stores=replace(configuration.stores, redis=location),
            plans={"own": OWN, "shared": SHARED},
            routes=(CLIENTS, OPEN),
        )
    ) as api:
        yield api


@pytest.fixture
def store(valkey_server: EmbeddedValkey) -> str:
    url = valkey_server.url(database=3)
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    return url


async def quotas(api: Api, query: str, **options: Any) -> dict[str, Any]:
    reply = await api.get(f"/usage/quotas?{query}", **options)
    assert reply.status == 200, reply.text
    found: dict[str, Any] = reply.document
    return found


@pytest.fixture(autouse=True)
async def day() -> None:
    """A quota of a day that ends while a test counts is another one: none begins in the last minute of a day (UTC)."""
    now = datetime.now(UTC)
    left = 86_400 - (now.hour * 3600 + now.minute * 60 + now.second)
    if left <= 60:
        await asyncio.sleep(left)


def told(document: dict[str, Any], *names: str) -> list[tuple[Any, ...]]:
    return [tuple(each[name] for name in names) for each in document["data"]]


async def test_what_the_limiter_counted_is_what_is_told(database: str, store: str) -> None:
    """A customer would be refused with a tenth of the quota left, by what they were shown."""
    async with asked_with(database, store) as api, running(store) as limiter:
        organization_id = await api.organization()
        app_id = await api.app(organization_id)
        first = (await api.key(app_id, plan="own", environment="live"))["key_id"]
        second = (await api.key(app_id, plan="shared", environment="live"))["key_id"]
        for key_id, plan, count in ((first, OWN, 7), (second, SHARED, 23)):
            limits = compile_policy(plan, CLIENTS, Environment.LIVE)
            for number in range(count):
                await decided(
                    limiter, limits, key=key_id, app=app_id, organization=organization_id, ip=f"192.0.2.{number}"
                )
        found = await quotas(api, f"key_id={first}")
        assert (found["note"], found["total"], found["next_cursor"]) == (None, 3, None)
        names = ("subject_type", "quota", "limit", "used", "remaining", "overage", "mode", "source")
        assert told(found, *names) == [
            ("app", "clients/day-quota-by-app", 30, 30, 0, "warn", "enforce", "redis"),
            ("key", "own:day-quota", 10, 7, 3, "block", "enforce", "redis"),
            ("key", "own:month", 1000, 7, 993, "block", "shadow", "redis"),
        ]
        ends = period_end_us(Period.DAY, time.time_ns() // 1000) / 1e6
        resets = datetime.fromisoformat(found["data"][1]["resets_at"])
        assert resets.timestamp() == ends
        assert resets.tzinfo is not None
        assert found["data"][1]["resets_at"].endswith("Z")
        found = await quotas(api, f"key_id={second}")
        assert ("app", "shared:day", 20, 23, 0, "charge", "enforce", "redis") in told(found, *names)
        for query in (f"app_id={app_id}", f"organization_id={organization_id}"):
            found = await quotas(api, query)
            assert told(found, "subject_type", "quota", "used") == [
                ("app", "clients/day-quota-by-app", 30),
                ("app", "shared:day", 23),
                ("key", "own:day-quota", 7),
                ("key", "own:month", 7),
            ]
            assert {each["subject_id"] for each in found["data"]} == {app_id, first}
        assert (await api.get(f"/usage/quotas?app_id={app_id}&format=csv")).text.count("\n") == 5


async def test_a_key_that_nobody_used_and_one_with_limits_of_its_own(database: str, store: str) -> None:
    """A new customer's page would be empty; one with a contract of their own would be shown the plan's."""
    async with asked_with(database, store) as api:
        app_id = await api.app()
        key_id = (await api.key(app_id, plan="shared", environment="test"))["key_id"]
        own = {"quotas": [{"requests": 77, "per": "month"}], "reason": "contract"}
        found = await quotas(api, f"key_id={key_id}")
        assert told(found, "environment", "quota", "used", "remaining") == [
            ("test", "clients/day-quota-by-app", 0, 30),
            ("test", "shared:day", 0, 20),
        ]
        assert (await api.request("PUT", f"/keys/{key_id}/limits", json=own)).status == 200
        found = await quotas(api, f"key_id={key_id}")
        assert ("key", "shared:month", 77, "charge") in told(found, "subject_type", "quota", "limit", "overage")
        none = (await api.key(app_id))["key_id"]
        assert (await api.request("PUT", f"/keys/{none}/limits", json=own)).status == 200
        assert ("key", "key:month", None) in told(await quotas(api, f"key_id={none}"), "subject_type", "quota", "plan")
        await api.post(f"/keys/{none}/revoke", {"reason": "over"})
        assert (await quotas(api, f"key_id={none}"))["data"] == []


async def test_without_redis_the_roll_ups_tell_and_say_so(database: str, connection: Connection) -> None:
    """A page that hangs, or fails, while Redis is away; or one that shows yesterday's figures as today's."""
    now = datetime.now(UTC)
    async with asked_with(database, f"redis://127.0.0.1:{free_port()}/0") as api:
        organization_id = await api.organization()
        app_id = await api.app(organization_id)
        ids = {"app_id": app_id, "organization_id": organization_id, "at": now}
        first, second = [(await api.key(app_id, plan=plan, environment="live"))["key_id"] for plan in ("own", "shared")]
        elsewhere = {**ids, "key_id": second, "route": "other"}
        await _record(
            connection,
            *[{**ids, "key_id": first}] * 3,
            {**ids, "key_id": first, "status": 429},
            {**ids, "key_id": second},
            elsewhere,
        )
        began = time.monotonic()
        found = await quotas(api, f"app_id={app_id}")
        again = await quotas(api, f"app_id={app_id}")
        assert time.monotonic() - began < READ_SECONDS + MACHINE_SECONDS
        assert found["data"] == again["data"]
        assert "Redis can't be asked" in found["note"]
        assert told(found, "quota", "used", "source") == [
            ("clients/day-quota-by-app", 4, "roll_ups"),
            ("shared:day", 2, "roll_ups"),
            ("own:day-quota", 3, "roll_ups"),
            ("own:month", 3, "roll_ups"),
        ]
        tomorrow = now.date().toordinal() + 1
        await connection.execute(
            "INSERT INTO usage_retention (kind, kept_from) VALUES ('hours', $1)", now.date().fromordinal(tomorrow)
        )
        assert set(told(await quotas(api, f"key_id={first}"), "used", "remaining", "source")) == {(None, None, None)}
    async with asked_with(database, None) as api:
        assert "No Redis is configured" in (await quotas(api, f"app_id={app_id}"))["note"]


async def test_a_redis_that_hangs_is_not_waited_for(database: str, own_valkey: EmbeddedValkey) -> None:
    """Every page of every customer would hang as long as one Redis does."""
    async with asked_with(database, own_valkey.url()) as api:
        key_id = (await api.key(await api.app(), plan="own"))["key_id"]
        assert (await quotas(api, f"key_id={key_id}"))["note"] is None
        with redis.Redis.from_url(own_valkey.url()) as client:
            client.execute_command("CLIENT", "PAUSE", "600000", "ALL")
        began = time.monotonic()
        assert "Redis can't be asked" in (await quotas(api, f"key_id={key_id}"))["note"]
        assert time.monotonic() - began < READ_SECONDS + MACHINE_SECONDS


async def test_whose_quotas_must_be_said_and_only_ones_own_are_shown(database: str) -> None:
    """One customer would see how much another has left."""
    async with asked_with(database, None) as api:
        own, other = await api.organization("own"), await api.organization("other")
        theirs = await api.app(other)
        key_id = (await api.key(theirs, plan="own"))["key_id"]
        member = await person(api, "m@example.com", organization_id=own, role="owner")
        for query in (f"key_id={key_id}", f"app_id={theirs}", f"organization_id={other}"):
            assert (await quotas(api, query))["total"] == 3
            assert (await quotas(api, query, token=member.token)) == {
                "data": [], "next_cursor": None, "total": 0, "note": None,
            }  # fmt: skip
        for query in ("", f"?key_id={key_id}&app_id={theirs}"):
            assert (await api.get(f"/usage/quotas{query}")).status == 422


@pytest.mark.full
async def test_counters_of_a_cluster_behind_sentinels_and_over_tls_are_read_too(tmp_path: Path) -> None:
    """With either, the page would never show what the limiter counted; with the first address gone, neither."""
    nowhere = "redis://127.0.0.1:1"
    limits = compile_policy(OWN, replace(CLIENTS, limits=()), Environment.LIVE)
    keys = [f"ak_of_quotas_{number}" for number in range(6)]  # in several slots

    async def told_by(location: RedisLocation, away: RedisLocation) -> list[int]:
        async with running(location) as limiter:
            for number, key_id in enumerate(keys):
                for _ in range(number + 1):
                    await decided(limiter, limits, key=key_id)
        counters = Counters(away)
        found = await counters.read([keyspace.plan_state(key_id) for key_id in keys])
        await counters.close()
        assert found is not None
        return [quotas_of_state(state or b"")["q2"].calls for state in found]

    with RedisCluster(tmp_path / "cluster", replicas=False) as cluster:
        assert await told_by(cluster.urls(), (nowhere, *cluster.urls())) == [1, 2, 3, 4, 5, 6]
    with SentinelSite(tmp_path / "sentinel", password="canary-7c1e") as site:
        url = f"redis://:canary-7c1e@{SentinelSite.SERVICE}/0"
        location = RedisSentinels((nowhere, *site.sentinel_urls()), SentinelSite.SERVICE, url)
        assert await told_by(location, location) == [1, 2, 3, 4, 5, 6]
    # What Python 3.13 by itself refuses: certificates of a private authority, without identifiers of keys.
    authority = issue(tmp_path, "authority", authority=True)
    tls = ServerTls(authority.sign("localhost", "127.0.0.1"), authority)
    with closing(server(tmp_path, tls=tls)) as one, RedisCluster(tmp_path / "tls", replicas=False, tls=tls) as cluster:
        wait_until(one.client.ping, "it answers")
        of_cluster = tuple(
            f"rediss://127.0.0.1:{each.tls_port}?ssl_ca_certs={authority.cert}" for each in cluster.servers
        )
        for secure in (f"rediss://localhost:{one.tls_port}?ssl_ca_certs={authority.cert}", of_cluster):
            assert await told_by(secure, secure) == [1, 2, 3, 4, 5, 6]


async def test_whatever_is_wrong_with_redis_is_no_fault_of_the_question() -> None:
    """A certificate that can't be read, or an option that the client does not know, would be a 500 on every page."""
    for location in (
        "redis://127.0.0.1:1?no_such_option=1",
        "rediss://127.0.0.1:1?ssl_ca_certs=/nonexistent",
        ("redis://127.0.0.1:1", "redis://127.0.0.1:2"),
        RedisSentinels(("redis://127.0.0.1:1",), "mymaster", "redis://mymaster/0"),
    ):
        counters = Counters(location)
        began = time.monotonic()
        assert await counters.read(["ost:{k:a}:plan"]) is None
        assert await counters.read(["ost:{k:a}:plan"]) is None
        assert time.monotonic() - began < READ_SECONDS + MACHINE_SECONDS
        await counters.close()
