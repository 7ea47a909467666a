"""The parts there are. A new kind of results has its module beside these, and its parts in this list."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.performance import figures
from benchmarks.performance.pages import Part, Results, UnusableResults
from benchmarks.sweeps.report import section

PAGE = "docs/performance.md"


def _sweeps(results: Sequence[Results], directory: Path) -> str:
    return section(newest_of_each(results), directory, link="performance")


def newest_of_each(results: Sequence[Results]) -> Results:
    """Each sweep as the last result has it that has it: one may be measured again by itself. Points of two results are not
    put together. Raises UnusableResults where results differ in what the page says of all sweeps."""
    last = results[-1]
    if any(_stated(result) != _stated(last) for result in results):
        raise UnusableResults("sweeps of two machines or builds, or of other runs, make no one part")
    sweeps = {name: sweep for result in results for name, sweep in result["sweeps"].items()}
    return {**last, "sweeps": sweeps}


def _stated(result: Results) -> tuple[object, ...]:
    """What the page says of all sweeps; how fast the machine was at that moment is not in it."""
    machine = {name: value for name, value in result["machine"].items() if name != "interpreter_us"}
    return machine, result["runs"], result["seconds"]


PARTS = (
    Part("figures", "README.md", "table", figures.readme),
    Part("table", PAGE, "table", figures.table),
    Part("machine", PAGE, "table", figures.machine),
    Part("sweeps", PAGE, "sweeps", _sweeps),
)
