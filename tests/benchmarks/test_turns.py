"""A round: who is loaded when, and what is counted for whom."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from benchmarks import cpu
from benchmarks.contestant import RunningSide
from benchmarks.cpu import CoreTimes
from benchmarks.load import LoadResult, start_load
from benchmarks.measure import requests_for, samples_of
from benchmarks.rig import Rig, Role, running_rig
from benchmarks.scenarios import SCENARIOS
from benchmarks.sides import CONTESTANTS
from benchmarks.turns import TURN_SECONDS, Turns, run_in_turns

PLAIN, NGINX = SCENARIOS["plain"], CONTESTANTS["nginx"]


@pytest.fixture
def rig() -> Iterator[Rig]:
    with running_rig(with_stores=False) as rig:
        yield rig


def spent(side: RunningSide) -> float:
    return sum(cpu.thread_times(side.pids()[Role.GATEWAY]).values()) / 1e9


@pytest.mark.full
@pytest.mark.alone  # who waits for a processor has not answered, and looks as if it rested
def test_each_side_has_its_time_and_rests_in_that_of_the_others(rig: Rig) -> None:
    """Counted for itself is what a side does in its own turns: what it does besides would be none of its requests."""
    sides = {name: NGINX.start(rig) for name in ("first", "second")}
    requests = requests_for(NGINX, PLAIN, rig, 1.0)
    before = {name: spent(side) for name, side in sides.items()}
    found = run_in_turns(rig, {name: (side, requests) for name, side in sides.items()}, 4 * TURN_SECONDS)
    for name, side in sides.items():
        turns, whole = found[name], spent(side) - before[name]
        assert turns.load.requests > 50
        assert turns.seconds >= 4 * TURN_SECONDS
        assert turns.spent_seconds[Role.UPSTREAM] > 0
        # At most the whole, but for the order in which it is added up.
        assert 0.9 * whole < turns.spent_seconds[Role.GATEWAY] < whole + 1e-6


@pytest.mark.full
@pytest.mark.alone
def test_a_load_that_is_paused_asks_for_nothing_and_goes_on_when_it_is_resumed(rig: Rig) -> None:
    """Whoever is loaded in another's turn is measured there too. The sleeps are spans that are measured."""
    side = NGINX.start(rig)
    load = start_load(rig.processes, port=side.port, requests=requests_for(NGINX, PLAIN, rig, 1.0), seconds=1)
    try:
        time.sleep(TURN_SECONDS)
        load.pause()
        time.sleep(0.1)
        paused_at = spent(side)
        time.sleep(0.3)
        assert spent(side) - paused_at < 0.02
        load.resume()
        assert load.result().requests > 50
        assert spent(side) > paused_at
    finally:
        load.close()


def turns(requests: int, gateway_seconds: float, seconds: float = 2.0) -> Turns:
    of_side = Turns()
    of_side.load = LoadResult(requests, 9.0, 100, 200)
    of_side.seconds = seconds
    of_side.spent_seconds = {Role.GATEWAY: gateway_seconds, Role.REDIS: 0.01}
    of_side.proxy_core = CoreTimes(1.8, 0.2)
    of_side.other_core = CoreTimes(1.0, 1.0)
    return of_side


def test_of_what_is_done_after_a_turn_each_gets_its_own_and_postgres_those_who_meter() -> None:
    """A shipper works in everybody's turns. Counted in its own alone, a call would cost half of what it does."""
    read = {(1, 1): 0}
    ours = {Role.GATEWAY: read, Role.REDIS: read, Role.SHIPPER: read, Role.POSTGRES: read}
    theirs = {Role.GATEWAY: read, Role.REDIS: read, Role.POSTGRES: read}

    def later(roles: dict[Role, dict[tuple[int, int], int]], seconds: float) -> dict[Role, dict[tuple[int, int], int]]:
        return {role: {(1, 1): int(seconds * 1e9)} for role in roles}

    found = samples_of(
        {"ours": turns(1000, 0.05), "ours too": turns(3000, 0.05), "theirs": turns(500, 0.1)},
        {"ours": ours, "ours too": ours, "theirs": theirs},
        {"ours": later(ours, 0.4), "ours too": later(ours, 0.4), "theirs": later(theirs, 0.4)},
    )
    first, second, peer = (sample.cpu_us for sample in found.values())
    assert first == pytest.approx({"gateway": 50, "redis": 10, "shipper": 400, "postgres": 100})
    assert second[Role.POSTGRES] == pytest.approx(100)
    assert peer == pytest.approx({"gateway": 200, "redis": 20, "postgres": 0})
    assert found["ours"].requests_per_second == 500
    assert found["ours"].proxy_core_busy == pytest.approx(0.9)
    assert found["ours"].proxy_core_foreign == pytest.approx(0.875)
    assert found["ours"].other_core_busy == pytest.approx(0.5)
