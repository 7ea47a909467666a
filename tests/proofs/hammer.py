"""Proof: eight processes that hammer one key through several workers never get more than its limit in any window, and get
nearly all of it."""

from __future__ import annotations

import argparse

from ostiary.demo.stores import EmbeddedPostgres, EmbeddedValkey
from tests.endurance.callers import Callers
from tests.endurance.judging import moments_of
from tests.endurance.origin import running_origin
from tests.endurance.site import Site, fresh_database
from tests.endurance.test_hammer import hammer, judge
from tests.support.directories import directory_for_all

KEYS = ("key_exact_log", "key_slots", "key_bucket")
# Spans are looked at from every so-manieth call on; from every call it would take longer than the load.
EVERY = 50


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/prove hammer", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="for each of three keys (default 60)")
    parser.add_argument("--workers", type=int, default=4)
    chosen = parser.parse_args()
    callers = Callers(8)
    with (
        directory_for_all() as directory,
        EmbeddedPostgres(directory / "postgres") as postgres,
        EmbeddedValkey(directory / "valkey") as valkey,
        running_origin(directory) as origin,
    ):
        site = Site(
            directory,
            postgres=fresh_database(postgres),
            redis=valkey.url(),
            origin_port=origin.port,
            workers=chosen.workers,
        )
        with site.gateway() as gateway:
            for key in KEYS:
                calls = hammer(site, gateway, callers, key, seconds=chosen.seconds)
                admitted = moments_of(calls, origin.arrivals())
                print(f"{key:14} asked {len(calls):7}   admitted {len(admitted):6}   {judge(key, admitted, EVERY)}")
            books = site.reconcile()
    callers.close()
    raise SystemExit(books.returncode)


if __name__ == "__main__":
    main()
