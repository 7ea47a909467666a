"""Proof: kill -9 of workers and of the shipper at random moments under load: every call in the origin's own log is a row in
Postgres, by request id, and no other is but what a killed worker was about to send; none is there twice, only a killed
worker's own connections are cut, and a worker's death is mended within a second."""

from __future__ import annotations

import random
import statistics
import time
from pathlib import Path

from ostiary.demo.stores import EmbeddedPostgres, EmbeddedValkey
from ostiary.gateway.deaths import TRUSTED_AFTER_SECONDS
from tests.endurance.callers import Call, Callers, broken, whole
from tests.endurance.killing import Kill, kill_worker, unexplained
from tests.endurance.origin import running_origin
from tests.endurance.site import ASK_ID, Site, fresh_database, stream
from tests.endurance.test_deaths import kill_shipper
from tests.proofs._program import run_counted

WORKERS = 4
# Each worker in turn, so that each has lived long enough to be trusted when its turn comes: single deaths, not a loop.
SECONDS_BETWEEN = TRUSTED_AFTER_SECONDS / (WORKERS - 1)
WORKERS_FOR_A_SHIPPER = 3  # kills of workers between two of the shipper, which then has lived as long


def prove(directory: Path, kills_wanted: int) -> list[str]:
    """What failed. Prints the figures."""
    chance = random.Random()
    kills: list[Kill] = []
    shippers = 0
    callers = Callers(3)
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
        with site.gateway() as gateway:
            # A pace at which minutes of calls can be remembered one by one.
            load = [stream("kill", gateway, "open", site.bearer("key_roomy"), connections=4, pause_seconds=0.02)]
            callers.start(load)
            for number in range(kills_wanted):
                time.sleep(SECONDS_BETWEEN + chance.uniform(0, 0.2))
                kills.append(
                    kill_worker(gateway, number % WORKERS, connections=callers.connections(load), workers=WORKERS)
                )
                if number % WORKERS_FOR_A_SHIPPER == 0:
                    time.sleep(chance.uniform(0, 0.5))  # it ships several times a second
                    kill_shipper(gateway)
                    shippers += 1
                if number % 10 == 9:
                    print(f"{number + 1} workers and {shippers} shippers killed, {callers.answered} calls", flush=True)
            calls = callers.stop()
            failures = judge(site, calls, kills, origin.arrivals())
    callers.close()
    seconds = [kill.served_seconds for kill in kills]
    print(
        f"workers killed {len(kills)}, shippers {shippers}   calls {len(calls)}   cut {len(broken(calls))}   "
        f"served again after {statistics.median(seconds):.2f} s (at most {max(seconds):.2f})   failed {len(failures)}"
    )
    return failures


def judge(site: Site, calls: list[Call], kills: list[Kill], arrivals: dict[str, list[int]]) -> list[str]:
    failures = [f"cut without a reason: {call}" for call in unexplained(broken(calls), kills)]
    failures += [f"answered {call.status}: {call}" for call in whole(calls) if call.status != 200]
    failures += [
        f"served again after {kill.served_seconds:.2f} s: the victim was gone after "
        f"{(kill.gone_ns - kill.killed_ns) / 1e9:.2f} s, its successor ready after {kill.ready_seconds:.2f} s"
        for kill in kills
        if kill.served_seconds > 1
    ]
    try:
        site.assert_each_once([call.request_id for call in whole(calls)], {call.request_id for call in calls})
    except AssertionError as error:
        failures.append(str(error))
    rows = site.values("SELECT request_id FROM usage_events")
    cut = {call.request_id for call in broken(calls)}
    of_origin_alone, of_rows_alone = arrivals.keys() - set(rows), set(rows) - arrivals.keys() - {ASK_ID}
    print(
        f"answered calls: origin's log {len(arrivals.keys() - cut)}, rows {len(set(rows) - cut - {ASK_ID})}; calls cut "
        f"unanswered: origin's log {len(arrivals.keys() & cut)}, rows {len(set(rows) & cut)}"
    )
    failures += [f"in the origin's log alone: {request_id}" for request_id in of_origin_alone]
    failures += [f"in Postgres alone: {request_id}" for request_id in of_rows_alone - cut]
    books = site.reconcile(seconds=600)
    return failures if books.returncode == 0 else [*failures, books.stdout + books.stderr]


if __name__ == "__main__":
    run_counted(
        prove,
        name="kill-worker",
        about=__doc__,
        option="kills",
        default=100,
        meaning="workers killed (default 100, about 9 minutes)",
    )
