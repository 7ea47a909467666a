"""Proof: twenty thousand made-up calls to a control plane, by schemathesis with all its checks: none is a fault, none is
answered otherwise than its OpenAPI document says, no wrong one is taken, and none without credentials is served."""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path

from ostiary.control_plane.db import migrate
from ostiary.demo.stores import EmbeddedPostgres
from tests.cli.conftest import OPERATOR_TOKEN
from tests.control_plane.fuzzing import fuzz, serving_for_fuzz
from tests.support.directories import directory_for_all


def prove(directory: Path, cases: int, seed: int) -> list[str]:
    """What failed. Prints the figures."""
    began = time.monotonic()
    sent = 0
    failures: list[str] = []
    with EmbeddedPostgres(directory / "postgres") as postgres:
        asyncio.run(migrate(postgres.url()))
        with serving_for_fuzz(directory, postgres.url()) as served:
            while sent < cases and not failures:
                found = fuzz(directory, served.url, token=OPERATOR_TOKEN, seed=seed, examples=100)
                sent, seed = sent + found.cases, seed + 1
                print(f"  {sent} calls", flush=True)
                if found.found or not found.cases:
                    failures.append(found.said)
    print(f"{sent} calls in {time.monotonic() - began:.0f} s")
    return failures


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/prove api-fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=20_000, help="(default 20 000)")
    parser.add_argument("--seed", type=int, default=1, help="the same seed makes the same calls (default 1)")
    chosen = parser.parse_args()
    with directory_for_all() as directory:
        failures = prove(directory, chosen.cases, chosen.seed)
    for failure in failures:
        print(f"FAILED: {failure}")
    raise SystemExit(1 if failures else 0)


if __name__ == "__main__":
    main()
