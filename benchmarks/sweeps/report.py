"""Results of sweeps as text, as JSON, and as their part of `docs/performance.md` with its plots.

The part is made of the JSON alone, so that figures of a quiet machine can be kept and the page made of them anywhere."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gateway import build
from benchmarks.measure import Plan
from benchmarks.report import FOREIGN_SHARE_NOTED, machine, sample_document, table
from benchmarks.rig import Role
from benchmarks.statistics import Spread
from benchmarks.sweeps.measuring import SweepResult
from benchmarks.sweeps.plot import Curve, Dot, Panel, svg
from benchmarks.sweeps.sweep import AxisKind

Document = Mapping[str, Any]


def document(results: Sequence[SweepResult], plan: Plan) -> dict[str, object]:
    """What is written as JSON: every sample, the machine, what could not be measured and why."""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": machine(),
        "runs": plan.runs,
        "seconds": plan.seconds,
        "quick": plan.quick,
        "sweeps": {result.sweep.name: _sweep(result) for result in results},
    }


def _sweep(result: SweepResult) -> dict[str, object]:
    sweep = result.sweep
    return {
        "title": sweep.title,
        "what": sweep.what,
        "axis": sweep.axis,
        "kind": str(sweep.kind),
        "unit": sweep.unit,
        "missing": {name: list(mends) for name, mends in result.missing.items()},
        "failed": [{"curve": case.curve, "point": case.point, "reason": reason} for case, reason in result.failed],
        "points": [
            {
                "curve": case.curve,
                "point": case.point,
                "number": case.number,
                "samples": [sample_document(sample) for sample in samples],
            }
            for case, samples in result.samples
        ],
    }


# --- as text


def text(result: SweepResult, plan: Plan) -> str:
    """What is printed of a sweep. Every cell is `median (least–most)` over the runs."""
    sweep = _sweep(result)
    heading = f"{result.sweep.name}: {result.sweep.title}"
    measured = (
        f"{plan.runs} runs of {plan.seconds:g} s each, in turn; CPython {platform.python_version()}, Ostiary {build()}"
    )
    return "\n\n".join(
        part for part in (f"{heading}\n{measured}", table(_rows(sweep)), "\n".join(_notes(sweep))) if part
    )


def _rows(sweep: Document) -> list[list[str]]:
    """The heading, and a row for each point; with Redis's CPU where there is a Redis."""
    unit = sweep["unit"]
    columns: list[tuple[str, Callable[[Document], list[float]], int]] = [
        (f"CPU µs a {unit}", _cpu_us, 1),
        (f"{unit}s/s", _per_second, 0),
        ("p50 ms", _p50_ms, 2),
        ("p99 ms", _p99_ms, 2),
    ]
    if any(Role.REDIS in sample["cpu_us"] for point in sweep["points"] for sample in point["samples"]):
        columns.insert(1, ("Redis µs", _redis_us, 1))
    heading = [sweep["axis"], "", *(title for title, _, _ in columns)]
    rows = [
        [point["point"], point["curve"], *(_spread(of(point), digits) for _, of, digits in columns)]
        for point in sweep["points"]
    ]
    return [heading, *rows]


def _cpu_us(point: Document) -> list[float]:
    return [sample["cpu_us"][Role.GATEWAY] for sample in point["samples"]]


def _redis_us(point: Document) -> list[float]:
    return [sample["cpu_us"][Role.REDIS] for sample in point["samples"]]


def _per_second(point: Document) -> list[float]:
    return [sample["requests_per_second"] for sample in point["samples"]]


def _p50_ms(point: Document) -> list[float]:
    return [sample["latency_p50_us"] / 1000 for sample in point["samples"]]


def _p99_ms(point: Document) -> list[float]:
    return [sample["latency_p99_us"] / 1000 for sample in point["samples"]]


def _spread(values: Sequence[float], digits: int) -> str:
    spread = Spread.of(values)
    return f"{spread.median:,.{digits}f} ({spread.least:,.{digits}f}–{spread.most:,.{digits}f})"


def _notes(sweep: Document) -> list[str]:
    notes = [f"without {name}, which was not installed" for name in sweep["missing"]]
    notes += [f"not measured: {each['curve']}, {each['point']}: {each['reason']}" for each in sweep["failed"]]
    foreign = [
        Spread.of([sample["proxy_core_foreign"] for sample in point["samples"]]).median for point in sweep["points"]
    ]
    noisy = sum(share > FOREIGN_SHARE_NOTED for share in foreign)
    if noisy:
        notes.append(
            f"noise: other programs took up to {max(foreign):.0%} of the gateway's core, and more than "
            f"{FOREIGN_SHARE_NOTED:.0%} of it at {noisy} of {len(foreign)} points"
        )
    return notes


# --- as a part of the page


def section(figures: Document, directory: Path, *, link: str) -> str:
    """Markdown: a heading, a plot and a table for each sweep. Writes the plots into `directory`, which the page calls
    `link`."""
    directory.mkdir(parents=True, exist_ok=True)
    parts = []
    for name, sweep in figures["sweeps"].items():
        heading = f"### {sweep['title'][:1].upper()}{sweep['title'][1:]}"
        if not sweep["points"]:
            parts += [heading, "\n".join(f"- {note}" for note in _notes(sweep))]
            continue
        (directory / f"{name}.svg").write_text(drawing(sweep))
        notes = "\n".join(f"- {note}" for note in _notes(sweep))
        parts += [heading, sweep["what"], f"![{sweep['title']}]({link}/{name}.svg)", _markdown(_rows(sweep))]
        parts += [notes] if notes else []
    head = (
        f"Each cell is the median, with the least and the most, of {figures['runs']} runs of {figures['seconds']:g} s, in "
        "turn with those of all other points of the sweep. " + _origin(figures)
    )
    return "\n\n".join([head, *parts]) + "\n"


def _origin(figures: Document) -> str:
    """When, where and of what."""
    where = figures["machine"]
    return (
        f"Measured by `scripts/bench sweeps` on {figures['date']}: {where['cpu']}, {where['cores']} cores, Linux "
        f"{where['kernel']}, CPython {where['python']}, Ostiary {where['ostiary']}."
    )


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    first, *rest = rows
    rule = ["---", "---", *["---:"] * (len(first) - 2)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (first, rule, *rest))


def drawing(sweep: Document) -> str:
    """The plot of one sweep: CPU, what was reached, and the p99."""
    panels = [
        _panel(sweep, f"gateway's CPU, µs a {sweep['unit']}", _cpu_us),
        _panel(sweep, f"{sweep['unit']}s a second", _per_second),
        _panel(sweep, "p99 latency, ms", _p99_ms),
    ]
    return svg(sweep["title"], sweep["axis"], panels)


def _panel(sweep: Document, title: str, values: Callable[[Document], list[float]]) -> Panel:
    kind = sweep["kind"]
    places = list(dict.fromkeys(point["point"] for point in sweep["points"]))
    named = kind in (AxisKind.NAMES, AxisKind.STEPS)
    curves: dict[str, list[Dot]] = {}
    for point in sweep["points"]:
        x = float(places.index(point["point"]) if named else point["number"])
        spread = Spread.of(values(point))
        curves.setdefault(point["curve"], []).append(Dot(x, spread.least, spread.median, spread.most))
    return Panel(
        title,
        tuple(Curve(name, tuple(dots)) for name, dots in curves.items()),
        labels=tuple(places) if named else (),
        joined=kind != AxisKind.NAMES,
    )
