"""Proof: what an idle keep-alive connection costs a worker, after a request on each: at most 10 KiB. And that a worker with
all of them serves the next call as before."""

from __future__ import annotations

import argparse
from pathlib import Path

from ostiary.gateway.overload.accepting import connections_that_fit
from tests.acceptance import edge_site
from tests.acceptance.idle_connections import hold, raise_descriptor_limit
from tests.support.directories import directory_for_all
from tests.support.gateway_process import REPOSITORY

BYTES_MAX = 10 * 1024


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/prove idle-connections", description=__doc__)
    parser.add_argument("--connections", type=int, default=20_000, help="as far as the descriptor limit allows")
    parser.add_argument("--compiled", action="store_true", help="the gateway as scripts/compile makes it")
    chosen = parser.parse_args()
    package = edge_site.compiled_package() if chosen.compiled else REPOSITORY
    # A worker takes as many clients as leave each an upstream connection; the warm-up has some of them.
    connections = min(chosen.connections, connections_that_fit(raise_descriptor_limit()) - 500)
    limits = "keepalive: 1h, connections: 1000000, connections_per_address: 1000000"
    failures: list[str] = []
    for asked in (False, True):
        # A worker each: what the first ones leave to the allocator, the second would not have to ask for.
        with (
            directory_for_all() as directory,
            edge_site.running_gateway(Path(directory), limits=limits, package=package) as gateway,
        ):
            held = hold(gateway, connections, ask=asked)
        print(held, flush=True)
        if held.bytes_each > BYTES_MAX:
            failures.append(f"{held.bytes_each} bytes a connection, and {BYTES_MAX} is the bar")
        if held.answered != connections * asked + 1:
            failures.append(f"{held.answered} calls were answered")
    for failure in failures:
        print(f"FAILED: {failure}")
    raise SystemExit(1 if failures else 0)


if __name__ == "__main__":
    main()
