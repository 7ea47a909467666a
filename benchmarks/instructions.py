"""Instructions instead of microseconds: what one signed request takes, phase by phase, counted by valgrind's callgrind.

A count is the same on a busy machine and a quiet one, to within a percent: noise can hide no regression in it. It says
little of speed (what waits for memory counts as one, as a division does), so it is held against its own baseline only, of the
same interpreter, compiler and processor. `scripts/bench phases` has the microseconds."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

import ostiary.gateway.pipeline
from benchmarks.phases import Line, caller_lines, memory_path, subject_of
from benchmarks.report import table
from benchmarks.statistics import Spread

BASELINE = Path(__file__).parent / "instructions.json"
MARKS = Path(__file__).parent / "marks.c"
TOLERANCE = 0.02  # two runs of the same code differ by less than a fifth of it
CALLS = 100
_WARM_UP_CALLS = 20  # what is remembered from the first call on is remembered then
SECONDS_MAX = 900.0

_TOTAL = re.compile(rb"^summary: (\d+)", re.MULTILINE)


class CannotCount(click.ClickException):
    """valgrind, a C compiler or the output of one of them is not there; the text says what to do."""


# --- in the process that is counted -----------------------------------------------------------------------------------


class Counter:
    """Counts the instructions of calls, in a process that runs under callgrind. `dumps` is what callgrind's files begin with,
    `library` has the marks."""

    def __init__(self, library: Path, dumps: Path) -> None:
        self._marks = ctypes.CDLL(str(library))
        self._dumps = dumps
        self._made = 0

    def count(self, call: Callable[[], object]) -> Spread:
        """Instructions a call, the loop around it included. Raises CannotCount when there is no callgrind."""
        for _ in range(_WARM_UP_CALLS):
            call()
        gc.collect()
        gc.disable()
        self._marks.begin()
        for _ in range(CALLS):
            call()
        self._marks.end()
        gc.enable()
        self._made += 1
        dump = self._dumps.with_name(f"{self._dumps.name}.{self._made}")
        if not dump.exists():
            raise CannotCount(f"{dump.name} is not there: the process does not run under callgrind")
        return Spread.of([total_of(dump.read_bytes()) / CALLS])


def total_of(dump: bytes) -> int:
    """The instructions in one of callgrind's files. Raises CannotCount when it is none."""
    found = _TOTAL.search(dump)
    if found is None:
        raise CannotCount("a file of callgrind has no summary")
    return int(found[1])


async def counted(directory: Path, count: Callable[[Callable[[], object]], Spread]) -> list[Line]:
    """All phases but `limit`, whose instructions depend on how fast Redis answers, and the whole paths without sockets."""
    async with subject_of(directory) as subject:
        lines = list(subject.lines(count, many_routes=False))
    lines.append(Line("an anonymous request, its whole path without sockets", count(memory_path(directory).call)))
    return [*lines, *(line for line in caller_lines(directory, count) if not line.name.endswith("again"))]


# --- around it --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Compared:
    """Instructions a request of one line; `baseline` is None for a line that the baseline does not have."""

    name: str
    now: float
    baseline: float | None

    @property
    def ratio(self) -> float:
        return 1.0 if self.baseline is None else self.now / self.baseline

    @property
    def is_regression(self) -> bool:
        return self.ratio > 1 + TOLERANCE


def build() -> dict[str, str]:
    """What two counts must have in common to be compared."""
    return {
        "python": platform.python_version(),
        "compiler": platform.python_compiler(),
        "machine": platform.machine(),
        "package": "compiled" if ostiary.gateway.pipeline.__file__.endswith(".so") else "interpreted",
    }


def compare(now: Mapping[str, float], baseline: Mapping[str, float]) -> list[Compared]:
    """Line by line, in the order of now."""
    return [Compared(name, instructions, baseline.get(name)) for name, instructions in now.items()]


def count_all() -> dict[str, float]:
    """Instructions a request, by line. Takes minutes. Raises CannotCount."""
    with tempfile.TemporaryDirectory(prefix="ostiary-bench-") as name:
        directory = Path(name)
        library, dumps, result = directory / "marks.so", directory / "dump", directory / "counts.json"
        compiler = os.environ.get("CC", "gcc")
        _run([compiler, "-shared", "-fPIC", "-O2", "-o", str(library), str(MARKS)], "gcc libc6-dev valgrind")
        valgrind = ["valgrind", "--tool=callgrind", "--quiet", f"--callgrind-out-file={dumps}"]
        child = [
            sys.executable,
            "-P",
            "-m",
            "benchmarks.instructions",
            "--count",
            str(library),
            str(dumps),
            str(result),
        ]
        _run([*valgrind, *child], "valgrind")
        counts: dict[str, float] = json.loads(result.read_text())
        return counts


def _run(command: list[str], packages: str) -> None:
    # Hashes that change from run to run change how full a dict's buckets are, and with that the instructions.
    environment = os.environ | {"PYTHONHASHSEED": "0"}
    try:
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS_MAX, check=False)
    except FileNotFoundError:
        raise CannotCount(f"{command[0]} is not installed; Debian: apt-get install {packages}") from None
    except subprocess.TimeoutExpired:
        raise CannotCount(f"{command[0]} took over {SECONDS_MAX:.0f} s") from None
    if ran.returncode != 0:
        raise CannotCount(f"{command[0]} failed:\n{ran.stderr[-2000:]}")


def text(lines: list[Compared]) -> str:
    """The table."""
    rows = [["phase", "instructions", "baseline", "ratio"]]
    for line in lines:
        mark = "  more than it may be" if line.is_regression else ""
        past = ["", ""] if line.baseline is None else [f"{line.baseline:,.0f}", f"{line.ratio:.3f}{mark}"]
        rows.append([line.name, f"{line.now:,.0f}", *past])
    return table(rows)


def _as_counts(lines: list[Line]) -> Iterator[tuple[str, float]]:
    parent = ""
    for line in lines:
        is_part = line.name.startswith(" ")
        parent = parent if is_part else line.name  # parts of several lines have one name
        yield (f"{parent}, {line.name.strip()}" if is_part else line.name), line.cost.median


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--record", is_flag=True, help="Make this run the baseline.")
@click.option("--count", type=click.Path(path_type=Path), nargs=3, hidden=True)
def main(record: bool, count: tuple[Path, Path, Path] | None) -> None:
    """Count the instructions of one signed request, phase by phase, and hold them against the baseline: exit status 1 when a
    phase takes over 2 % more. Takes a few minutes, on a busy machine too.

    \b
    Example:
      ./scripts/bench instructions
      ./scripts/bench instructions --record     # after a change that is worth it; commit the file
    """
    if count is not None:
        library, dumps, result = count
        with tempfile.TemporaryDirectory(prefix="ostiary-bench-") as directory:
            lines = asyncio.run(counted(Path(directory), Counter(library, dumps).count))
        result.write_text(json.dumps(dict(_as_counts(lines))))
        return
    now, ours = count_all(), build()
    known: dict[str, Any] = {"build": ours, "instructions": {}}
    if BASELINE.exists():
        known = json.loads(BASELINE.read_text())
    is_comparable = known["build"] == ours
    lines_compared = compare(now, known["instructions"] if is_comparable else {})
    click.echo(text(lines_compared))
    if record:
        BASELINE.write_text(json.dumps({"build": ours, "instructions": now}, indent=1) + "\n")
        click.echo(f"recorded in {BASELINE.name}")
    elif not is_comparable:
        differing = ", ".join(f"{name} {known['build'][name]}" for name in ours if known["build"][name] != ours[name])
        click.echo(f"not compared: the baseline is of another build ({differing})")
    elif any(line.is_regression for line in lines_compared):
        raise SystemExit(1)


if __name__ == "__main__":
    main(prog_name="scripts/bench instructions")
