"""Two gateways of two workers each lose their Redis: together they have one limit, and no signed call passes twice."""

from __future__ import annotations

import http.client
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis

from ostiary.core.signing import sign_request
from ostiary.demo.stores import EmbeddedValkey
from tests.endurance.origin import OriginProcess
from tests.support.gateway_process import SECRET, GatewayProcess, eventually
from tests.support.samples import samples
from tests.support.waiting import MACHINE_SECONDS

pytestmark = pytest.mark.alone

WORKERS = 2
LIMIT = 100
# Connections on which a call is repeated at once. The kernel spreads them over the workers.
COPIES = 8
CONFIGURATION = """\
version: 1
gateway:
  listen: {{host: 127.0.0.1, port: 0, workers: {workers}}}
  admin: {{host: 127.0.0.1, port: 0}}
  drain: 1s
  failed_attempts: off
stores: {{redis: {redis}, redis_deadline: 50ms}}
plans:
  few: {{limits: [{{requests: {limit}, per: hour}}]}}
  roomy: {{limits: [{{requests: 1000000, per: hour}}]}}
upstreams:
  origin: {{targets: [{{url: "http://127.0.0.1:{origin}"}}]}}
routes:
  - {{name: all, match: {{path: "/**"}}, upstream: origin, auth: {{schemes: [bearer, hmac]}}, on_store_failure: local}}
keys:
  - {{id: signs, secret: "${{OSTIARY_TEST_SECRET}}", environment: test, plan: roomy}}
  - {{id: few_calls, secret: "${{OSTIARY_TEST_SECRET}}-few", environment: test, plan: few}}
"""


@pytest.fixture
def nodes(tmp_path: Path, origin: OriginProcess, own_valkey: EmbeddedValkey) -> Iterator[list[GatewayProcess]]:
    path = tmp_path / "gateway.yaml"
    path.write_text(
        CONFIGURATION.format(workers=WORKERS, redis=own_valkey.url(), limit=LIMIT, origin=origin.port), encoding="utf-8"
    )
    with ExitStack() as stack:
        running = [stack.enter_context(GatewayProcess(["ostiary", "gateway", "-c", str(path)])) for _ in range(2)]
        for node in running:
            node.wait_ready()
        yield running


def call(port: int, method: str, target: str, headers: Mapping[str, str]) -> tuple[int, str]:
    """Status and body, on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, target, headers=dict(headers))
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def signed(nonce: str) -> dict[str, str]:
    return sign_request(
        key_id="signs",
        secret=SECRET.encode(),
        method="POST",
        target="/write",
        body=b"",
        nonce=f"{nonce}-0123456789abcdef",
    )


def send_at_once(pool: ThreadPoolExecutor, node: GatewayProcess, headers: Mapping[str, str]) -> Counter[str]:
    """What became of `COPIES` of one signed write: "accepted", or the code of the refusal."""
    port = node.port
    sent = [pool.submit(call, port, "POST", "/write", headers) for _ in range(COPIES)]
    answers = [each.result() for each in sent]
    return Counter(
        "accepted" if status == 200 else body.partition('"code":')[2].split('"')[1] for status, body in answers
    )


def gauge(node: GatewayProcess, name: str) -> float:
    return samples(node.admin("/metrics")[1]).get((name, ()), -1.0)


def wait_for_gauge(node: GatewayProcess, name: str, value: float) -> None:
    eventually(lambda: gauge(node, name) == value, f"{name} {value}")


def test_two_nodes_without_redis(nodes: list[GatewayProcess], own_valkey: EmbeddedValkey) -> None:
    """Rows 57 and 74: each node would let in the whole limit, and a recorded call would pass once on each worker."""
    for node in nodes:
        wait_for_gauge(node, "gateway_nodes", 2)
        assert node.status()["node"]["nodes"] == 2
        assert gauge(node, "rate_limit_store_away") == 0
    with ThreadPoolExecutor(COPIES) as pool:
        before = [signed(f"before-{number}") for number in range(4)]
        for headers in before:
            assert send_at_once(pool, nodes[0], headers)["accepted"] == 1

        own_valkey.kill()
        for node in nodes:
            wait_for_gauge(node, "rate_limit_store_away", WORKERS)

        for headers in before:
            assert send_at_once(pool, nodes[0], headers) == {"nonce_replayed": COPIES}
        during = [signed(f"during-{number}") for number in range(20)]
        for headers in during:
            fates = send_at_once(pool, nodes[0], headers)
            assert fates["accepted"] == 1
            assert fates.keys() <= {"accepted", "nonce_replayed", "limits_unavailable"}

        victim = nodes[0].worker_pids()[0]
        os.kill(victim, signal.SIGKILL)
        nodes[0].wait_for_workers(WORKERS, without=victim)
        nodes[0].signal(signal.SIGUSR2)
        nodes[0].wait_for_log("rolled")
        for headers in (*before, *during):
            assert send_at_once(pool, nodes[0], headers) == {"nonce_replayed": COPIES}

        bearer = {"Authorization": f"Bearer {SECRET}-few"}
        admitted = []
        for node in nodes:
            port = node.port
            calls = [pool.submit(call, port, "GET", "/read", bearer) for _ in range(2 * LIMIT)]
            statuses = Counter(each.result()[0] for each in calls)
            assert statuses.keys() == {200, 429}
            admitted.append(statuses[200])
        assert all(0 < count <= LIMIT // 2 for count in admitted), admitted

        own_valkey.start()
        came_back = time.monotonic()
        for node in nodes:
            wait_for_gauge(node, "rate_limit_store_away", 0)
        assert time.monotonic() - came_back < 3.0 + MACHINE_SECONDS, "2 s, and what it takes to tell"
        for headers in during:
            assert send_at_once(pool, nodes[0], headers) == {"nonce_replayed": COPIES}

    with redis.Redis.from_url(own_valkey.url()) as client:
        attempts = client.info("stats")["total_connections_received"]
    assert attempts <= 4 * WORKERS * len(nodes), "each worker comes back once, not in a stampede"
    for node, started in zip(nodes, (2 * WORKERS + 1, WORKERS), strict=True):  # one was killed, and all replaced
        assert len(node.logged("redis_away")) == started, "a line a worker"
        assert len(node.logged("redis_connected")) == 2 * WORKERS
