"""Reloads and the end, under a load that keeps its connections: no call fails."""

from __future__ import annotations

import signal

from tests.endurance.callers import Call, Callers, broken, whole
from tests.endurance.conftest import MakeSite
from tests.endurance.origin import OriginProcess
from tests.endurance.site import Site, ask, stream
from tests.support.gateway_process import GatewayProcess, eventually
from tests.support.samples import samples

VALID, INVALID = 20, 5


def with_extra_route(site: Site, number: int) -> str:
    """The configuration of the site, and a route that only this version of it has."""
    extra = f"  - {{name: extra, match: {{path: /extra-{number}}}, upstream: origin, auth: {{schemes: [anonymous]}}}}\n"
    return site.text.replace("keys:\n", extra + "keys:\n")


def reloads(gateway: GatewayProcess) -> tuple[float, float]:
    """(applied, refused)"""
    found = samples(gateway.admin("/metrics")[1])
    return found["config_reloads_total", ()], found["config_reload_failures_total", ()]


def wait_for_reloads(gateway: GatewayProcess, applied: float, refused: float) -> None:
    eventually(lambda: reloads(gateway) == (applied, refused), f"{applied:g} reloads and {refused:g} refusals")


def test_reloads_under_load_fail_no_call_and_an_invalid_file_changes_nothing(
    make_site: MakeSite, callers: Callers, origin: OriginProcess
) -> None:
    """Rows 111, 112: twenty SIGHUPs with a valid file and five with an invalid one: every change of the configuration would
    cost calls, and a slip of the pen the whole service."""
    site = make_site(workers=2)
    with site.gateway() as gateway:
        pids = gateway.worker_pids()
        load = [
            stream("keyed", gateway, "local", site.bearer("key_roomy"), connections=2),
            stream("free", gateway, "free", ()),
        ]
        callers.start(load)
        in_force = 0
        for number in range(1, VALID + INVALID + 1):
            callers.wait_until_answered(20)
            applied, refused = reloads(gateway)
            invalid = number % ((VALID + INVALID) // INVALID) == 0
            text = with_extra_route(site, number)
            site.write(text.replace("upstream: origin", "upstream: nowhere") if invalid else text)
            gateway.signal(signal.SIGHUP)
            if invalid:
                wait_for_reloads(gateway, applied, refused + 1)
                told = gateway.status()["last_reload"]
                assert told["result"] == "refused"
                assert any("gateway.yaml:" in problem and "nowhere" in problem for problem in told["problems"])
            else:
                wait_for_reloads(gateway, applied + 1, refused)
                in_force = number
            assert ask(gateway.port, f"/extra-{in_force}")[0] == 200
            assert invalid == (ask(gateway.port, f"/extra-{number}")[0] == 404)
        callers.wait_until_answered(100)
        calls = callers.stop()
        assert reloads(gateway) == (VALID, INVALID)
        assert gateway.worker_pids() == pids, "no process was replaced"

        assert broken(calls) == []
        assert {(call.status, call.code) for call in calls} == {(200, "")}
        assert len({call.local_port for call in calls}) == callers.connections(load), "no connection was closed"


def test_sigterm_under_load_breaks_no_call_on_a_kept_connection_and_meters_every_one(
    make_site: MakeSite, callers: Callers, origin: OriginProcess
) -> None:
    """Rows 94, 108: SIGTERM under load: every answer that has begun is whole, a call that crossed the closing of its idle
    connection has reached nobody (so sending it again is safe, RFC 9112 §9.3.1), and all usage is in Postgres at the end."""
    site = make_site(workers=2)
    with site.gateway() as gateway:
        callers.start([stream("last", gateway, "local", site.bearer("key_roomy"), connections=4)])
        callers.wait_until_answered(400)
        gateway.signal(signal.SIGTERM)
        assert gateway.wait() == 0
        calls = callers.stop()

    answered = [call.request_id for call in whole(calls)]
    assert {call.status for call in whole(calls)} == {200}
    arrivals = origin.arrivals()
    assert [call for call in broken(calls) if call.request_id in arrivals] == []
    assert all(_is_refusal_or_crossing(call) for call in broken(calls))
    assert site.rows(answered) == dict.fromkeys(answered, 1), "nothing is left in the spool"
    books = site.reconcile()
    assert books.returncode == 0, books.stdout + books.stderr


def _is_refusal_or_crossing(call: Call) -> bool:
    """Nobody listened any more, or the connection had served a call before and was closed between two."""
    return call.failure.startswith("connect: ") or not call.first


def test_rolling_restarts_under_load_break_no_call_and_meter_every_one(
    make_site: MakeSite, callers: Callers, origin: OriginProcess
) -> None:
    """Rows 94, 110: the usage of workers of both programs, and what the shipper of before had not shipped, is in Postgres
    once; no call is broken on connections that are told to close."""
    site = make_site(workers=2)
    with site.gateway() as gateway:
        callers.start([stream("rolled", gateway, "local", site.bearer("key_roomy"), connections=3)])
        for number in range(1, 3):
            callers.wait_until_answered(200)
            gateway.signal(signal.SIGUSR2)
            eventually(lambda number=number: len(gateway.logged("rolled")) == number, "rolled", seconds=60)  # type: ignore[misc]  # mypy does not infer such a lambda
        callers.wait_until_answered(200)
        calls = callers.stop()
        gateway.signal(signal.SIGTERM)
        assert gateway.wait() == 0

    assert broken(calls) == []
    assert {(call.status, call.code) for call in calls} == {(200, "")}
    answered = [call.request_id for call in calls]
    assert site.rows(answered) == dict.fromkeys(answered, 1)
    books = site.reconcile()
    assert books.returncode == 0, books.stdout + books.stderr
