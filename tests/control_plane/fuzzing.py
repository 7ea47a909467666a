"""Thousands of made-up calls to a control plane, by schemathesis: everything that its OpenAPI document admits and refuses.

A process of its own serves, over real sockets, and the program that is known as `schemathesis run` calls, with all its
checks."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# What no schema can say, so that calls are refused which the document seems to admit: of `since`, `until` and `days` some
# exclude each other, and old times are not kept; the plan of a key, and the organization of an app, must exist.
_UNSAID = """
[[operations]]
include-path-regex = "/usage"
[operations.checks]
positive_data_acceptance.enabled = false
"""


@dataclass(frozen=True, slots=True)
class Fuzzed:
    """`cases` were sent; `said` is the program's report, whole, if something was `found`."""

    cases: int
    found: bool
    said: str


def configuration(token: str) -> str:
    return f"""
[checks]
positive_data_acceptance.expected-statuses = ["2xx", "401", "403", "404", "409", "422"]

[auth.openapi.operatorToken]
bearer = "{token}"
{_UNSAID}
"""


def fuzz(
    directory: Path, url: str, *, token: str, seed: int, examples: int, workers: int = 2, options: Sequence[str] = ()
) -> Fuzzed:
    """Up to `examples` calls of each operation in each phase. The same seed makes the same calls."""
    settings = directory / "schemathesis.toml"
    settings.touch(mode=0o600)
    settings.write_text(configuration(token), encoding="utf-8")
    report = directory / "report.ndjson"
    ran = subprocess.run(
        [
            *(sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()"),
            *("--config-file", str(settings), "run", f"{url}/api/v1/openapi.json"),
            *("--max-examples", str(examples), "--seed", str(seed), "--workers", str(workers)),
            *("--continue-on-failure", "--generation-database", "none", "--no-color"),
            *("--suppress-health-check", "all", "--request-timeout", "60", "--no-shrink", "--warnings", "off"),
            *("--report", "ndjson", "--report-ndjson-path", str(report)),
            *options,
        ],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )
    said = ran.stdout + ran.stderr
    generated = re.search(r"(\d[\d,]*) generated", said)
    return Fuzzed(int(generated[1].replace(",", "")) if generated else 0, ran.returncode != 0, said)
