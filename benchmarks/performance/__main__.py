"""`python -m benchmarks.performance`, which `scripts/bench report` runs."""

from __future__ import annotations

from pathlib import Path

import click

from benchmarks.performance.pages import Site, UnusableResults
from benchmarks.performance.parts import PARTS
from benchmarks.processes import REPOSITORY


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("files", nargs=-1, metavar="[FILE]...", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--check", is_flag=True, help="Change nothing; status 1 when a page is not what the kept results make.")
def main(files: tuple[Path, ...], check: bool) -> None:
    """Make docs/performance.md and the figures of README.md from results.

    FILEs are what `scripts/bench table --json FILE` and `scripts/bench sweeps --json FILE` wrote. They are kept in
    docs/performance/, in place of those of their kind before; the runs of several tables count together, and of each
    sweep the last FILE that has it. Without a FILE the pages are made anew from what is kept.

    \b
    Example:
      ./scripts/bench table --json today.json
      ./scripts/bench report today.json
    """
    site = Site(REPOSITORY)
    try:
        if check:
            if stale := site.stale(PARTS):
                raise click.ClickException(
                    f"not what the results make of it, run scripts/bench report: {', '.join(stale)}"
                )
            return
        site.keep(files)
        site.write(PARTS)
    except UnusableResults as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main(prog_name="scripts/bench report")
