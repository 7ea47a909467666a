from __future__ import annotations

from collections.abc import Sequence

import pytest
from click.testing import CliRunner

from benchmarks.__main__ import main
from benchmarks.contestant import Contestant, Need
from benchmarks.load import LoadFailed
from benchmarks.measure import Plan
from benchmarks.measurements import MEASUREMENTS, Measured, Measurement, Say, measured, missing_peers, peers_of
from benchmarks.scenarios import SCENARIOS
from benchmarks.sides import CONTESTANTS

PLAIN = MEASUREMENTS["plain"]


def lacking(name: str, package: str) -> dict[str, Contestant]:
    """All contestants, of which one lacks a package twice over."""
    peer = CONTESTANTS[name]
    need = Need(package, lambda: False, f"apt-get install {package}")
    return {**CONTESTANTS, name: Contestant(peer.name, peer.title, peer.credential, (need, need), peer.start)}


def test_missing_peers_are_named_with_what_brings_them() -> None:
    """A table without a peer must say why, and how to have it in the next one."""
    there = lacking("nginx", "nginx-extras")
    assert missing_peers([PLAIN], ["nginx"], there) == {"nginx": ["apt-get install nginx-extras"]}
    assert "nginx" not in missing_peers([PLAIN], ["haproxy"], there)
    assert peers_of(PLAIN, ["nginx"], there) == []
    assert [peer.name for peer in peers_of(PLAIN, ["nginx"])] == ["nginx"]


@pytest.mark.parametrize(("arguments", "offered"), [(["--peers", "ngnix"], "nginx-lua"), (["whole-jab"], "whole-job")])
def test_wrong_names_are_refused_with_those_there_are(arguments: list[str], offered: str) -> None:
    """A mistyped peer must not end in a table without it."""
    answer = CliRunner().invoke(main, arguments)
    assert answer.exit_code == 2
    assert offered in answer.output


def test_every_peer_of_a_scenario_is_a_contestant() -> None:
    """A scenario that names an unknown peer would fail after minutes of measuring."""
    for scenario in SCENARIOS.values():
        assert {scenario.subject, *scenario.peers()} <= CONTESTANTS.keys()
    for measurement in MEASUREMENTS.values():
        assert set(measurement.peers) <= CONTESTANTS.keys()


def test_every_scenario_is_measured() -> None:
    """A scenario that no command runs is none."""
    assert SCENARIOS.keys() <= MEASUREMENTS.keys()


@pytest.mark.parametrize("failures", [1, 2])
def test_a_run_that_is_no_result_is_made_once_more(failures: int) -> None:
    """One refused request would cost a line of a table of twelve minutes; one that is refused each time must be told."""
    left = ["one request was refused"] * failures

    def run(plan: Plan, peers: Sequence[Contestant], say: Say) -> Measured:
        if left:
            raise LoadFailed(left.pop())
        return Measured("plain", "text", {}, ())

    said: list[str] = []
    measurement = Measurement("plain", (), run)
    if failures == 1:
        assert measured(measurement, Plan(1, 1.0), (), said.append).text == "text"
    else:
        with pytest.raises(LoadFailed, match="refused"):
            measured(measurement, Plan(1, 1.0), (), said.append)
    assert said == ["plain once more, because one request was refused"]
