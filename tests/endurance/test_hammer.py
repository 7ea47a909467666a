"""Invariant: allowed ≤ limit in every span, for eight processes that hammer one key through several workers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from ostiary.core.limiting import WINDOW_SLOTS
from ostiary.demo.stores import EmbeddedPostgres, EmbeddedValkey
from tests.endurance.callers import Call, Callers, broken
from tests.endurance.judging import Moments, moments_of, most_over_refill, most_within
from tests.endurance.origin import OriginProcess, running_origin
from tests.endurance.site import Site, fresh_database, stream, wait_until_connected
from tests.support.gateway_process import GatewayProcess, wait_seconds

WORKERS = 3
CONNECTIONS = 3  # of each process
SECONDS = 2.5


@dataclass(frozen=True, slots=True)
class Running:
    site: Site
    gateway: GatewayProcess
    origin: OriginProcess


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, postgres_server: EmbeddedPostgres, valkey_server: EmbeddedValkey
) -> Iterator[Running]:
    """One gateway for all keys."""
    directory = tmp_path_factory.mktemp("hammer")
    with running_origin(directory) as origin:
        postgres, redis = fresh_database(postgres_server), valkey_server.url()
        site = Site(directory, postgres=postgres, redis=redis, origin_port=origin.port, workers=WORKERS)
        with site.gateway() as gateway:
            yield Running(site, gateway, origin)


@pytest.mark.parametrize("key", ["key_exact_log", "key_slots", "key_bucket"])
def test_eight_processes_on_one_key_never_get_more_than_its_limit(
    running: Running, eight_callers: Callers, key: str
) -> None:
    """Rows 71, 72: workers that each count for themselves, or a window that begins anew, would let in several times the
    limit."""
    calls = hammer(running.site, running.gateway, eight_callers, key, seconds=SECONDS)
    admitted = moments_of(calls, running.origin.arrivals())
    print(f"{key}: asked {len(calls)}, admitted {len(admitted)}, {judge(key, admitted)}")
    # 400: what the largest of the limits lets in within a second.
    assert len(calls) - len(admitted) > 400, "as much was refused as workers that count for themselves would let in"


def hammer(site: Site, gateway: GatewayProcess, callers: Callers, key: str, *, seconds: float) -> list[Call]:
    """Every call of all processes, as fast as they are answered: each of them 200, or 429 with a Retry-After."""
    load = [
        stream(
            key,
            gateway,
            "closed",
            site.bearer(key),
            connections=CONNECTIONS,
            pause_seconds=0,
            refused_pause_seconds=0.01,
        )
    ]
    callers.start(load)
    ports = wait_until_connected(gateway, callers.connections(load))
    assert sum(map(bool, ports.values())) > 1, "several workers decide"
    wait_seconds(seconds)
    calls = callers.stop()
    assert broken(calls) == []
    assert {(call.status, call.code) for call in calls} == {(200, ""), (429, "rate_limited")}
    assert all(int(call.retry_after) >= 1 for call in calls if call.status == 429)
    return calls


def judge(key: str, admitted: list[Moments], every: int = 1) -> str:
    """Holds what was admitted against the plan of the key, from both sides; the figures."""
    seconds = admitted[-1][1] - admitted[0][0]
    if key == "key_bucket":
        burst = most_over_refill(admitted, 200, every)
        assert burst <= 50 + 1  # the bucket counts whole milliseconds
        assert len(admitted) >= 0.9 * (50 + 200 * seconds)
        return f"at most {burst:.1f} over the refill, of a burst of 50"
    requests = {"key_exact_log": 100, "key_slots": 400}[key]
    most = most_within(admitted, 1)
    assert most <= requests
    assert most >= 0.9 * requests, "the judge sees nearly every call, or it would not see one too many"
    # The whole limit each window and slot, begun at the first call.
    assert len(admitted) >= 0.9 * requests * (seconds // (1 + 1 / WINDOW_SLOTS))
    return f"at most {most} in any second, of {requests}"
