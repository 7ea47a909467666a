"""The parts that are made of the table: the table itself, the machine and the peers it was measured with, the two figures of
README.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.findings import HEADINGS, Finding, Unit, Verdict, pooled
from benchmarks.performance.pages import Results, UnusableResults
from benchmarks.statistics import Spread

_WORDS: Mapping[Verdict, str] = {Verdict.AIM: "aim", Verdict.BAR: "bar", Verdict.MISSED: "**missed**"}
# Of the whole job: CPU against nginx with Lua and Redis, requests/s against the hand-rolled gateway.
_CPU_ROW, _RATE_ROW = "1", "2"


def findings(results: Sequence[Results]) -> list[Finding]:
    """All runs of all results together."""
    return pooled([result["table"] for result in results])


def table(results: Sequence[Results], _: Path) -> str:
    """The lines, and which of them meet what; with the median of each result, where there are several: a bar that is met by
    all runs together may be missed by some of them."""
    found = findings(results)
    each = _medians(results) if len(results) > 1 else {}
    headings = [*HEADINGS[:-1], *(["each result"] if each else []), HEADINGS[-1]]
    lines = [_line(headings), _line(["---"] * 4 + ["---:"] * (len(headings) - 5) + ["---"])]
    for finding in found:
        medians = each.get((finding.row, finding.measure))
        shown = [] if medians is None else [", ".join(finding.unit.show(median) for median in medians)]
        lines.append(_line([*finding.cells()[:-1], *shown, _WORDS[finding.verdict]]))
    return "\n".join(lines) + "\n\n" + "\n".join(_verdicts(found, results))


def _medians(results: Sequence[Results]) -> dict[tuple[str, str], list[float]]:
    """Of each line, in the order of the results."""
    medians: dict[tuple[str, str], list[float]] = {}
    for result in results:
        for finding in findings([result]):
            medians.setdefault((finding.row, finding.measure), []).append(finding.spread.median)
    return medians


def _verdicts(found: Sequence[Finding], results: Sequence[Results]) -> list[str]:
    counts = {verdict: [finding for finding in found if finding.verdict is verdict] for verdict in Verdict}
    lines = [
        f"Of {len(found)} lines {len(counts[Verdict.AIM])} meet the aim, {len(counts[Verdict.BAR])} the bar alone, "
        f"{len(counts[Verdict.MISSED])} neither."
    ]
    for verdict, what in ((Verdict.BAR, "Short of the aim"), (Verdict.MISSED, "Short of the bar")):
        if counts[verdict]:
            lines += ["", f"{what}:", ""]
            lines += [f"- {finding.measure}: {_shown(finding)}" for finding in counts[verdict]]
    failed = [failure.partition(":")[0] for result in results for failure in result["failed"]]
    if failed:
        lines += ["", f"Not measured in every result: {', '.join(dict.fromkeys(failed))}."]
    return lines


def _shown(finding: Finding) -> str:
    """The median, with what is asked."""
    unit, asked = f" {finding.unit}" if finding.unit else "", finding.asked
    median = finding.unit.show(finding.spread.median)
    return f"{median}{unit} (bar {asked.sign} {asked.bar:,g}, aim {asked.sign} {asked.aim:,g})"


def machine(results: Sequence[Results], _: Path) -> str:
    """Where and when, with what, and how many runs."""
    first = results[0]
    described, versions = first["machine"], first["versions"]
    for result in results:
        if (result["machine"]["cpu"], result["machine"]["ostiary"]) != (described["cpu"], described["ostiary"]):
            raise UnusableResults("results of two machines, or of two builds, make no one table")
    marks = Spread.of([result["machine"]["interpreter_us"] for result in results])
    dates = sorted({result["date"] for result in results})
    how_often = f"{len(results)} results of {first['runs']} runs" if len(results) > 1 else f"{first['runs']} runs"
    lines = [
        f"- {' and '.join(dates)}: {how_often} of {first['seconds']:g} s each, all sides in turn",
        f"- {described['cpu']}, {described['cores']} cores, Linux {described['kernel']}",
        f"- Ostiary {described['ostiary']}, CPython {described['python']} (mark: {marks.median:.1f} µs)",
        f"- {', '.join(f'{name} {version}' for name, version in versions.items())}",
    ]
    if missing := first["missing"]:
        lines.append(f"- without {', '.join(missing)}, which was not installed")
    return "\n".join(lines)


def readme(results: Sequence[Results], _: Path) -> str:
    """Two figures, and the command that has them."""
    by_row = {finding.row: finding.spread.median for finding in findings(results)}
    if lacking := {_CPU_ROW, _RATE_ROW} - by_row.keys():
        raise UnusableResults(f"the results have no row {' and '.join(sorted(lacking))}, which README.md shows")
    cpu, rate = (Unit.RATIO.show(by_row[row]) for row in (_CPU_ROW, _RATE_ROW))
    gateway_us = Spread.of(
        [
            sample["cpu_us"]["gateway"]
            for result in results
            for sample in result["scenarios"]["whole-job"]["samples"]["ostiary"]
        ]
    )
    return (
        f"The whole job (signature and nonce, three limits in Redis, usage, metrics) takes {gateway_us.median:.0f} µs of CPU "
        f"a call: **{cpu} times** what nginx\nwith Lua and Redis takes, at **{rate} times** the calls a second of a gateway "
        "written by hand on aiohttp. `./scripts/bench whole-job`\nmeasures both; [performance](docs/performance.md) has the "
        "rest."
    )


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
