"""Proof: a key that is revoked under a thousand calls a second is refused by every worker of two nodes within a second of
the API's answer, time after time."""

from __future__ import annotations

import time
from pathlib import Path

from ostiary.demo.stores import EmbeddedPostgres, EmbeddedValkey
from tests.endurance.callers import Callers
from tests.endurance.origin import running_origin
from tests.endurance.revoking import HOLDS_WITHIN_SECONDS, Revocation, revoke_under_load, second_node
from tests.endurance.site import Site, fresh_database
from tests.proofs._program import run_counted

WORKERS = 2  # of each node
CALLERS = 6
# Of each caller to each node: so many that there are a thousand calls a second also where each takes a tenth of one, as on a
# machine that does much else.
CONNECTIONS = 12
CALLS_A_SECOND = 1_000
# A run begins with making connections and ends with waiting for calls: a tenth more in between makes up for it.
CALLS_AIMED_AT = 1.1 * CALLS_A_SECOND
PROGRESS_SECONDS = 30.0


def prove(directory: Path, runs: int) -> list[str]:
    """What failed. Prints the figures."""
    callers = Callers(CALLERS)
    said_at = time.monotonic()

    def say(done: int) -> None:
        nonlocal said_at
        if time.monotonic() - said_at >= PROGRESS_SECONDS:
            said_at = time.monotonic()
            print(f"  {done} revocations", flush=True)

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
        with site.control_plane() as control_plane, site.gateway() as first, second_node(site) as second:
            found = revoke_under_load(
                site,
                control_plane,
                [first, second],
                callers,
                runs=runs,
                connections=CONNECTIONS,
                interval_seconds=2 * CALLERS * CONNECTIONS / CALLS_AIMED_AT,
                progress=say,
            )
    callers.close()
    return report(found)


def report(found: list[Revocation]) -> list[str]:
    last = sorted(revocation.last_ms for revocation in found)
    pace = sum(revocation.calls for revocation in found) / sum(revocation.seconds for revocation in found)
    workers = sum(revocation.workers for revocation in found)
    p99 = last[min(len(last) - 1, int(0.99 * len(last)))]
    print(
        f"{len(found)} revocations at {pace:.0f} calls a second, {workers / len(found):.2f} of {2 * WORKERS} workers with "
        f"the key in use: the last call that was let in began {last[len(last) // 2]:+.1f} ms after the answer (median), "
        f"{p99:+.1f} (p99), {last[-1]:+.1f} (at most)"
    )
    failures = [failure for revocation in found for failure in revocation.failures]
    if p99 > 1000 * HOLDS_WITHIN_SECONDS:
        failures.append(f"the p99 is {p99:.1f} ms")
    if pace < CALLS_A_SECOND:  # the proof would be of another load
        failures.append(f"only {pace:.0f} calls a second were made")
    return failures


if __name__ == "__main__":
    run_counted(
        prove,
        name="revocation",
        about=__doc__,
        option="runs",
        default=200,
        meaning="keys revoked (default 200, about 8 minutes)",
    )
