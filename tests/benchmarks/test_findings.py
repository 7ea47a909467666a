from __future__ import annotations

import json

import pytest

from benchmarks.findings import Bar, Finding, Unit, Verdict, pooled

RATIO = Bar(1.1, aim=1.03)
RATE = Bar(100_000, aim=200_000, less_is_better=False)


def finding(*values: float, row: str = "7", measure: str = "many keys", asked: Bar = RATIO) -> Finding:
    return Finding(row, measure, Unit.RATIO, asked, values)


@pytest.mark.parametrize(
    ("asked", "value", "verdict"),
    [
        (RATIO, 1.03, Verdict.AIM),
        (RATIO, 1.04, Verdict.BAR),
        (RATIO, 1.11, Verdict.MISSED),
        (RATE, 200_000, Verdict.AIM),
        (RATE, 100_000, Verdict.BAR),
        (RATE, 99_999, Verdict.MISSED),
    ],
)
def test_a_bar_is_met_from_its_side(asked: Bar, value: float, verdict: Verdict) -> None:
    """The wrong way round, a slow gateway would be called fast."""
    assert asked.verdict(value) is verdict


def test_the_median_is_judged_and_the_spread_shown() -> None:
    """The best run of several says what was once possible, not what is."""
    found = finding(0.9, 1.05, 2.0)
    assert found.cells() == ["7", "many keys", "≤ 1.1", "≤ 1.03", "0.90", "1.05", "2.00", "bar"]


def test_figures_stand_with_their_unit() -> None:
    """1 and 1 000 000 must not look alike."""
    large = Finding("9", "body", Unit.KILOBYTES, RATE, (123_456.7,))
    assert large.cells()[2:6] == ["≥ 100,000 KB", "≥ 200,000 KB", "123,456.7", "123,456.7"]
    assert Finding("9", "at rest", Unit.MEGABYTES, Bar(60, aim=45), (58.04,)).cells()[2:5] == [
        "≤ 60 MB",
        "≤ 45 MB",
        "58.0",
    ]


def test_results_of_several_runs_are_one_with_the_values_of_all() -> None:
    """A median of medians would forget how far apart the runs were."""
    first, second = (
        [entry.document() for entry in (finding(*values), finding(5.0, row="1"))] for values in ((1, 3), (9,))
    )
    together = pooled(json.loads(json.dumps([first, second])))
    assert [(found.row, found.values) for found in together] == [("7", (1.0, 3.0, 9.0)), ("1", (5.0, 5.0))]


def test_results_that_ask_for_different_things_are_not_put_together() -> None:
    """One verdict over two bars would be one over neither."""
    with pytest.raises(ValueError, match="row 7"):
        pooled([[finding(1.0).document()], [finding(1.0, asked=Bar(1.5, aim=1.0)).document()]])
