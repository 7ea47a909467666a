"""Proof: 1 000 connections of slowhttptest in each of its modes (slow headers, slow body, slow read, ranges) cost a steady
good load beside them no call, and at most double its p99. Needs Debian's slowhttptest."""

from __future__ import annotations

import argparse
from pathlib import Path

from tests.acceptance import edge_site
from tests.acceptance.slow_clients import MODES, measure
from tests.support.directories import directory_for_all
from tests.support.gateway_process import REPOSITORY

# Below this a p99 is the scheduler's, not the gateway's: doubling it says nothing.
P99_SECONDS_FLOOR = 0.005
# All slow clients have one address: with the bound by address in force, most would just be refused.
LIMITS = "head_timeout: 5s, body_timeout: 5s, write_timeout: 5s, connections_per_address: 100000"


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/prove slow-clients", description=__doc__)
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--seconds", type=int, default=20, help="for each mode, and as long without (default 20)")
    parser.add_argument("--compiled", action="store_true", help="the gateway as scripts/compile makes it")
    chosen = parser.parse_args()
    package = edge_site.compiled_package() if chosen.compiled else REPOSITORY
    failures: list[str] = []
    with (
        directory_for_all() as directory,
        edge_site.running_gateway(Path(directory), limits=LIMITS, package=package) as gateway,
    ):
        for mode in MODES:
            alone = measure(gateway, None, connections=0, seconds=chosen.seconds // 2)
            outcome = measure(gateway, mode, connections=chosen.connections, seconds=chosen.seconds)
            print(f"{outcome}   (alone: p99 {alone.p99_seconds * 1e3:.1f} ms)", flush=True)
            failures += [f"{mode}: {failure}" for failure in (*alone.failures, *outcome.failures)[:5]]
            if outcome.p99_seconds > 2 * max(alone.p99_seconds, P99_SECONDS_FLOOR):
                failures.append(
                    f"{mode}: p99 {outcome.p99_seconds * 1e3:.1f} ms, alone {alone.p99_seconds * 1e3:.1f} ms"
                )
            if outcome.left:
                failures.append(f"{mode}: {outcome.left} connections are still open")
    for failure in failures:
        print(f"FAILED: {failure}")
    raise SystemExit(1 if failures else 0)


if __name__ == "__main__":
    main()
