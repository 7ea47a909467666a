"""Each peer does what it is measured for. The needed programs are Debian packages; Envoy is on PyPI."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from benchmarks.contestant import Contestant
from benchmarks.measure import exchange, probe, requests_for, run_once
from benchmarks.requests import signed_request, unchanging_request
from benchmarks.rig import Rig, Role, running_rig
from benchmarks.scenarios import SCENARIOS, Scenario
from benchmarks.sides import CONTESTANTS

PEERS = [
    pytest.param(scenario, CONTESTANTS[name], id=f"{scenario.name}-{name}")
    for scenario in SCENARIOS.values()
    for name in scenario.peers()
    # The others are Debian packages, which `--full` asks for.
    if name != "envoy" or not CONTESTANTS[name].missing()
]


@pytest.fixture(scope="module")
def rigs() -> Iterator[dict[bool, Rig]]:
    with running_rig(with_stores=True) as full, running_rig(with_stores=False) as bare:
        yield {True: full, False: bare}


@pytest.mark.full
@pytest.mark.parametrize(("scenario", "peer"), PEERS)
def test_every_peer_that_is_installed_answers_its_load(
    scenario: Scenario, peer: Contestant, rigs: dict[bool, Rig]
) -> None:
    """A peer whose configuration has a mistake would be measured refusing, or not at all."""
    rig = rigs[scenario.with_stores]
    side = peer.start(rig)
    try:
        probe(peer, side.port, scenario)
        sample = run_once(rig, side, requests_for(peer, scenario, rig, 1.0), 0.3)
    finally:
        rig.processes.stop(side.started)
    assert sample.requests > 50
    assert 1.0 < sample.cpu_us[Role.GATEWAY] < 20_000.0
    assert (Role.REDIS in sample.cpu_us) is scenario.with_stores


@pytest.mark.full
def test_the_peer_of_the_same_work_refuses_what_ostiary_refuses(rigs: dict[bool, Rig]) -> None:
    """A peer that skips a check has it easier than it is said to have."""
    rig, target = rigs[True], "/v1/clients?limit=10"
    now = int(time.time())
    side = CONTESTANTS["nginx-lua-nonce"].start(rig)
    try:
        stale = signed_request(target, timestamp=now - 310, nonce="stale" * 4)
        assert exchange(side.port, stale)[0] == 401
        assert exchange(side.port, signed_request(target, timestamp=now, nonce="short"))[0] == 401
        assert exchange(side.port, unchanging_request(target))[0] == 401
        fresh = signed_request(target, timestamp=now, nonce="fresh" * 4)
        assert exchange(side.port, fresh) == (200, 121)
        assert exchange(side.port, fresh)[0] == 401
    finally:
        rig.processes.stop(side.started)
