"""Results as a table for people and as JSON for programs."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.findings import Finding, Unit, Verdict
from benchmarks.gateway import build
from benchmarks.measure import Plan, ScenarioResult
from benchmarks.rig import Role
from benchmarks.scenarios import Comparison, Sample
from benchmarks.statistics import Spread, paired_ratios
from benchmarks.timing import interpreter_us

# Other programs on the measured core that took more than this in some run are worth a line: they cool caches and add
# switches, which CPU per request can't tell from the proxy's own work.
FOREIGN_SHARE_NOTED = 0.05

_COLUMNS = (Role.GATEWAY, Role.REDIS, Role.SHIPPER, Role.POSTGRES, Role.SUPERVISOR)


@dataclass(frozen=True, slots=True)
class Ratio:
    """Subject : peer, one value a round."""

    comparison: Comparison
    values: tuple[float, ...]

    @property
    def spread(self) -> Spread:
        return Spread.of(self.values)

    @property
    def verdict(self) -> Verdict | None:
        """By the median; None where nothing is asked."""
        asked = self.comparison.asked
        return asked.verdict(self.spread.median) if asked is not None else None


def ratios(result: ScenarioResult) -> list[Ratio]:
    """The comparisons whose peer was there."""
    samples, scenario = result.samples, result.scenario

    def of(name: str, comparison: Comparison) -> list[float]:
        return [comparison.figure.of(sample) for sample in samples[name]]

    return [
        Ratio(comparison, tuple(paired_ratios(of(scenario.subject, comparison), of(comparison.peer, comparison))))
        for comparison in scenario.comparisons
        if comparison.peer in samples
    ]


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell; the first is left-aligned, figures are right-aligned."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _spread(values: Sequence[float], digits: int) -> str:
    spread = Spread.of(values)
    return f"{spread.median:,.{digits}f} ({spread.least:,.{digits}f}–{spread.most:,.{digits}f})"


def _sides_table(result: ScenarioResult) -> str:
    roles = [
        role for role in _COLUMNS if any(role in sample.cpu_us for runs in result.samples.values() for sample in runs)
    ]
    rows = [["", "requests/s", *(f"{role} µs" for role in roles)]]
    for name, runs in result.samples.items():
        cells = [
            _spread([sample.cpu_us[role] for sample in runs], 1) if role in runs[0].cpu_us else "" for role in roles
        ]
        rows.append([name, _spread([sample.requests_per_second for sample in runs], 0), *cells])
    return table(rows)


def _ratios_table(result: ScenarioResult) -> str:
    rows = [[f"{result.scenario.subject} :", "of", "min", "median", "max", "bar", "aim", "met"]]
    for ratio in ratios(result):
        comparison, spread = ratio.comparison, ratio.spread
        bar = comparison.asked
        asked = [f"{bar.sign} {value:g}" for value in (bar.bar, bar.aim)] if bar is not None else ["", ""]
        figures = [f"{value:.2f}" for value in (spread.least, spread.median, spread.most)]
        rows.append([comparison.peer, comparison.figure.title, *figures, *asked, ratio.verdict or ""])
    return table(rows)


def _notes(result: ScenarioResult) -> list[str]:
    notes = []
    for name, runs in result.samples.items():
        foreign = max(sample.proxy_core_foreign for sample in runs)
        if foreign > FOREIGN_SHARE_NOTED:
            notes.append(
                f"noise: other programs took up to {foreign:.0%} of the proxy's core while {name} was measured"
            )
    idle = [name for name, runs in result.samples.items() if Spread.of([run.proxy_share for run in runs]).median < 0.9]
    if idle:
        notes.append(
            f"requests/s of {', '.join(idle)} do not show what it can do: its core was not full of it. "
            "The load generator's core, or other programs, set the pace; compare CPU per request"
        )
    if (check := result.check) is not None:
        verdict = "every call is metered" if check.reconciles else "USAGE DOES NOT RECONCILE"
        notes.append(f"{verdict}: {check.answered:,} calls answered, {check.rows:,} rows in Postgres")
        if check.decided_without_redis:
            notes.append(
                f"{check.decided_without_redis:,} of them were decided without Redis, which was too slow for them"
            )
    return notes


def text(result: ScenarioResult, plan: Plan) -> str:
    """What is printed of a scenario. Every cell is `median (least–most)` over the runs; a ratio is taken within a round."""
    heading = f"{result.scenario.name}: {result.scenario.title}"
    python = f"CPython {platform.python_version()}, Ostiary {build()}"
    measured = f"{plan.runs} runs of {plan.seconds:g} s each, all sides in turns; {python}"
    return "\n\n".join(
        part
        for part in (
            f"{heading}\n{measured}",
            _sides_table(result),
            _ratios_table(result) if ratios(result) else "no peer to compare with",
            "\n".join(_notes(result)),
        )
        if part
    )


def findings(result: ScenarioResult) -> tuple[Finding, ...]:
    """The ratios of which something is asked, as lines of the table."""
    return tuple(
        Finding(
            ratio.comparison.row,
            f"{result.scenario.short}: {ratio.comparison.figure.title}, against {result.titles[ratio.comparison.peer]}",
            Unit.RATIO,
            ratio.comparison.asked,
            ratio.values,
        )
        for ratio in ratios(result)
        if ratio.comparison.asked is not None
    )


def document(result: ScenarioResult) -> dict[str, object]:
    """What is written of a scenario as JSON: every sample, every ratio."""
    return {
        "title": result.scenario.title,
        "subject": result.scenario.subject,
        "samples": {name: [sample_document(sample) for sample in runs] for name, runs in result.samples.items()},
        "ratios": [
            {
                "figure": ratio.comparison.figure.title,
                "peer": ratio.comparison.peer,
                "min": ratio.spread.least,
                "median": ratio.spread.median,
                "max": ratio.spread.most,
                "bar": ratio.comparison.asked.bar if ratio.comparison.asked is not None else None,
                "aim": ratio.comparison.asked.aim if ratio.comparison.asked is not None else None,
                "met": ratio.verdict or "",
            }
            for ratio in ratios(result)
        ],
        "check": asdict(result.check) if result.check is not None else None,
    }


def sample_document(sample: Sample) -> dict[str, object]:
    return {**asdict(sample), "cpu_us": {str(role): value for role, value in sample.cpu_us.items()}}


def machine() -> dict[str, object]:
    """What the figures depend on besides the code."""
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": len(models),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "ostiary": build(),
        "interpreter_us": interpreter_us(),
    }
