"""Leased limits of a running gateway: what its workers hold goes back when the configuration changes and when they end."""

from __future__ import annotations

import struct
import threading
import time

import pytest
import redis

from ostiary.core import keyspace
from ostiary.demo.stores import EmbeddedValkey
from tests.endurance.conftest import MakeSite
from tests.endurance.site import Site
from tests.endurance.test_limits_in_use import Caller, callers_of_both_workers, with_plan
from tests.support.gateway_process import GatewayProcess, eventually

CALLING_SECONDS = 1.0


def counted(client: redis.Redis) -> int:
    """What Redis has counted of the minute, as the only limit."""
    raw = client.get(keyspace.plan_state("key_roomy"))
    assert isinstance(raw, bytes)
    return int(struct.unpack_from("<d", raw, raw.index(b"|") + 1)[0])


def called_for_a_while(callers: list[Caller]) -> int:
    """All of them as fast as they are answered; how many calls were let in."""
    admitted: list[int] = []

    def call(caller: Caller) -> None:
        ends, mine = time.monotonic() + CALLING_SECONDS, 0
        while time.monotonic() < ends:
            answer, _ = caller.call()
            assert answer.status == 200
            mine += 1
        admitted.append(mine)

    threads = [threading.Thread(target=call, args=(caller,)) for caller in callers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(admitted) == len(callers), "a call was refused, or failed"
    return sum(admitted)


def leased_of(gateway: GatewayProcess) -> list[int]:
    reported = [worker["reported"].get("limiter", {}) for worker in gateway.status()["workers"]]
    return [limiter.get("decided_from_slices", 0) for limiter in reported]


@pytest.fixture
def site(make_site: MakeSite, own_valkey: EmbeddedValkey) -> Site:
    return make_site(workers=2, redis=own_valkey.url())


def test_a_gateway_with_leased_limits_counts_every_call_once_over_reloads_and_its_end(
    site: Site, own_valkey: EmbeddedValkey
) -> None:
    """Row 81: a changed limit would leave what was held of the old one counted, and so would each restart."""
    with_plan(site, {"limits": [{"requests": 1_000_000, "per": "minute", "counting": "leased"}]})
    with redis.Redis.from_url(own_valkey.url()) as client:
        with site.gateway() as gateway:
            callers = callers_of_both_workers(site, gateway)
            before = client.info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0)
            made = called_for_a_while(callers)
            asked = client.info("commandstats")["cmdstat_evalsha"]["calls"] - before
            spent = eventually(lambda: sum(leased_of(gateway)), "calls were spent of slices")
            assert spent <= made
            assert asked < made / 2
            with_plan(site, {"limits": [{"requests": 900_000, "per": "minute", "counting": "leased"}]})
            gateway.wait_for_log("reloaded", generation=2)
            made += called_for_a_while(callers)
            for caller in callers:
                caller.close()
        assert counted(client) == made
