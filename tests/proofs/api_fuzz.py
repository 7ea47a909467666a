"""Proof: twenty thousand made-up calls to a control plane, by schemathesis with all its checks: none is a fault, none is
answered otherwise than its OpenAPI document says, no wrong one is taken, none without credentials is served, and what the
owner of one organization reads the owner of another does not get."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ostiary.control_plane.authorization import MATRIX
from ostiary.control_plane.db import migrate
from ostiary.demo.stores import EmbeddedPostgres
from tests.cli.conftest import OPERATOR_TOKEN
from tests.control_plane.fuzzing import Fuzzed, by_operator, fuzz, serving_for_fuzz
from tests.control_plane.fuzzing_owners import asked_by_the_second, by_two_owners, two_owners
from tests.support.directories import directory_for_all

# Of each operation at random. Not more: the owners' tokens hold for a quarter of an hour, also on a machine with other work.
EXAMPLES = 30


def prove(directory: Path, cases: int, seed: int) -> list[str]:
    """What failed. Prints the figures."""
    began = time.monotonic()
    sent = 0
    with EmbeddedPostgres(directory / "postgres") as postgres:
        asyncio.run(migrate(postgres.url()))
        with serving_for_fuzz(directory, postgres.url()) as served:
            while sent < cases:
                for by, found in calls(directory, served.url, seed):
                    sent += found.cases
                    print(f"  {found.cases} calls {by}", flush=True)
                    if found.found or not found.cases:
                        return [found.said]
                seed += 1
    print(f"{sent} calls in {time.monotonic() - began:.0f} s")
    return []


def calls(directory: Path, url: str, seed: int) -> Iterator[tuple[str, Fuzzed]]:
    """One round: who made calls, and what came of it."""
    owners = two_owners(url, OPERATOR_TOKEN, mark=str(seed))
    found = fuzz(directory, url, by_two_owners(directory, owners), seed=seed, examples=EXAMPLES)
    asked = asked_by_the_second(directory, owners)
    if not asked:
        found = replace(found, found=True, said=f"the second owner never asked for anything:\n{found.said}")
    yield f"by owners; in {len(asked)} operations the second asked for what the first had read", found
    yield "by an operator", fuzz(directory, url, by_operator(OPERATOR_TOKEN, MATRIX), seed=seed, examples=EXAMPLES)


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/prove api-fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=20_000, help="at least so many (default 20 000)")
    parser.add_argument("--seed", type=int, default=1, help="the same seed makes the same calls (default 1)")
    chosen = parser.parse_args()
    with directory_for_all() as directory:
        failures = prove(directory, chosen.cases, chosen.seed)
    for failure in failures:
        print(f"FAILED: {failure}")
    raise SystemExit(1 if failures else 0)


if __name__ == "__main__":
    main()
