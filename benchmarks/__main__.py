"""`python -m benchmarks`, which `scripts/bench` runs."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

import click

from benchmarks.load import LoadFailed
from benchmarks.measure import Plan
from benchmarks.measurements import MEASUREMENTS, measured, missing_peers, peers_of
from benchmarks.processes import OTHER_CORE, PROXY_CORE, DidNotStart
from benchmarks.sides import ALWAYS_NEEDED, CONTESTANTS
from benchmarks.table import document, summary
from ostiary.demo.stores import MissingWheels

QUICK = Plan(runs=2, seconds=1.0, quick=True)
TABLE = "table"  # the name of all of them


def end_in_order(_number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + signal.SIGTERM)  # through every `with`, so that nothing is left running


def say(line: str) -> None:
    click.echo(f"  {line}", err=True)


def _names(_context: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    if value is None:
        return None
    names = tuple(name.strip() for name in value.split(",") if name.strip())
    if unknown := sorted(set(names) - set(CONTESTANTS)):
        raise click.BadParameter(f"no such peer: {', '.join(unknown)}; there are {', '.join(CONTESTANTS)}")
    return names


def require_machine() -> None:
    if lacking := [need for need in ALWAYS_NEEDED if not need.found()]:
        mends = "; ".join(f"{need.what}: {need.mend}" for need in lacking)
        raise click.ClickException(f"a measurement needs programs that are not installed. {mends}")
    if not {PROXY_CORE, OTHER_CORE} <= os.sched_getaffinity(0):
        raise click.ClickException(f"a measurement needs the cores {PROXY_CORE} and {OTHER_CORE} of this machine")
    if not Path("/proc/self/schedstat").exists():
        raise click.ClickException(
            "this kernel keeps no /proc/PID/schedstat (CONFIG_SCHED_INFO); CPU can't be measured"
        )


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", nargs=-1, metavar="[SCENARIO]...", type=click.Choice([TABLE, *MEASUREMENTS]))
@click.option("--seconds", type=click.FloatRange(1, 120), default=3.0, show_default=True, help="Length of a run.")
@click.option("--runs", type=click.IntRange(1, 1000), default=5, show_default=True, help="Runs of each side.")
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Where to write all figures."
)
@click.option("--peers", callback=_names, metavar="A,B", help=f"Only these peers. There are: {', '.join(CONTESTANTS)}.")
@click.option("--quick", is_flag=True, help=f"{QUICK.runs} runs of {QUICK.seconds:g} s: shows that it works, no more.")
def main(
    names: tuple[str, ...],
    seconds: float,
    runs: int,
    json_file: Path | None,
    peers: tuple[str, ...] | None,
    quick: bool,
) -> None:
    """Measure Ostiary against its peers, side by side, and print the ratios. Without a SCENARIO, or with `table`, all are
    measured, and the last lines are a table of all that is asked, with what is met.

    \b
    Example:
      ./scripts/bench table --json today.json
      ./scripts/bench whole-job --runs 9 --peers nginx-lua
    """
    signal.signal(signal.SIGTERM, end_in_order)
    require_machine()
    os.sched_setaffinity(0, {OTHER_CORE})  # with all that it starts, unless said otherwise
    plan = QUICK if quick else Plan(runs=runs, seconds=seconds)
    chosen = [*MEASUREMENTS.values()] if not names or TABLE in names else [MEASUREMENTS[name] for name in names]
    missing = missing_peers(chosen, peers)
    _explain_missing(missing)
    results, failed = [], []
    for measurement in chosen:
        click.echo(f"measuring {measurement.name}", err=True)
        try:
            results.append(measured(measurement, plan, peers_of(measurement, peers), say))
        except (LoadFailed, DidNotStart, MissingWheels) as error:
            # The others are worth their minutes all the same.
            failed.append(f"{measurement.name}: {error}")
            click.echo(failed[-1], err=True)
            continue
        click.echo(f"\n{results[-1].text}\n")
        if json_file is not None:  # after each: what was measured is not lost with what comes later
            json_file.parent.mkdir(parents=True, exist_ok=True)
            json_file.write_text(json.dumps(document(results, plan, missing, failed), indent=1) + "\n")
    if len(chosen) > 1:
        click.echo(f"{summary(results)}\n")
    if json_file is not None:
        click.echo(f"all figures are in {json_file}", err=True)
    if failed:
        raise click.ClickException("not measured: " + "\n".join(failed))
    if not all(result.sound for result in results):
        sys.exit(1)


def _explain_missing(missing: Mapping[str, Sequence[str]]) -> None:
    for name, mends in missing.items():
        click.echo(f"without {name}, which is not installed here: {' && '.join(mends)}", err=True)


if __name__ == "__main__":
    main(prog_name="scripts/bench")
