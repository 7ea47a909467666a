from __future__ import annotations

import json

import pytest

from benchmarks.checks import JobCheck
from benchmarks.findings import Bar
from benchmarks.measure import Plan, ScenarioResult
from benchmarks.report import document, findings, machine, ratios, table, text
from benchmarks.rig import Role
from benchmarks.scenarios import GATEWAY_AND_REDIS_CPU, GATEWAY_CPU, REQUESTS_PER_SECOND, Comparison, Sample, Scenario

PLAN = Plan(runs=2, seconds=5.0)


def sample(
    gateway_us: float, *, requests_per_second: float = 1000.0, foreign: float = 0.0, busy: float = 1.0
) -> Sample:
    return Sample(
        requests=5000,
        requests_per_second=requests_per_second,
        cpu_us={Role.GATEWAY: gateway_us, Role.REDIS: 10.0},
        latency_p50_us=1,
        latency_p99_us=2,
        proxy_core_busy=busy,
        proxy_core_foreign=foreign,
        other_core_busy=1.0,
    )


def result(
    ours: list[Sample], theirs: list[Sample], *comparisons: Comparison, check: JobCheck | None = None
) -> ScenarioResult:
    scenario = Scenario("job", "a job", "ostiary", "/", 121, with_stores=True, comparisons=comparisons)
    titles = {"ostiary": "Ostiary", "peer": "A peer"}
    return ScenarioResult(scenario, titles, {"ostiary": ours, "peer": theirs}, check)


@pytest.mark.parametrize(
    ("ours_us", "verdict"), [(8.0, "aim"), (8.1, "bar"), (10.0, "bar"), (10.1, "missed")], ids=lambda value: str(value)
)
def test_cpu_is_met_by_at_most_the_bar(ours_us: float, verdict: str) -> None:
    """A verdict the wrong way round would call a slow gateway fast."""
    compared = result([sample(ours_us)], [sample(10.0)], Comparison(GATEWAY_CPU, "peer", Bar(1.0, aim=0.8)))
    assert ratios(compared)[0].verdict == verdict


@pytest.mark.parametrize(("ours", "verdict"), [(7000.0, "aim"), (5000.0, "bar"), (4999.0, "missed")])
def test_requests_per_second_are_met_by_at_least_the_bar(ours: float, verdict: str) -> None:
    """More requests a second are better, less CPU is: the two senses must not be mixed up."""
    comparison = Comparison(REQUESTS_PER_SECOND, "peer", Bar(5.0, aim=7.0, less_is_better=False))
    compared = result([sample(1.0, requests_per_second=ours)], [sample(1.0)], comparison)
    assert ratios(compared)[0].verdict == verdict


def test_redis_is_added_to_both_sides_of_a_ratio() -> None:
    """Redis left out of one side would favour the other."""
    compared = result([sample(10.0)], [sample(30.0)], Comparison(GATEWAY_AND_REDIS_CPU, "peer"))
    assert ratios(compared)[0].spread.median == 0.5


def test_a_peer_that_was_not_there_is_left_out_of_the_ratios() -> None:
    """A missing peer must neither end the run nor show as a figure."""
    compared = result([sample(1.0)], [sample(1.0)], Comparison(GATEWAY_CPU, "peer"), Comparison(GATEWAY_CPU, "absent"))
    assert [ratio.comparison.peer for ratio in ratios(compared)] == ["peer"]


def test_text_has_spread_bars_and_verdict() -> None:
    """The table is what people read: every ratio stands with its spread and what was asked of it."""
    comparison = Comparison(GATEWAY_CPU, "peer", Bar(1.0, aim=0.8))
    printed = text(result([sample(7.0), sample(9.0)], [sample(10.0), sample(10.0)], comparison), PLAN)
    assert "8.0 (7.0–9.0)" in printed
    assert printed.splitlines()[-1].split() == [
        *("peer", "CPU", "per", "request", "0.70", "0.80", "0.90", "≤", "1", "≤", "0.8", "aim")
    ]


def test_noise_and_a_busy_load_generator_are_told() -> None:
    """Figures taken on a disturbed machine must not look like any others."""
    printed = text(result([sample(1.0, foreign=0.2)], [sample(1.0, busy=0.5)], Comparison(GATEWAY_CPU, "peer")), PLAN)
    assert "up to 20% of the proxy's core while ostiary was measured" in printed
    assert "requests/s of ostiary, peer do not show what it can do" in printed


@pytest.mark.parametrize(("rows", "reconciles"), [(99, False), (100, True), (105, True), (106, False)])
def test_usage_must_reconcile(rows: int, reconciles: bool) -> None:
    """A gateway that drops its usage does less work than it is measured for."""
    check = JobCheck(answered=100, rows=rows, surplus_max=5, decided_without_redis=0)
    assert check.reconciles is reconciles
    printed = text(result([sample(1.0)], [sample(1.0)], check=check), PLAN)
    assert ("every call is metered" in printed) is reconciles


def test_decisions_without_redis_are_told() -> None:
    """A gateway that goes on without Redis has less to do than its peer."""
    check = JobCheck(answered=100, rows=100, surplus_max=5, decided_without_redis=7)
    assert "7 of them were decided without Redis" in text(result([sample(1.0)], [sample(1.0)], check=check), PLAN)


def test_the_document_is_json_with_every_sample() -> None:
    """Later readings (plots, regressions) have nothing but this file."""
    comparison = Comparison(GATEWAY_CPU, "peer", Bar(1.0, aim=0.7))
    job = json.loads(json.dumps(document(result([sample(7.0), sample(9.0)], [sample(10.0)] * 2, comparison))))
    assert [run["cpu_us"]["gateway"] for run in job["samples"]["ostiary"]] == [7.0, 9.0]
    assert job["ratios"][0]["median"] == pytest.approx(0.8)
    assert job["ratios"][0]["met"] == "bar"


def test_what_a_machine_is_like_stands_beside_its_figures() -> None:
    """Figures of two machines must not be compared as if they were of one."""
    read = json.loads(json.dumps(machine()))
    assert read["cores"] >= 1
    assert 1.0 < read["interpreter_us"] < 1000.0


def test_what_is_asked_of_a_scenario_is_a_line_of_the_table() -> None:
    """A ratio with a bar that is missing in the table is one that nobody looks at; the others have no place in it."""
    asked = Comparison(GATEWAY_CPU, "peer", Bar(1.0, aim=0.8), "1")
    compared = result([sample(7.0), sample(9.0)], [sample(10.0)] * 2, asked, Comparison(REQUESTS_PER_SECOND, "peer"))
    (found,) = findings(compared)
    assert (found.row, found.measure) == ("1", "a job: CPU per request, against A peer")
    assert found.values == pytest.approx((0.7, 0.9))
    assert found.verdict == "aim"


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    """Figures must stand below each other to be compared."""
    assert table([["", "µs"], ["nginx", "1.0"], ["b", "10.0"]]) == "         µs\nnginx   1.0\nb      10.0"
