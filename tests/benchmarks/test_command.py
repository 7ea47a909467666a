from __future__ import annotations

import pytest
from click.testing import CliRunner

from benchmarks.__main__ import contestants_of, main, missing_peers
from benchmarks.contestant import Contestant, Need
from benchmarks.scenarios import SCENARIOS
from benchmarks.sides import CONTESTANTS

PLAIN = SCENARIOS["plain"]


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
    assert [contestant.name for contestant in contestants_of(PLAIN, ["nginx"], there)] == ["ostiary-plain"]


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
