"""Proof: leased limits are never passed, whichever workers of whichever nodes hold slices of them, also when workers are
killed; a caller at twice to ten times its limit gets at least 98 % of it, one below its limit is not refused, and a key with
5 000 calls a second takes at most 0.02 commands to Redis a call.

Two nodes of two workers each, in processes of their own, one Valkey. Every decision is written to a log by Redis's clock,
which a verifier reads that knows nothing of slices."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ostiary.core.model import Period, Plan
from ostiary.demo.stores import EmbeddedValkey
from tests.gateway.limits.decision_log import merged
from tests.gateway.limits.leasing import Leased, Load, hammer, leased_quota, leased_rate, leased_window
from tests.gateway.limits.verifier import Subject, verify

NODES = 2
WORKERS = 2
SHARE_MIN = 0.98
DEMAND_MIN = 1.9
CALLS_OF_REDIS_MAX = 0.02
PER_SECOND = 5000


def load(name: str, plan: Plan, per_second: float, *, on: float = 1.0, cycle: float = 1.0, cost: int = 1) -> Load:
    """So many calls a second over all workers."""
    return Load(Subject(name, plan, rests=on < cycle), per_second / (NODES * WORKERS), on, cycle, cost)


def window(requests: int, seconds: int) -> Plan:
    return Plan("p", windows=(leased_window(requests, seconds),))


def bucket(per_second: int, burst: int) -> Plan:
    return Plan("p", rate=leased_rate(per_second, 1, burst))


ABOVE = (
    load("window2x", window(2000, 10), 400),
    load("window10x", window(1000, 10), 1000),
    load("waves", window(2000, 10), 800, on=1.3, cycle=2.0),
    load("bucket2x", bucket(200, 200), 400),
    load("bucket10x", bucket(100, 400), 1000),
    load("bursts", bucket(300, 300), 900, on=0.3, cycle=1.1),
    load("quota", Plan("p", quotas=(leased_quota(5000, Period.HOUR),)), 400),
    load("costs", window(4000, 10), 300, cost=4),
    load(
        "several",
        Plan(
            "p",
            leased_rate(300, 1, 600),
            (leased_window(2000, 10),),
            (leased_quota(10**6, Period.DAY),),
        ),
        500,
    ),
)
# At 80 % of the limit all the time.
BELOW = (
    load("window80", window(10_000, 10), 800),
    load("bucket80", bucket(1000, 1000), 800),
    load("waves80", bucket(1000, 1000), 1600, on=0.5, cycle=1.0),
)


def judge(leased: Leased, loads: Sequence[Load], *, all_admitted: bool = False, whole: bool = True) -> list[str]:
    """Prints a line a subject; what failed. `whole` is False where a worker was killed with what it held."""
    failures = [f"{leased.alone} decisions were made without Redis"] if leased.alone else []
    for verdict in verify(merged(leased.logs), [each.subject for each in loads]):
        print(f"  {verdict.line()}", flush=True)
        failures += verdict.findings
        if whole and verdict.due is not None and verdict.demand >= DEMAND_MIN and verdict.share < SHARE_MIN:
            failures.append(f"{verdict.subject.name}: only {verdict.share:.2%} of what was due was admitted")
        if all_admitted and verdict.admitted < verdict.asked:
            failures.append(f"{verdict.subject.name}: {verdict.asked - verdict.admitted} were refused below the limit")
    return failures


def run(directory: Path, loads: Sequence[Load], *, seconds: float, kill_after: float | None = None) -> Leased:
    directory.mkdir()
    with EmbeddedValkey(directory / "valkey") as valkey:
        return hammer(
            valkey.url(), directory, loads, seconds=seconds, nodes=NODES, workers=WORKERS, kill_after=kill_after
        )


def prove(directory: Path, *, seconds: float, kills: int) -> list[str]:
    failures: list[str] = []
    leased = run(directory / "above", ABOVE, seconds=seconds)
    print(f"above the limit: {leased.asked} calls in {seconds:.0f} s, {leased.spent} of slices", flush=True)
    failures += judge(leased, ABOVE)
    leased = run(directory / "below", BELOW, seconds=seconds / 2)
    print(f"below the limit: {leased.asked} calls, {leased.spent} of slices", flush=True)
    failures += judge(leased, BELOW, all_admitted=True)
    for name, plan in (("window", window(1_000_000, 60)), ("bucket", bucket(10_000, 10_000))):
        busy = (load(name, plan, PER_SECOND),)
        leased = run(directory / name, busy, seconds=seconds / 3)
        print(f"one key, {PER_SECOND} calls a second: {leased.calls_of_redis:.4f} commands to Redis a call", flush=True)
        failures += judge(leased, busy, all_admitted=True)
        if leased.calls_of_redis > CALLS_OF_REDIS_MAX:
            failures.append(f"{name}: {leased.calls_of_redis:.4f} commands to Redis a call")
    for number in range(kills):
        leased = run(directory / f"kill{number}", ABOVE, seconds=14, kill_after=4 + number % 5)
        print("a worker killed with what it held:", flush=True)
        failures += judge(leased, ABOVE, whole=False)
    return failures


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/prove leased", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="above the limit; half of it below (default 60)")
    parser.add_argument("--kills", type=int, default=5, help="of a worker (default 5)")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ostiary-leased-") as directory:
        failures = prove(Path(directory), seconds=chosen.seconds, kills=chosen.kills)
    for failure in failures:
        print(f"FAILED: {failure}")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
