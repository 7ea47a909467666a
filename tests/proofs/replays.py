"""Proof: ten thousand replays of signed calls to four workers of two nodes, a restart of both nodes between them: none is
accepted, and of two copies that are sent at once exactly one is."""

from __future__ import annotations

import time
from pathlib import Path

from ostiary.demo.stores import EmbeddedPostgres, EmbeddedValkey
from tests.endurance.origin import running_origin
from tests.endurance.replaying import replay
from tests.endurance.site import Site, fresh_database
from tests.proofs._program import run_counted

WORKERS = 2  # of each node
# Beyond this a recorded call is refused for its age, which would prove nothing.
SECONDS_MAX = 280.0


def prove(directory: Path, replays: int) -> list[str]:
    """What failed. Prints the figures."""
    with (
        EmbeddedPostgres(directory / "postgres") as postgres,
        EmbeddedValkey(directory / "valkey") as valkey,
        running_origin(directory) as origin,
    ):
        site = Site(
            directory,
            postgres=fresh_database(postgres),
            redis=valkey.url(),
            origin_port=origin.port,
            workers=WORKERS,
        )
        began = time.monotonic()
        found = replay(
            site, calls=-(-replays // 4), pairs=replays // 10, progress=lambda said: print(f"  {said}", flush=True)
        )
        seconds = time.monotonic() - began
    print(
        f"{found.recorded} calls, {found.replays} replays at {found.workers} workers (of two nodes, before and after their "
        f"restart) in {seconds:.0f} s: " + "; ".join(f"{phase} {dict(codes)}" for phase, codes in found.again.items())
    )
    print(f"{sum(found.at_once.values()) // 2} pairs at once: {dict(found.at_once)}")
    failures = found.failures()
    if found.workers != 4 * WORKERS:
        failures.append(f"only {found.workers} workers were asked")
    if seconds > SECONDS_MAX:
        failures.append(f"it took {seconds:.0f} s: calls were refused for their age")
    return failures


if __name__ == "__main__":
    run_counted(
        prove,
        name="replays",
        about=__doc__,
        option="replays",
        default=10_000,
        meaning="replays made (default 10 000, about a minute)",
    )
