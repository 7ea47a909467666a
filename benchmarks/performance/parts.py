"""The parts there are. A new kind of results has its module beside these, and its parts in this list."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.performance import figures
from benchmarks.performance.pages import Part, Results
from benchmarks.sweeps.report import section

PAGE = "docs/performance.md"


def _sweeps(results: Sequence[Results], directory: Path) -> str:
    """Of the last result alone: points of two are not put together."""
    return section(results[-1], directory, link="performance")


PARTS = (
    Part("figures", "README.md", "table", figures.readme),
    Part("table", PAGE, "table", figures.table),
    Part("machine", PAGE, "table", figures.machine),
    Part("sweeps", PAGE, "sweeps", _sweeps),
)
