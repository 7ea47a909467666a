"""kill -9 of every kind of process under load: what a client saw answered is one row in Postgres, and only one."""

from __future__ import annotations

import os
import random
import signal

import pytest

from tests.endurance.callers import Call, Callers, broken, whole
from tests.endurance.conftest import MakeSite
from tests.endurance.killing import Kill, kill_worker, unexplained
from tests.endurance.origin import OriginProcess
from tests.endurance.site import stream
from tests.support.gateway_process import GatewayProcess, eventually, is_alive

pytestmark = pytest.mark.alone

WORKERS = 3
WORKERS_KILLED = 5


def test_no_answered_call_is_lost_or_counted_twice_whatever_process_is_killed(
    make_site: MakeSite, callers: Callers, origin: OriginProcess
) -> None:
    """Rows 87, 94, 109: kill -9 of workers, of the shipper and of the supervisor under load: the bill would differ from what
    the customer saw, or the upstream has done. Calls of a killed worker's own connections may break and no others, and
    its successor serves within a second."""
    site = make_site(workers=WORKERS)
    chance = random.Random(87)
    calls: list[Call] = []
    kills: list[Kill] = []

    with site.gateway() as gateway:
        load = [stream("before", gateway, "open", site.bearer("key_roomy"), connections=3)]
        callers.start(load)
        for number in range(WORKERS_KILLED):
            callers.wait_until_answered(chance.randrange(50, 300))
            kills.append(kill_worker(gateway, number % WORKERS, connections=callers.connections(load), workers=WORKERS))
        callers.wait_until_answered(chance.randrange(50, 300))
        kill_shipper(gateway)
        callers.wait_until_answered(100)
        calls += callers.stop()
        assert not unexplained(broken(calls), kills)
        print("successors served after", [f"{kill.served_seconds:.3f} s" for kill in kills])
        assert max(kill.served_seconds for kill in kills) < 1.0

        callers.start([stream("cut-off", gateway, "open", site.bearer("key_roomy"), connections=3)])
        callers.wait_until_answered(chance.randrange(50, 300))
        workers = gateway.worker_pids()
        gateway.process.kill()
        eventually(lambda: not any(map(is_alive, workers)), "workers leave when their supervisor is gone")
        calls += callers.stop()

    with site.gateway() as gateway:
        callers.start([stream("after", gateway, "open", site.bearer("key_roomy"), connections=3)])
        callers.wait_until_answered(200)
        last = callers.stop()
        assert not broken(last)
        calls += last

        answered = [call.request_id for call in whole(calls)]
        assert {call.status for call in whole(calls)} == {200}
        site.assert_each_once(answered, {call.request_id for call in calls})
        arrivals = origin.arrivals()
        assert all(len(arrivals[request_id]) == 1 for request_id in answered)
        unmetered = arrivals.keys() - set(site.values("SELECT request_id FROM usage_events"))
        assert not unmetered, f"{len(unmetered)} calls were served by the origin and have no row: {list(unmetered)[:5]}"
        books = site.reconcile()
        assert books.returncode == 0, books.stdout + books.stderr


def kill_shipper(gateway: GatewayProcess) -> None:
    """SIGKILL, and waits for its successor."""
    victim = gateway.status()["shipper"]["pid"]
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: gateway.status()["shipper"]["pid"] not in (None, victim), "another shipper")
