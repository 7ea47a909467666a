"""What a proof does as a program: it is told how often, gets a directory, prints its figures, and fails with what failed."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from tests.support.directories import directory_for_all

_SHOWN_MAX = 20  # of failures: the first of thousands say as much as all


def run_counted(
    prove: Callable[[Path, int], list[str]], *, name: str, about: str | None, option: str, default: int, meaning: str
) -> NoReturn:
    """`scripts/prove NAME [--OPTION COUNT]`: `prove` is given a directory and the count, and says what failed. `about` is the
    text of its help, `meaning` that of the option."""
    parser = argparse.ArgumentParser(prog=f"scripts/prove {name}", description=about)
    parser.add_argument(f"--{option}", type=int, default=default, dest="count", metavar="COUNT", help=meaning)
    chosen = parser.parse_args()
    with directory_for_all() as directory:
        failures = prove(directory, chosen.count)
    conclude(failures)


def conclude(failures: Sequence[str]) -> NoReturn:
    """Says what failed, and ends with status 1 if anything did."""
    for failure in failures[:_SHOWN_MAX]:
        print(f"FAILED: {failure}")
    if len(failures) > _SHOWN_MAX:
        print(f"and {len(failures) - _SHOWN_MAX} more")
    raise SystemExit(1 if failures else 0)
