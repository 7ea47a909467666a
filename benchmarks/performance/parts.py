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
    for result in results:
        for what in ("machine", "runs", "seconds"):
            if _named(result[what]) != _named(last[what]):
                raise UnusableResults(
                    f"sweeps of two machines or builds, or of other runs, make no one part: {what} differs"
                )
    sweeps = {name: sweep for result in results for name, sweep in result["sweeps"].items()}
    return {**last, "sweeps": sweeps}


def _named(value: object) -> object:
    """A machine without how fast it was at that moment."""
    return (
        {name: each for name, each in value.items() if name != "interpreter_us"} if isinstance(value, dict) else value
    )


PARTS = (
    Part("figures", "README.md", "table", figures.readme),
    Part("table", PAGE, "table", figures.table),
    Part("machine", PAGE, "table", figures.machine),
    Part("sweeps", PAGE, "sweeps", _sweeps),
)
