"""Redis forgets, dies, hangs and comes back under load: every call is answered, in time, and as its route chose."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import redis

from ostiary.demo.stores import EmbeddedValkey
from tests.endurance.callers import Call, Callers, Stream, broken
from tests.endurance.conftest import MakeSite
from tests.endurance.judging import moments_of, most_within
from tests.endurance.origin import OriginProcess
from tests.endurance.site import Site, stream
from tests.support.gateway_process import GatewayProcess, eventually, wait_seconds
from tests.support.samples import samples

pytestmark = pytest.mark.alone

WORKERS = 2
RECOVERED_WITHIN_SECONDS = 2.0
AWAY_SECONDS = 1.5
# What a call may take longer for the sake of a Redis that is away.
ADDED_SECONDS_MAX = 0.010
# stores.redis_deadline, and what a busy machine may add to any call.
DEADLINE_SECONDS = 0.050
MACHINE_SECONDS = 0.250


@dataclass(frozen=True, slots=True)
class Outage:
    """Moments of the monotonic clock: `noticed_ns` is when every worker had said so."""

    began_ns: int
    noticed_ns: int
    ended_ns: int

    def calls(self, calls: Sequence[Call], name: str) -> list[Call]:
        """Those of one stream that lie whole in the outage, after it was noticed."""
        return [
            call
            for call in calls
            if call.stream == name and call.began_ns > self.noticed_ns and call.ended_ns < self.ended_ns
        ]


def streams(site: Site, gateway: GatewayProcess) -> list[Stream]:
    roomy = site.bearer("key_roomy")
    return [
        stream("limited", gateway, "local", site.bearer("key_exact_log"), connections=2),
        stream("roomy", gateway, "local", roomy),
        stream("open", gateway, "open", roomy),
        stream("closed", gateway, "closed", roomy),
        # What the others are compared with: no limit, so no Redis, on the same machine at the same time.
        stream("free", gateway, "free", ()),
    ]


def store_failures(gateway: GatewayProcess) -> float:
    found = samples(gateway.admin("/metrics")[1])
    return sum(value for (name, _), value in found.items() if name == "rate_limit_store_failures_total")


def states(gateway: GatewayProcess) -> set[str]:
    """What the workers say of Redis, as of their last report."""
    return {worker["reported"].get("limiter", {}).get("state", "") for worker in gateway.status()["workers"]}


def p99(calls: Sequence[Call]) -> float:
    return sorted(call.seconds for call in calls)[len(calls) * 99 // 100]


@pytest.fixture
def site(make_site: MakeSite, own_valkey: EmbeddedValkey) -> Site:
    return make_site(workers=WORKERS, redis=own_valkey.url(), redis_deadline=f"{DEADLINE_SECONDS * 1000:g}ms")


def assert_each_route_got_what_it_chose(calls: Sequence[Call], outage: Outage) -> None:
    assert {(call.status, call.code) for call in outage.calls(calls, "open")} == {(200, "")}
    assert {(call.status, call.code) for call in outage.calls(calls, "roomy")} == {(200, "")}
    closed = outage.calls(calls, "closed")
    assert {(call.status, call.code) for call in closed} == {(503, "limits_unavailable")}
    assert all(int(call.retry_after) >= 1 for call in closed)
    limited = outage.calls(calls, "limited")
    assert {(call.status, call.code) for call in limited} == {(200, ""), (429, "rate_limited")}


def assert_no_call_waits_for_it(calls: Sequence[Call], outage: Outage) -> None:
    free = outage.calls(calls, "free")
    # Those that the origin answered too: a refusal is quicker than any of them.
    decided = outage.calls(calls, "roomy") + outage.calls(calls, "open")
    added = p99(decided) - p99(free)
    slowest = max(call.seconds for call in calls if outage.began_ns < call.ended_ns < outage.ended_ns)
    print(f"p99 {p99(decided) * 1e3:.1f} ms, {added * 1e3:+.1f} ms against none; slowest {slowest * 1e3:.1f} ms")
    assert added <= ADDED_SECONDS_MAX
    assert slowest <= 3 * DEADLINE_SECONDS + MACHINE_SECONDS


def assert_recovered(calls: Sequence[Call], outage: Outage) -> None:
    unavailable = [call.ended_ns for call in calls if call.status == 503 and call.ended_ns > outage.ended_ns]
    seconds = (max(unavailable, default=outage.ended_ns) - outage.ended_ns) / 1e9
    print(f"the last 503 was {seconds:.2f} s after the end of the outage")
    assert seconds <= RECOVERED_WITHIN_SECONDS
    after = [call for call in calls if call.began_ns > outage.ended_ns + RECOVERED_WITHIN_SECONDS * 1e9]
    assert {call.status for call in after if call.stream == "closed"} == {200}


def test_scripts_that_redis_forgot_are_loaded_again_and_no_caller_notices(
    make_site: MakeSite, callers: Callers, own_valkey: EmbeddedValkey
) -> None:
    """Row 77: SCRIPT FLUSH under load: a gateway that takes NOSCRIPT for an outage fails for nothing."""
    site = make_site(workers=WORKERS, redis=own_valkey.url())
    with site.gateway() as gateway:
        callers.start(streams(site, gateway))
        callers.wait_until_answered(200)
        with redis.Redis.from_url(own_valkey.url()) as client:
            for _ in range(20):
                client.script_flush()
                callers.wait_until_answered(20)
            assert client.info("commandstats")["cmdstat_script|load"]["calls"] > WORKERS, "it was loaded again"
        calls = callers.stop()
        assert store_failures(gateway) == 0
    assert broken(calls) == []
    assert {call.status for call in calls if call.stream != "limited"} == {200}
    assert {call.status for call in calls if call.stream == "limited"} <= {200, 429}


def test_redis_dies_and_comes_back_under_load(
    site: Site, callers: Callers, own_valkey: EmbeddedValkey, origin: OriginProcess
) -> None:
    """Row 74: a gateway that waits for Redis, or lets everything through where that was not chosen, is what fails when
    Redis does."""
    with site.gateway() as gateway:
        callers.start(streams(site, gateway))
        callers.wait_until_answered(200)
        began_ns = time.monotonic_ns()
        own_valkey.kill()
        eventually(lambda: states(gateway) == {"away"}, "/status of both workers")
        assert store_failures(gateway) >= WORKERS
        noticed_ns = time.monotonic_ns()
        wait_seconds(AWAY_SECONDS)
        outage = Outage(began_ns, noticed_ns, time.monotonic_ns())
        own_valkey.start()
        eventually(lambda: states(gateway) == {"connected"}, "/status of both workers")
        wait_seconds(max(0.0, (outage.ended_ns - time.monotonic_ns()) / 1e9 + RECOVERED_WITHIN_SECONDS + 0.3))
        calls = callers.stop()

    assert broken(calls) == []
    assert_each_route_got_what_it_chose(calls, outage)
    assert_no_call_waits_for_it(calls, outage)
    assert_recovered(calls, outage)
    shared = moments_of(outage.calls(calls, "limited"), origin.arrivals())
    assert 0 < most_within(shared, 1) <= 100, "the workers' shares together are the limit"


def test_redis_hangs_under_load(site: Site, callers: Callers, own_valkey: EmbeddedValkey) -> None:
    """Row 75: a Redis that takes connections and never answers must cost a call its deadline, and then nothing: calls that
    wait pile up until the gateway is what is down."""
    with site.gateway() as gateway:
        callers.start(streams(site, gateway))
        callers.wait_until_answered(200)
        began_ns = time.monotonic_ns()
        os.kill(own_valkey.pid, signal.SIGSTOP)
        try:
            eventually(lambda: states(gateway) == {"away"}, "/status of both workers")
            noticed_ns = time.monotonic_ns()
            assert store_failures(gateway) >= WORKERS
            wait_seconds(AWAY_SECONDS)
            outage = Outage(began_ns, noticed_ns, time.monotonic_ns())
        finally:
            os.kill(own_valkey.pid, signal.SIGCONT)
        eventually(lambda: states(gateway) == {"connected"}, "/status of both workers")
        wait_seconds(max(0.0, (outage.ended_ns - time.monotonic_ns()) / 1e9 + RECOVERED_WITHIN_SECONDS + 0.3))
        calls = callers.stop()

    assert broken(calls) == []
    assert_each_route_got_what_it_chose(calls, outage)
    assert_no_call_waits_for_it(calls, outage)
    assert_recovered(calls, outage)
