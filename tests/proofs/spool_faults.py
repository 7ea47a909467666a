"""Proof: whatever call a full or failing disk refuses, under a worker's spool, under the shipper or under Postgres, no event
is lost in silence: each is a row, once, or stands in its worker's counter of dropped ones. A hundred injections at random."""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
from collections import Counter
from pathlib import Path

import asyncpg

from ostiary.demo.stores import EmbeddedPostgres
from tests.endurance.site import fresh_database
from tests.gateway.usage.faults import (
    OF_A_WORKER,
    OF_POSTGRES,
    OF_THE_SHIPPER,
    Outcome,
    chosen,
    delivered,
    shipped_under,
    worker_under,
)
from tests.support.directories import directory_for_all

# Of twenty injections, so many under each.
_TURNS = ("worker",) * 12 + ("shipper",) * 4 + ("Postgres",) * 4
_NAMES = 2000  # calls that come while the shipper or Postgres is in trouble


def prove(directory: Path, injections: int, seed: int) -> list[str]:
    """What failed. Prints the figures."""
    chance = random.Random(seed)
    failures: list[str] = []
    turns: Counter[str] = Counter()
    # Kept data is written durably: without fsync there is none that could fail.
    with EmbeddedPostgres(directory / "postgres", keep=True) as server:
        url = fresh_database(server)
        spool = directory / "spool"
        spool.mkdir()
        for number in range(injections):
            whose = _TURNS[number % len(_TURNS)]
            if whose == "worker":
                injection = chosen(OF_A_WORKER, turns[whose], chance)
                outcome = worker_under(injection, spool, f"life{number}")
                outcome.failures.extend(asyncio.run(delivered(spool, url)))
            else:
                kinds = OF_THE_SHIPPER if whose == "shipper" else OF_POSTGRES
                injection = chosen(kinds, turns[whose], chance)
                names = [f"{whose}{number}-{call}" for call in range(_NAMES)]
                outcome = shipped_under(injection, spool, url, names, postgres=server if whose == "Postgres" else None)
            turns[whose] += 1
            failures += outcome.failures
            _tell(number, whose, str(injection), outcome)
        rows = asyncio.run(_count(url))
        quarantined = list(spool.glob("*.quarantine"))
        print(f"{dict(turns)}: {rows} rows, {len(quarantined)} segments set aside, {len(failures)} failures")
        shutil.rmtree(spool)
    return failures


def _tell(number: int, whose: str, injection: str, outcome: Outcome) -> None:
    stored = outcome.accepted - outcome.dropped
    print(
        f"{number + 1:4} {whose:9}{injection:24} failed {outcome.injected:4} times: {outcome.accepted} calls, "
        f"{stored} stored, {outcome.dropped} counted as dropped{'   FAILED' * bool(outcome.failures)}",
        flush=True,
    )


async def _count(url: str) -> int:
    connection = await asyncpg.connect(url)
    try:
        return int(await connection.fetchval("SELECT count(*) FROM usage_events"))
    finally:
        await connection.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/prove spool-faults", description=__doc__)
    parser.add_argument("--injections", type=int, default=100, help="default 100, about five minutes; needs strace")
    parser.add_argument("--seed", type=int, help="of the choice (default: another each time; it is printed)")
    asked = parser.parse_args()
    seed = asked.seed if asked.seed is not None else random.randrange(10**6)
    print(f"seed {seed}", flush=True)
    with directory_for_all() as directory:
        failures = prove(directory, asked.injections, seed)
    for failure in failures[:20]:
        print(f"FAILED: {failure}")
    raise SystemExit(1 if failures else 0)


if __name__ == "__main__":
    main()
