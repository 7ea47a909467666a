"""What a caller meets of its limits at a running gateway: changed under its use, refused, and with calls that do not end."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import struct
import time
from collections.abc import Iterator
from typing import Any

import http_sf
import psutil
import pytest
import redis

from ostiary.core import keyspace
from ostiary.demo.stores import EmbeddedValkey
from tests.endurance.conftest import MakeSite
from tests.endurance.origin import OriginProcess
from tests.endurance.site import Site, client_ports
from tests.support.gateway_process import GatewayProcess, eventually
from tests.support.waiting import MACHINE_SECONDS

pytestmark = pytest.mark.alone

WORKERS = 2
# A changed limit is in effect, and what a busy machine may add to that.
EFFECTIVE_SECONDS = 1.0
CLOSE_WITH_RESET = struct.pack("ii", 1, 0)


@pytest.fixture
def hanging() -> Iterator[int]:
    """The port of an upstream that takes connections and answers nothing."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield int(listener.getsockname()[1])


@pytest.fixture
def site(make_site: MakeSite, own_valkey: EmbeddedValkey, hanging: int) -> Site:
    """A site with a route to the upstream that hangs."""
    site = make_site(workers=WORKERS, redis=own_valkey.url())
    upstream = f'  hanging:\n    targets: [{{url: "http://127.0.0.1:{hanging}"}}]\n'
    route = "  - {name: hang, match: {path: /hang/**}, upstream: hanging, auth: {schemes: [bearer]}}\n"
    site.text = site.text.replace("routes:\n", f"{upstream}routes:\n{route}")
    return site


def with_plan(site: Site, plan: dict[str, object]) -> None:
    """The configuration of the site with this as the plan `roomy`."""
    site.write(re.sub(r"(?m)^  roomy: .*$", f"  roomy: {json.dumps(plan)}", site.text))


class Caller:
    """One connection of one caller."""

    def __init__(self, site: Site, gateway: GatewayProcess) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=10)
        self._connection.connect()
        self._headers = dict(site.bearer("key_roomy"))
        self._calls = 0

    @property
    def port(self) -> int:
        assert self._connection.sock is not None
        return int(self._connection.sock.getsockname()[1])

    def call(self, request_id: str = "") -> tuple[http.client.HTTPResponse, bytes]:
        self._calls += 1
        fields = self._headers | {"X-Request-Id": request_id or f"{self.port}.{self._calls}"}
        self._connection.request("GET", "/local/x", headers=fields)
        answer = self._connection.getresponse()
        return answer, answer.read()

    def send_to_hang(self) -> None:
        """A call that will not be answered."""
        self._connection.request("GET", "/hang/x", headers=self._headers | {"X-Request-Id": f"{self.port}.hang"})

    def abort(self) -> None:
        assert self._connection.sock is not None
        self._connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, CLOSE_WITH_RESET)
        self._connection.close()

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
def gateway(site: Site) -> Iterator[GatewayProcess]:
    with_plan(site, {"limits": [{"requests": 1000, "per": "minute"}], "concurrency": 50})
    with site.gateway() as gateway:
        yield gateway


def callers_of_both_workers(site: Site, gateway: GatewayProcess) -> list[Caller]:
    callers = [Caller(site, gateway) for _ in range(4)]

    def both() -> bool:
        ports = [client_ports(pid, gateway.port) for pid in gateway.worker_pids()]
        if not all(any(caller.port in of_worker for caller in callers) for of_worker in ports):
            callers.append(Caller(site, gateway))
            return False
        return True

    eventually(both, "a connection to each worker")
    return callers


def told(callers: list[Caller]) -> list[tuple[int, int, int]]:
    """Status, limit and what remains of it, as each connection is told."""
    answers = [caller.call()[0] for caller in callers]
    fields = [(answer.getheader("X-RateLimit-Limit"), answer.getheader("X-RateLimit-Remaining")) for answer in answers]
    return [
        (answer.status, int(limit or -1), int(left or -1))
        for answer, (limit, left) in zip(answers, fields, strict=True)
    ]


def change(site: Site, gateway: GatewayProcess, callers: list[Caller], requests: int) -> list[tuple[int, int, int]]:
    """Reloads with another limit; what is told as soon as all connections are told the new one."""
    with_plan(site, {"limits": [{"requests": requests, "per": "minute"}]})
    seen: list[tuple[int, int, int]] = []

    def changed() -> bool:
        seen[:] = told(callers)
        assert all(left >= 0 for _, _, left in seen), seen
        return {limit for _, limit, _ in seen} == {requests}

    began = time.monotonic()
    gateway.signal(signal.SIGHUP)
    eventually(changed, f"a limit of {requests} in every worker")
    seconds = time.monotonic() - began
    print(f"a limit of {requests} was in effect after {seconds:.2f} s")
    assert seconds <= EFFECTIVE_SECONDS + MACHINE_SECONDS
    return seen


def test_a_limit_that_is_changed_under_its_use_is_in_effect_within_a_second(
    site: Site, gateway: GatewayProcess
) -> None:
    """Row 81: lowered below what was used, a caller is told of none left, not of fewer; raised, it gets the difference and
    no new period."""
    callers = callers_of_both_workers(site, gateway)
    for _ in range(5):
        assert {status for status, _, _ in told(callers)} == {200}
    used = 1000 - min(left for _, _, left in told(callers))
    lowered = change(site, gateway, callers, used // 2)
    assert {(status, left) for status, _, left in lowered} == {(429, 0)}
    raised = change(site, gateway, callers, used + 500)
    assert {status for status, _, _ in raised} == {200}
    assert 0 < max(left for _, _, left in raised) < 500
    for caller in callers:
        caller.close()


def structured(value: str, kind: str) -> Any:
    """RFC 9651. Raises ValueError for what is no structured field."""
    return http_sf.parse(value.encode(), tltype=kind)


def test_a_refusal_is_of_the_standard_shape_and_is_not_billed(
    site: Site, gateway: GatewayProcess, origin: OriginProcess
) -> None:
    """Row 82: clients could not tell what to wait for; and would pay for calls that nobody served."""
    with_plan(site, {"quotas": [{"requests": 3, "per": "month"}]})
    gateway.signal(signal.SIGHUP)
    gateway.wait_for_log("reloaded")
    caller = Caller(site, gateway)
    ids = [f"refusal.{number}" for number in range(5)]
    answers = [caller.call(request_id) for request_id in ids]
    caller.close()
    assert [answer.status for answer, _ in answers] == [200, 200, 200, 429, 429]
    for answer, body in answers[3:]:
        fields = {name.lower(): value for name, value in answer.getheaders()}
        wait = structured(fields["retry-after"], "item")[0]
        assert 1 <= wait <= 31 * 86_400
        assert structured(fields["ratelimit-policy"], "list") == [("month", {"q": 3, "w": 31 * 86_400})]
        assert structured(fields["ratelimit"], "list") == [("month", {"r": 0, "t": wait})]
        assert fields["content-type"] == "application/problem+json"
        problem = json.loads(body)
        assert problem["type"].endswith("quota-exceeded")
        assert (problem["status"], problem["code"]) == (429, "quota_exceeded")
    assert sorted(origin.arrivals()) == ids[:3]

    # A refused call is a row too, for the log of errors; it is none of those that a bill or a quota counts.
    assert site.rows(ids).keys() >= set(ids)
    counted = site.values("SELECT request_id FROM usage_events WHERE upstream_us IS NOT NULL ORDER BY 1")
    refused = site.values("SELECT request_id FROM usage_events WHERE status = 429 AND NOT overage ORDER BY 1")
    assert (counted, refused) == (ids[:3], ids[3:])


def lease_ends(store: Any) -> dict[bytes, float]:
    return dict(store.zrange(keyspace.leases("key_roomy"), 0, -1, withscores=True))


def test_calls_of_clients_that_left_and_of_a_killed_worker_are_under_way_no_more(
    site: Site, gateway: GatewayProcess, own_valkey: EmbeddedValkey
) -> None:
    """Row 84: a caller whose clients give up, or whose worker dies, would be locked out for ever, a place at a time."""
    with_plan(site, {"concurrency": 2})
    gateway.signal(signal.SIGHUP)
    gateway.wait_for_log("reloaded")
    with redis.Redis.from_url(own_valkey.url()) as store:
        # Twice as often as there are places: each client leaves in the middle of its call.
        for _ in range(2):
            leaving = [Caller(site, gateway) for _ in range(2)]
            for caller in leaving:
                caller.send_to_hang()
            eventually(lambda: len(lease_ends(store)) == 2, "two calls under way")
            asking = Caller(site, gateway)
            assert asking.call()[0].status == 429
            for caller in leaving:
                caller.abort()
            eventually(lambda: not lease_ends(store), "the places of clients that left are free")
            assert asking.call()[0].status == 200
            asking.close()
            # Its place is free a moment after its answer: calls by another worker may come before that.
            eventually(lambda: not lease_ends(store), "the place of the call that was answered is free")

        staying = [Caller(site, gateway) for _ in range(2)]
        for caller in staying:
            caller.send_to_hang()
        eventually(lambda: len(lease_ends(store)) == 2, "two calls under way")
        killed = gateway.worker_pids()
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: not any(map(psutil.pid_exists, killed)), "the workers have gone")
        gateway.wait_for_workers(WORKERS)
        # Nobody renews them, and they end by themselves.
        latest_us = time.time_ns() // 1000 + keyspace.LEASE_SECONDS * 1_000_000
        assert all(end <= latest_us for end in lease_ends(store).values())
        assert 0 < store.pttl(keyspace.leases("key_roomy")) <= keyspace.LEASE_SECONDS * 1000
        for member, end in store.zrange(keyspace.leases("key_roomy"), 0, -1, withscores=True):
            store.zadd(
                keyspace.leases("key_roomy"), {member: end - keyspace.LEASE_SECONDS * 1_000_000}
            )  # a minute later
        asking = Caller(site, gateway)
        assert asking.call()[0].status == 200
        asking.close()
