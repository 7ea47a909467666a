"""Added latency: its arithmetic, and the load at a set rate."""

from __future__ import annotations

import json
import subprocess

import psutil
import pytest

from benchmarks.latency import DIRECT, PEER, SUBJECT, LatencyResult, _at_rate, _stopped, _upstream
from benchmarks.rig import Role, running_rig
from benchmarks.scenarios import Sample
from tests.support.gateway_process import eventually


def sample(p99_us: int) -> Sample:
    return Sample(
        requests=10_000,
        requests_per_second=5000.0,
        cpu_us={Role.GATEWAY: 1.0},
        latency_p50_us=100,
        latency_p99_us=p99_us,
        proxy_core_busy=0.5,
        proxy_core_foreign=0.0,
        other_core_busy=0.5,
    )


def result(direct: list[int], ours: list[int], theirs: list[int] | None) -> LatencyResult:
    sides = {DIRECT: direct, SUBJECT: ours} | ({PEER: theirs} if theirs is not None else {})
    samples = {name: [sample(p99_us) for p99_us in values] for name, values in sides.items()}
    return LatencyResult({name: 10_000.0 for name in samples if name != DIRECT}, 5000.0, samples)


def test_added_is_what_the_gateway_adds_in_the_same_round() -> None:
    """The upstream's own latency would make every gateway look like every other."""
    measured = result([100, 1000], [300, 1400], [200, 1200])
    assert measured.added_p99_us(SUBJECT) == [200.0, 400.0]
    (found,) = measured.findings()
    assert (found.row, found.values) == ("6", (2.0, 2.0))
    assert found.verdict == "missed"


def test_a_gateway_that_adds_nothing_that_can_be_measured_gives_a_ratio_all_the_same() -> None:
    """Noise below nothing must neither end the bench nor turn a ratio's sign."""
    assert result([100], [90], [100]).ratios() == (1.0,)
    assert result([100], [120], [90]).ratios() == (2.0,)


def test_without_the_peer_there_is_no_ratio() -> None:
    """Latencies are worth having where nginx has no Lua."""
    measured = result([100], [300], None)
    assert measured.findings() == ()
    assert "300 (300–300)" in measured.text()
    json.dumps(measured.document())


@pytest.mark.full
def test_the_upstream_itself_is_loaded_as_a_gateway_is() -> None:
    """What a gateway adds is the difference: a side that is loaded in another way has none."""
    with running_rig(with_stores=False) as rig:
        upstream = _upstream(rig)
        measured = _at_rate(rig, upstream, upstream.start(rig), 200.0, 0.5, hold_shipper=True)
    assert 10 < measured.requests < 300
    assert 0 < measured.latency_p50_us <= measured.latency_p99_us


def test_what_is_stopped_for_a_run_goes_on_after_it() -> None:
    """A shipper that stays stopped is killed as hung, and its gateway's usage waits."""
    with subprocess.Popen(["sleep", "60"]) as process:
        seen = psutil.Process(process.pid)
        try:
            with _stopped({process.pid}):
                eventually(lambda: seen.status() == psutil.STATUS_STOPPED, "it is stopped")
            eventually(lambda: seen.status() != psutil.STATUS_STOPPED, "it goes on")
        finally:
            process.kill()
