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

from benchmarks.contestant import Contestant
from benchmarks.load import LoadFailed
from benchmarks.measure import Plan, measure
from benchmarks.processes import OTHER_CORE, PROXY_CORE, DidNotStart
from benchmarks.report import document, text
from benchmarks.scenarios import SCENARIOS, Scenario
from benchmarks.sides import ALWAYS_NEEDED, CONTESTANTS
from ostiary.demo.stores import MissingWheels

QUICK = Plan(runs=2, seconds=1.0)


def _end(_number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + signal.SIGTERM)  # through every `with`, so that nothing is left running


def _say(line: str) -> None:
    click.echo(f"  {line}", err=True)


def _names(_context: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    if value is None:
        return None
    names = tuple(name.strip() for name in value.split(",") if name.strip())
    if unknown := sorted(set(names) - set(CONTESTANTS)):
        raise click.BadParameter(f"no such peer: {', '.join(unknown)}; there are {', '.join(CONTESTANTS)}")
    return names


def contestants_of(
    scenario: Scenario, wanted: Sequence[str] | None, there: Mapping[str, Contestant] = CONTESTANTS
) -> list[Contestant]:
    """The subject and those of its peers that are wanted and installed."""
    peers = [there[name] for name in scenario.peers() if wanted is None or name in wanted]
    return [there[scenario.subject], *(peer for peer in peers if not peer.missing())]


def missing_peers(
    scenarios: Sequence[Scenario], wanted: Sequence[str] | None, there: Mapping[str, Contestant] = CONTESTANTS
) -> dict[str, list[str]]:
    """Peers of these scenarios that can't run here, with the commands that bring them."""
    names = dict.fromkeys(name for scenario in scenarios for name in scenario.peers())
    return {
        name: list(dict.fromkeys(need.mend for need in there[name].missing()))
        for name in names
        if (wanted is None or name in wanted) and there[name].missing()
    }


def _require_machine() -> None:
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
@click.argument("names", nargs=-1, metavar="[SCENARIO]...", type=click.Choice([*SCENARIOS]))
@click.option("--seconds", type=click.FloatRange(1, 120), default=5.0, show_default=True, help="Length of a run.")
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
    """Measure Ostiary against its peers, side by side, and print the ratios.

    \b
    Example:
      ./scripts/bench
      ./scripts/bench whole-job --runs 9 --peers nginx-lua
    """
    signal.signal(signal.SIGTERM, _end)
    _require_machine()
    os.sched_setaffinity(0, {OTHER_CORE})  # with all that it starts, unless said otherwise
    plan = QUICK if quick else Plan(runs=runs, seconds=seconds)
    scenarios = [SCENARIOS[name] for name in names or SCENARIOS]
    missing = missing_peers(scenarios, peers)
    _explain_missing(missing)
    results = []
    for scenario in scenarios:
        click.echo(f"measuring {scenario.name}", err=True)
        try:
            results.append(measure(scenario, contestants_of(scenario, peers), plan, _say))
        except (LoadFailed, DidNotStart, MissingWheels) as error:
            raise click.ClickException(f"{scenario.name}: {error}") from error
        click.echo(f"\n{text(results[-1], plan)}\n")
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(document(results, plan, missing), indent=1) + "\n")
        click.echo(f"all figures are in {json_file}", err=True)
    if any(result.check is not None and not result.check.reconciles for result in results):
        sys.exit(1)


def _explain_missing(missing: Mapping[str, Sequence[str]]) -> None:
    for name, mends in missing.items():
        click.echo(f"without {name}, which is not installed here: {' && '.join(mends)}", err=True)


if __name__ == "__main__":
    main(prog_name="scripts/bench")
