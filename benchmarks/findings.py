"""What is asked of a figure, and what came out of it: the lines of the table that `scripts/bench table` ends with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from benchmarks.statistics import Spread


class Verdict(StrEnum):
    AIM = "aim"
    BAR = "bar"
    MISSED = "missed"


@dataclass(frozen=True, slots=True)
class Bar:
    """`bar` is what must hold, `aim` what is wanted, both in the unit of the figure."""

    bar: float
    aim: float
    less_is_better: bool = True

    @property
    def sign(self) -> str:
        return "≤" if self.less_is_better else "≥"

    def verdict(self, value: float) -> Verdict:
        for asked, met in ((self.aim, Verdict.AIM), (self.bar, Verdict.BAR)):
            if (value <= asked) if self.less_is_better else (value >= asked):
                return met
        return Verdict.MISSED


class Unit(StrEnum):
    """What a value is counted in. Megabytes and kilobytes are powers of ten, the stricter reading of a bar."""

    RATIO = ""
    MEGABYTES = "MB"
    KILOBYTES = "KB"

    def show(self, value: float) -> str:
        return f"{value:,.{2 if self is Unit.RATIO else 1}f}"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: `row` is its number in the list of what is to be reached, `values` one for each run."""

    row: str
    measure: str
    unit: Unit
    asked: Bar
    values: tuple[float, ...]

    @property
    def spread(self) -> Spread:
        return Spread.of(self.values)

    @property
    def verdict(self) -> Verdict:
        return self.asked.verdict(self.spread.median)

    def cells(self) -> list[str]:
        """As the table shows it: row, measure, bar, aim, min, median, max, met."""
        spread, asked = self.spread, self.asked
        unit = f" {self.unit}" if self.unit else ""
        return [
            self.row,
            self.measure,
            *(f"{asked.sign} {value:,g}{unit}" for value in (asked.bar, asked.aim)),
            *(self.unit.show(value) for value in (spread.least, spread.median, spread.most)),
            self.verdict,
        ]

    def document(self) -> dict[str, object]:
        spread = self.spread
        return {
            "row": self.row,
            "measure": self.measure,
            "unit": self.unit.value,
            "bar": self.asked.bar,
            "aim": self.asked.aim,
            "less_is_better": self.asked.less_is_better,
            "values": list(self.values),
            "min": spread.least,
            "median": spread.median,
            "max": spread.most,
            "met": self.verdict.value,
        }


HEADINGS = ("row", "measure", "bar", "aim", "min", "median", "max", "met")


def pooled(documents: Sequence[Sequence[Mapping[str, object]]]) -> list[Finding]:
    """The findings of several runs of the bench as one: the values of each line together, in the order in which the lines
    first stand. Raises ValueError where two runs asked for different things."""
    together: dict[tuple[str, str], Finding] = {}
    for document in documents:
        for entry in document:
            found = _read(entry)
            before = together.get((found.row, found.measure))
            if before is not None and before.asked != found.asked:
                raise ValueError(f"row {found.row}, {found.measure}: the results do not ask for the same")
            values = (*before.values, *found.values) if before is not None else found.values
            together[found.row, found.measure] = Finding(found.row, found.measure, found.unit, found.asked, values)
    return list(together.values())


def _read(entry: Mapping[str, object]) -> Finding:
    bar, aim, values = entry["bar"], entry["aim"], entry["values"]
    if not (isinstance(bar, int | float) and isinstance(aim, int | float) and isinstance(values, list)):
        raise ValueError(f"no line of a table: {entry}")
    return Finding(
        str(entry["row"]),
        str(entry["measure"]),
        Unit(str(entry["unit"])),
        Bar(float(bar), float(aim), bool(entry["less_is_better"])),
        tuple(float(value) for value in values),
    )
