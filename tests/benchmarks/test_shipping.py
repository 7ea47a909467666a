from __future__ import annotations

import json

import pytest

from benchmarks.load import LoadFailed
from benchmarks.measure import Plan
from benchmarks.rig import Role
from benchmarks.scenarios import Sample
from benchmarks.shipping import PEER, QUICK_ROWS, ShippingResult, measure_shipping
from benchmarks.sides import CONTESTANTS

QUICK = Plan(runs=1, seconds=1.0, quick=True)
RUN = {"rows": 1000.0, "shipper_seconds": 0.004, "postgres_seconds": 0.006, "wall_seconds": 1.0}


def call(us: float) -> Sample:
    return Sample(1000, 10_000.0, {Role.GATEWAY: us, Role.REDIS: 19.0}, 1, 2, 1.0, 0.0, 0.5)


def test_a_row_costs_the_processor_time_of_all_who_work_on_it() -> None:
    """Postgres left out would halve the figure; so would what Redis does for the other side."""
    measured = ShippingResult(1000, (RUN, RUN, RUN), (call(40.0), call(50.0), call(80.0)))
    (found,) = measured.findings()
    assert found.row == "8"
    assert list(found.values) == pytest.approx([0.25, 0.2, 0.125])
    assert found.verdict == "bar"
    assert "shipper 4.00 µs, Postgres 6.00 µs a row" in measured.text()
    assert "100,000 (100,000–100,000) rows per second of one core of this machine" in measured.text()
    assert "50.0 (40.0–80.0) µs" in measured.text()


def test_without_the_peer_a_rate_is_measured_and_nothing_is_judged() -> None:
    """A rate alone says as much of the machine as of the code."""
    measured = ShippingResult(1000, (RUN,))
    assert measured.findings() == ()
    assert "100,000" in measured.text()


@pytest.mark.full
def test_shipping_is_measured_with_a_real_postgres_in_turn_with_the_peer() -> None:
    """A shipper that has changed its shape is noticed here, not when someone needs its figure."""
    said: list[str] = []
    measured = measure_shipping(QUICK, [CONTESTANTS[PEER]], said.append)
    (run,), (peers,) = measured.runs, measured.calls
    assert run["rows"] == QUICK_ROWS
    assert run["shipper_seconds"] > 0
    assert run["postgres_seconds"] > 0
    assert peers.cpu_us[Role.GATEWAY] > 0
    assert "nginx-lua" in said[-2]
    assert "µs a row" in said[-1]
    json.dumps(measured.document())


def test_a_shipper_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """`No figure` alone sends whoever needs one to look for the reason in four programs."""
    monkeypatch.setattr("benchmarks.shipping.QUICK_ROWS", "many")
    with pytest.raises(LoadFailed, match=r"status 2:\n(.|\n)*invalid int value: 'many'"):
        measure_shipping(QUICK, [], lambda line: None)
