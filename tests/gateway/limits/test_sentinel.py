"""Invariant: limits follow the master that the Sentinels name, and count nowhere else."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from ostiary.core.limiting import SECOND_US
from ostiary.core.model import Plan, RedisSentinels, Window
from ostiary.gateway.limits import Outcome
from tests.gateway.limits.steady import UNTOLD_MAX, counted, steady
from tests.gateway.limits.support import Observed, decided, policy, running
from tests.support.redis_servers import SentinelSite, wait_until
from tests.support.waiting import MACHINE_SECONDS, until

pytestmark = pytest.mark.full

PASSWORD = "canary-7c1e"
IN_ANY_SECOND, IN_ALL = 80, 200
LIMITS = policy(Plan("p", windows=(Window(IN_ANY_SECOND, 1), Window(IN_ALL, 60))))
UNDECIDED_SECONDS_MAX = 2.0 + MACHINE_SECONDS


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SentinelSite]:
    with SentinelSite(tmp_path_factory.mktemp("sentinel"), password=PASSWORD) as site:
        yield site


def location(site: SentinelSite, *, service: str = SentinelSite.SERVICE, password: str = PASSWORD) -> RedisSentinels:
    return RedisSentinels(("redis://127.0.0.1:1", *site.sentinel_urls()), service, f"redis://:{password}@{service}/0")


async def test_the_master_is_found_through_any_sentinel(site: SentinelSite, caplog: pytest.LogCaptureFixture) -> None:
    """One Sentinel that is gone would take the limits with it."""
    async with running(location(site)) as limiter:
        status = limiter.status()
        assert (status["state"], status["address"]) == ("connected", site.master().place)
        assert str(status["sentinels"]).count("'answers': True") == 3
        assert (await decided(limiter, LIMITS, key="ak_found")).outcome is Outcome.ALLOWED
        assert PASSWORD not in str(status) + caplog.text
    assert counted(site.master(), "ak_found") == 1


async def test_a_service_that_the_sentinels_do_not_know_is_told(site: SentinelSite) -> None:
    """An operator would look for a network fault."""
    async with running(location(site, service="othermaster")) as limiter:
        assert limiter.status()["state"] == "away"
        assert "No such master" in str(limiter.status()["last_failure"])


async def test_a_planned_failover_is_followed(site: SentinelSite) -> None:
    """Row 78: each maintenance of Redis would be an outage, or counted in what is a replica now."""
    observed = Observed()
    async with (
        running(location(site), deadline_seconds=0.2, observe=observed) as limiter,
        steady([limiter], LIMITS, ["ak_planned"], callers=8) as log,
    ):
        await until(lambda: len(log.admitted("ak_planned")) > 60, "the load runs")
        old = site.master()
        new = next(one for one in site.servers if one is not old)
        await asyncio.to_thread(site.sentinels[0].ask, "SENTINEL", "FAILOVER", site.SERVICE)
        # The old master takes writes for some 8 s more, until the Sentinels turn it into a replica.
        await until(lambda: limiter.status()["address"] == new.place, "the new master is in use")
        assert await asyncio.to_thread(old.role) == b"master"
        await until(lambda: len(log.admitted("ak_planned")) >= IN_ALL - UNTOLD_MAX, "the limit is reached")
        await asyncio.sleep(0.5)
        lost = len(log.admitted("ak_planned")) - counted(new, "ak_planned")
        print(f"undecided for {log.longest_without('ak_planned'):.2f} s, lost {lost}")
        assert len(log.admitted("ak_planned")) <= IN_ALL + max(0, lost)
        assert log.most("ak_planned", SECOND_US) <= IN_ANY_SECOND + max(0, lost)
        assert log.longest_without("ak_planned") < UNDECIDED_SECONDS_MAX
    old.ask("REPLICAOF", "127.0.0.1", new.port)


async def test_a_master_that_is_gone_is_replaced(site: SentinelSite) -> None:
    """Rows 78, 79: limits would stay away until somebody points the gateway to another Redis."""
    async with (
        running(location(site), deadline_seconds=0.2) as limiter,
        steady([limiter], LIMITS, ["ak_gone"], callers=8) as log,
    ):
        await until(lambda: len(log.admitted("ak_gone")) > 60, "the load runs")
        old = await asyncio.to_thread(site.master)
        replica = next(one for one in site.servers if one is not old)
        # After the failover before this one: Sentinels promote nobody who has not followed, or whom they do not know.
        await asyncio.to_thread(site.wait_until_calm)
        old.kill()
        has = await asyncio.to_thread(counted, replica, "ak_gone")
        lost = max(0, len(log.admitted("ak_gone")) - has)
        promoted = await asyncio.to_thread(wait_until, lambda: replica.role() == b"master", "a new master")
        await until(lambda: len(log.admitted("ak_gone")) >= IN_ALL - UNTOLD_MAX, "the limit is reached")
        await asyncio.sleep(0.5)
        print(f"promoted after {promoted:.2f} s, undecided for {log.longest_without('ak_gone'):.2f} s, lost {lost}")
        assert len(log.admitted("ak_gone")) <= IN_ALL + lost
        assert log.most("ak_gone", SECOND_US) <= IN_ANY_SECOND + lost
        assert log.longest_without("ak_gone") < promoted + UNDECIDED_SECONDS_MAX
