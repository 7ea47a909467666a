"""Invariant: what was taken by a small skew is never taken again by a larger one: not after a restart, by no other gateway.

A nonce is remembered for twice the skew by which its call was judged. That a test need not wait for that, it deletes it."""

from __future__ import annotations

import http.client
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import redis

from ostiary.core import keyspace
from ostiary.core.signing import sign_request
from ostiary.demo.stores import EmbeddedValkey
from tests.support.gateway_process import GatewayProcess, eventually, wait_seconds
from tests.support.plain_gateway import origin, running

SECRET = "skewed-0123456789-0123456789-0123456789"
TARGET = "/payments"
SMALL, LARGE = 1, 600
CONFIGURATION = """\
version: 1
gateway:
  listen: {{host: 127.0.0.1, port: 0, workers: 2}}
  admin: {{host: 127.0.0.1, port: 0}}
  signature_skew: {skew}s
stores:
  redis: {redis}
upstreams:
  origin:
    targets: [{{url: "http://127.0.0.1:{origin}"}}]
routes:
  - {{name: payments, match: {{path: /payments}}, upstream: origin, auth: {{schemes: [hmac]}}}}
keys:
  - {{id: key_skewed, secret: {secret}, environment: test}}
"""

Start = Callable[[int], AbstractContextManager[GatewayProcess]]


@pytest.fixture
def start(tmp_path: Path, own_valkey: EmbeddedValkey) -> Iterator[Start]:
    """A gateway that judges by such a skew; all of them are before one Redis. `skew-N.yaml` is its file."""
    with origin() as port:

        @contextmanager
        def started(skew: int) -> Iterator[GatewayProcess]:
            path = tmp_path / f"skew-{skew}.yaml"
            path.write_text(configuration(skew, own_valkey, port))
            with running(path) as gateway:
                yield gateway

        yield started


def configuration(skew: int, valkey: EmbeddedValkey, origin_port: int) -> str:
    return CONFIGURATION.format(skew=skew, redis=valkey.url(), origin=origin_port, secret=SECRET)


def signed(timestamp: float | None = None) -> dict[str, str]:
    return sign_request(
        key_id="key_skewed",
        secret=SECRET.encode(),
        method="GET",
        target=TARGET,
        timestamp=None if timestamp is None else int(timestamp),
    )


def call(gateway: GatewayProcess, headers: dict[str, str]) -> tuple[int, str]:
    """The status, and what is said of it."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=10)
    try:
        connection.request("GET", TARGET, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def forget_nonces(valkey: EmbeddedValkey) -> None:
    """As Redis does in time."""
    client = redis.Redis.from_url(valkey.url())
    nonces = [name for name in client.keys("ost:*") if b"nodes" not in name and b"probe" not in name]
    assert nonces
    client.delete(*nonces)


def assert_refused_everywhere(gateway: GatewayProcess, recorded: dict[str, str]) -> None:
    """By whichever worker."""
    for _ in range(8):
        status, text = call(gateway, recorded)
        assert status == 401
        assert "timestamp_out_of_range" in text


def smaller_skews(gateway: GatewayProcess) -> list[object]:
    """What each worker knows."""
    reports = [worker["reported"] or {} for worker in gateway.status()["workers"]]
    return [report.get("gateway", {}).get("signature_skew", {}).get("smaller") for report in reports]


def test_a_restart_with_a_larger_skew_takes_no_call_again(start: Start, own_valkey: EmbeddedValkey) -> None:
    """Row 57: whoever raises the skew and restarts would let in up to an hour of recorded calls, each once more."""
    with start(SMALL) as gateway:
        recorded = signed()
        assert call(gateway, recorded)[0] == 200
        gateway.signal(signal.SIGTERM)
        assert gateway.wait() == 0
    forget_nonces(own_valkey)
    wait_seconds(SMALL + 1.5)
    with start(LARGE) as gateway:
        assert_refused_everywhere(gateway, recorded)
        assert call(gateway, signed())[0] == 200
        assert call(gateway, signed(time.time() + LARGE - 10))[0] == 200, (
            "the new skew holds for calls of after the change"
        )


def test_a_gateway_with_a_larger_skew_takes_nothing_that_another_took(start: Start, own_valkey: EmbeddedValkey) -> None:
    """Row 57: in a rolling change some nodes have the new skew, and some the old; a call that one has forgotten could be
    sent to another."""
    with start(LARGE) as large:
        assert smaller_skews(large) == [None, None]
        with start(SMALL) as small:
            recorded = signed()
            assert call(small, recorded)[0] == 200
        forget_nonces(own_valkey)
        eventually(lambda: None not in smaller_skews(large), "every worker has heard of the smaller skew")
        assert_refused_everywhere(large, recorded)


def test_a_skew_that_a_reload_makes_smaller_is_told_at_once(
    start: Start, own_valkey: EmbeddedValkey, tmp_path: Path
) -> None:
    """Row 57: under a skew of a second a nonce is remembered for seven; with the next beat the others would hear too late."""
    client = redis.Redis.from_url(own_valkey.url())
    with start(LARGE) as gateway:
        assert client.zrange(keyspace.skews(), 0, -1) == [b"600"]
        path = tmp_path / f"skew-{LARGE}.yaml"
        path.write_text(path.read_text().replace(f"{LARGE}s", f"{SMALL}s"))
        gateway.signal(signal.SIGHUP)
        gateway.wait_for_log("reloaded")
        eventually(lambda: client.zscore(keyspace.skews(), str(SMALL)), "the smaller skew is told", seconds=2.0)
