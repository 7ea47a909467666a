"""Proof: a version of the routes that is applied serves in every worker of two nodes within a second of the API's answer,
time after time, among a hundred other routes; and an invalid one between them changes nothing."""

from __future__ import annotations

import argparse
from pathlib import Path

from ostiary.demo.stores import EmbeddedPostgres, EmbeddedValkey
from tests.endurance.publishing import (
    HOLDS_WITHIN_SECONDS,
    Change,
    Probes,
    change_once,
    document,
    publish,
    publishing,
    refused,
    second_node,
    wait_for_version,
)
from tests.endurance.site import Site, fresh_database
from tests.support.directories import directory_for_all

WORKERS = 2  # of each node


def prove(directory: Path, runs: int, routes: int) -> list[str]:
    """What failed. Prints the figures."""
    others = [f"other-{number}" for number in range(routes)]
    failures: list[str] = []
    changes: list[Change] = []
    with EmbeddedPostgres(directory / "postgres") as postgres, EmbeddedValkey(directory / "valkey") as valkey:
        database = fresh_database(postgres)
        site = publishing(Site(directory, postgres=database, redis=valkey.url(), origin_port=9, workers=WORKERS))
        with site.control_plane() as control_plane:
            publish(control_plane, document(*others))
            with site.gateway() as first, second_node(site) as second:
                wait_for_version(1, first, second)
                probes = Probes([first, second])
                for number in range(1, runs + 1):
                    name = f"new-{number}"
                    if refused(control_plane, document(*others, name, upstream="nowhere"), number) != 422:
                        failures.append(f"an invalid document was not refused (run {number})")
                    try:
                        changes.append(
                            change_once(
                                control_plane,
                                probes,
                                document(*others, name),
                                name,
                                base=number,
                                seconds=HOLDS_WITHIN_SECONDS,
                            )
                        )
                    except AssertionError as error:
                        failures.append(f"run {number}: {error}")
                        wait_for_version(number + 1, first, second)
                told = control_plane.call("GET", "/routes/status")["nodes"]
                if [node["state"] for node in told] != ["current"] * 2:
                    failures.append(f"at the end the nodes are {told}")
                refusals = [line for node in (first, second) for line in node.logged("routes_refused")]
                failures += [f"a gateway refused: {line}" for line in refusals]
                workers = probes.workers
                probes.close()
    if changes:
        report(changes, workers, routes)
    return failures


def report(changes: list[Change], workers: int, routes: int) -> None:
    in_force = sorted(change.in_force_ms for change in changes)
    apply = sorted(change.apply_ms for change in changes)
    print(
        f"{len(changes)} changes among {routes} routes: in force in all {workers} workers of 2 nodes "
        f"{_median(in_force):.0f} ms after the answer (median), {_p99(in_force):.0f} (p99), {in_force[-1]:.0f} (at most); "
        f"the API answered in {_median(apply):.0f} ms (median), {apply[-1]:.0f} (at most)"
    )


def _median(ordered: list[float]) -> float:
    return ordered[len(ordered) // 2]


def _p99(ordered: list[float]) -> float:
    return ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/prove route-changes", description=__doc__)
    parser.add_argument("--runs", type=int, default=200, help="versions applied (default 200, about 3 minutes)")
    parser.add_argument("--routes", type=int, default=100, help="other routes in each version (default 100)")
    chosen = parser.parse_args()
    with directory_for_all() as directory:
        failures = prove(directory, chosen.runs, chosen.routes)
    for failure in failures[:20]:
        print(f"FAILED: {failure}")
    raise SystemExit(1 if failures else 0)


if __name__ == "__main__":
    main()
