"""Postgres away, at the start and under load: calls with known keys go on, and their usage arrives afterwards."""

from __future__ import annotations

import json

from ostiary.demo.stores import EmbeddedPostgres
from tests.endurance.callers import Callers, broken
from tests.endurance.conftest import MakeSite
from tests.endurance.origin import OriginProcess
from tests.endurance.postgres_faults import frozen, stopped
from tests.endurance.site import ASK_ID, ask, stream
from tests.support.gateway_process import GatewayProcess, eventually, wait_seconds
from tests.support.samples import samples

AWAY_SECONDS = 1.5  # of each kind; `scripts/prove outage --minutes N` for longer


def usage(gateway: GatewayProcess) -> tuple[float, float, float]:
    """Calls accepted and written, and how often the shipper has failed."""
    found = samples(gateway.admin("/metrics")[1])
    total = {name: sum(value for (each, _), value in found.items() if each == name) for name, _ in found}
    names = ("usage_events_accepted_total", "usage_events_written_total", "usage_ship_failures_total")
    accepted, written, failures = (total.get(name, 0) for name in names)
    return accepted, written, failures


def usage_waits(gateway: GatewayProcess) -> bool:
    """The shipper has failed, and more calls were accepted than written."""
    accepted, written, failures = usage(gateway)
    return accepted > written and failures > 0


def test_postgres_may_be_away_at_the_start_and_under_load(
    make_site: MakeSite, callers: Callers, own_postgres: EmbeddedPostgres, origin: OriginProcess
) -> None:
    """Rows 85, 86, 94: callers would be refused, or served for nothing, while the database is maintained: stopped at once,
    and frozen with its connections open. The calls answered, those in the origin's log and the rows are the same."""
    site = make_site(workers=2, postgres=own_postgres)
    with site.control_plane() as control_plane:
        early, late = control_plane.make_keys(2)
    by_file, by_early, by_late = (site.bearer(key) for key in ("key_roomy", early["secret"], late["secret"]))
    unavailable = (503, "keys_unavailable")

    own_postgres.pg_ctl("stop", "-m", "immediate")
    with site.gateway() as gateway:
        callers.start([stream("from-the-start", gateway, "local", by_file, connections=2)])
        callers.wait_until_answered(200)
        assert problem(gateway, by_early) == unavailable
        eventually(lambda: usage_waits(gateway), "usage in the spool")
        assert gateway.admin("/readyz")[0] == 200
        own_postgres.start_again()
        eventually(lambda: looked_up_everywhere(gateway, by_early), "the key is looked up")
        calls = callers.stop()

        callers.start(
            [
                stream("by-file", gateway, "local", by_file),
                stream("by-early", gateway, "local", by_early, connections=4),
            ]
        )
        callers.wait_until_answered(400)
        with stopped(own_postgres):
            wait_seconds(AWAY_SECONDS)
            assert problem(gateway, by_late) == unavailable
            eventually(lambda: usage_waits(gateway), "usage in the spool")
            callers.wait_until_answered(100)
        eventually(lambda: problem(gateway, by_late) == (200, ""), "the other key is looked up")
        with frozen(own_postgres):
            wait_seconds(AWAY_SECONDS)
            written = usage(gateway)[1]
            callers.wait_until_answered(100)
            assert usage(gateway)[1] == written
        eventually(lambda: usage(gateway)[1] > written, "usage arrives again")
        calls += callers.stop()

        assert broken(calls) == []
        assert {(call.status, call.code) for call in calls} == {(200, "")}
        answered = [call.request_id for call in calls]
        site.assert_each_once(answered, set(answered))
        assert origin.arrivals().keys() - {ASK_ID} == set(answered)
        books = site.reconcile()
        assert books.returncode == 0, books.stdout + books.stderr


def looked_up_everywhere(gateway: GatewayProcess, key: tuple[tuple[str, str], ...]) -> bool:
    """Whether each of 60 new connections is served: with two workers, both have had some of them."""
    return all(problem(gateway, key) == (200, "") for _ in range(60))


def problem(gateway: GatewayProcess, key: tuple[tuple[str, str], ...]) -> tuple[int, str]:
    """Status and code of a call with this key."""
    status, body = ask(gateway.port, "/local/probe", key)
    return status, "" if status == 200 else str(json.loads(body)["code"])
