"""`python -m benchmarks.sweeps`, which `scripts/bench sweeps` runs."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from pathlib import Path

import click

from benchmarks.__main__ import end_in_order, require_machine, say
from benchmarks.measure import Plan
from benchmarks.processes import OTHER_CORE, DidNotStart
from benchmarks.sweeps.catalogue import SWEEPS
from benchmarks.sweeps.measuring import measure_sweep
from benchmarks.sweeps.report import document, text
from ostiary.demo.stores import MissingWheels

QUICK = Plan(runs=1, seconds=1.0, quick=True)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", nargs=-1, metavar="[SWEEP]...", type=click.Choice([*SWEEPS]))
@click.option("--seconds", type=click.FloatRange(1, 120), default=2.0, show_default=True, help="Length of a run.")
@click.option("--runs", type=click.IntRange(1, 1000), default=3, show_default=True, help="Runs of each point.")
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Where to write all figures."
)
@click.option("--quick", is_flag=True, help=f"{QUICK.runs} run of {QUICK.seconds:g} s: shows that it works, no more.")
def main(names: tuple[str, ...], seconds: float, runs: int, json_file: Path | None, quick: bool) -> None:
    """Change one thing at a time (sizes, connections, schemes ...), and print how the figures move with it.

    \b
    Example:
      ./scripts/bench sweeps
      ./scripts/bench sweeps answers tls --runs 7 --json sweeps.json
    """
    signal.signal(signal.SIGTERM, end_in_order)
    require_machine()
    os.sched_setaffinity(0, {OTHER_CORE})  # with all that it starts, unless said otherwise
    # Thousands of connections take as many descriptors, in the servers and in the load generator, which inherit this.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    plan = QUICK if quick else Plan(runs=runs, seconds=seconds)
    results = []
    for sweep in [SWEEPS[name] for name in names or SWEEPS]:
        click.echo(f"measuring {sweep.name}", err=True)
        try:
            results.append(measure_sweep(sweep, plan, say))
        except (DidNotStart, MissingWheels) as error:
            raise click.ClickException(f"{sweep.name}: {error}") from error
        click.echo(f"\n{text(results[-1], plan)}\n")
        if json_file is not None:  # after each: what was measured outlives what goes wrong later
            json_file.parent.mkdir(parents=True, exist_ok=True)
            json_file.write_text(json.dumps(document(results, plan), indent=1) + "\n")
    if json_file is not None:
        click.echo(f"all figures are in {json_file}", err=True)
    if any(result.failed for result in results):
        sys.exit(1)


if __name__ == "__main__":
    main(prog_name="scripts/bench sweeps")
