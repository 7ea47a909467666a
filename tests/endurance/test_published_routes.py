"""Routes that the control plane publishes, in force in real nodes: everywhere or nowhere, and after all else is gone."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from ostiary.demo.stores import EmbeddedPostgres
from tests.endurance.conftest import MakeSite
from tests.endurance.publishing import (
    Probes,
    change_once,
    document,
    publish,
    publishing,
    refused,
    second_node,
    served,
    version,
    wait_for_version,
)
from tests.support.certificates import issue
from tests.support.gateway_process import DEADLINE_SECONDS, SECRET, GatewayProcess, eventually
from tests.support.samples import samples


def gauge(gateway: GatewayProcess, name: str) -> float:
    return samples(gateway.admin("/metrics")[1])[name, ()]


def kept(gateway: GatewayProcess, number: int) -> None:
    eventually(lambda: gateway.status()["routes"]["last_good"]["version"] == number, f"version {number} is kept")


def test_a_change_is_in_force_in_every_worker_of_every_node_and_an_invalid_one_nowhere(make_site: MakeSite) -> None:
    """Row 111: half of the workers would answer by other routes than the rest, or all by half of a document. How long it
    takes is measured by `scripts/prove route-changes`."""
    site = publishing(make_site(workers=2))
    with site.control_plane() as control_plane:
        publish(control_plane, document("one"))
        with site.gateway() as first, second_node(site) as second:
            nodes = [first, second]
            probes = Probes(nodes)
            assert probes.workers == 4
            change = change_once(control_plane, probes, document("one", "two"), "two", base=1, seconds=DEADLINE_SECONDS)
            print(f"in force in 4 workers {change.in_force_ms:.0f} ms after the answer")
            wait_for_version(2, *nodes)
            assert [served(node, "one", "two") for node in nodes] == [{"one", "two"}] * 2

            for invalid in (document("one", upstream="nowhere"), "version: 1\nroutes: [", document("one", "one")):
                assert refused(control_plane, invalid, 2) == 422
            control_plane.post("/routes/rollback", {"number": 1, "base": 2})
            wait_for_version(3, *nodes)
            assert [served(node, "one", "two") for node in nodes] == [{"one"}] * 2
            assert [node.status()["routes"]["refused"] for node in nodes] == [None, None]

            told = control_plane.call("GET", "/routes/status")
            assert [node["state"] for node in told["nodes"]] == ["current"] * 2
            assert [gauge(node, "config_routes_version") for node in nodes] == [3, 3]
            probes.close()
            second.signal(signal.SIGTERM)
            assert second.wait() == 0
            left = control_plane.call("GET", "/routes/status")["nodes"]
            assert [node["node"] for node in left] == [first.status()["node"]["name"]]


def test_a_gateway_that_cannot_take_a_version_keeps_the_one_before_and_says_so(make_site: MakeSite) -> None:
    """Row 111: what only a gateway can find out (a file that it lacks) must cost it nothing; mended, it takes the version."""
    site = publishing(make_site(workers=2))
    for name in ("published", "second-published"):
        (site.directory / name).mkdir()
    issue(site.directory / "published", "ca", authority=True)  # ca.pem
    needs_file = document("one", "two", upstream="secure").replace(
        "routes:\n", '  secure: {targets: [{url: "https://127.0.0.1:9"}], tls: {ca: ca.pem}}\nroutes:\n'
    )
    with site.control_plane() as control_plane:
        publish(control_plane, document("one"))
        with site.gateway() as first, second_node(site) as second:
            pids = second.worker_pids()
            publish(control_plane, needs_file)
            wait_for_version(2, first)
            second.wait_for_log("routes_refused", version=2, in_force=1)
            assert (served(first, "one", "two"), served(second, "one", "two")) == ({"one", "two"}, {"one"})
            refusal = second.status()["routes"]["refused"]
            assert refusal["version"] == 2
            assert (
                "version 2 of the routes:9: upstreams.secure.tls.ca: the file 'ca.pem' does not exist"
                in refusal["problems"][0]
            )
            assert second.admin("/readyz")[0] == 200
            assert gauge(second, "config_routes_refused") == 1

            def states() -> dict[str, str] | None:
                nodes = control_plane.call("GET", "/routes/status")["nodes"]
                found = {node["state"]: "".join(node["refused_problems"]) for node in nodes}
                return found if found.keys() == {"current", "refused"} else None

            assert "ca.pem" in eventually(states, "the control plane knows who refuses")["refused"]
            second.signal(signal.SIGHUP)  # a reload in between does not forget what may mend the version
            second.wait_for_log("reloaded")
            issue(site.directory / "second-published", "ca", authority=True)
            wait_for_version(2, second)
            assert served(second, "one", "two") == {"one", "two"}
            assert second.status()["routes"]["refused"] is None
            assert second.worker_pids() == pids, "neither cost a process"


def test_without_control_plane_and_postgres_a_restarted_gateway_serves_its_last_snapshot(
    make_site: MakeSite, own_postgres: EmbeddedPostgres
) -> None:
    """Row 117: an outage of the database would become one of every gateway that is restarted in it."""
    site = publishing(make_site(workers=2, postgres=own_postgres))
    text = document("one", extra=', request_headers: {set: {X-Token: "${OSTIARY_TEST_SECRET}"}}')
    with site.control_plane() as control_plane:
        publish(control_plane, document("zero"))
        with site.gateway() as gateway:
            assert gateway.status()["routes"]["began_with"] == "postgres"
            publish(control_plane, text)
            wait_for_version(2, gateway)
            kept(gateway, 2)
    snapshot = site.directory / "state" / "routes.snapshot"
    assert snapshot.stat().st_mode & 0o777 == 0o600
    assert text in snapshot.read_text()
    assert SECRET not in snapshot.read_text()

    own_postgres.pg_ctl("stop", "-m", "immediate")
    with site.gateway() as gateway:
        gateway.wait_for_log("routes_from_disk", version=2)
        assert served(gateway, "zero", "one") == {"one"}
        routes = gateway.status()["routes"]
        assert (routes["began_with"], routes["version"], routes["following"]) == ("disk", 2, False)
        assert gateway.admin("/readyz")[0] == 200
        eventually(lambda: gauge(gateway, "config_routes_silent_seconds") > 0, "staleness is told")
        victim = gateway.worker_pids()[0]
        os.kill(victim, signal.SIGKILL)
        gateway.wait_for_workers(without=victim)
        assert served(gateway, "zero", "one") == {"one"}

        own_postgres.start_again()
        with site.control_plane() as control_plane:
            publish(control_plane, document("two"))
            wait_for_version(3, gateway)
        assert served(gateway, "one", "two") == {"two"}
        assert SECRET not in "".join(gateway.text)
        kept(gateway, 3)

    own_postgres.pg_ctl("stop", "-m", "immediate")
    content = snapshot.read_bytes()
    snapshot.write_bytes(content.replace(b"/two", b"/one"))
    assert "is damaged (its checksum does not fit)" in cannot_start(site.path)
    snapshot.unlink()
    assert "there is no last good snapshot" in cannot_start(site.path)


def cannot_start(path: Path) -> str:
    """What a gateway that does not start says."""
    with GatewayProcess(["ostiary", "gateway", "-c", str(path)]) as gateway:
        assert gateway.wait() == 1
        return "".join(gateway.text)


def test_a_new_gateway_waits_for_the_first_version_and_is_not_ready(make_site: MakeSite) -> None:
    """A load balancer would send calls to a gateway that answers 404 to everything."""
    site = publishing(make_site(workers=2))
    with site.control_plane() as control_plane, site.gateway() as gateway:
        status, body = gateway.admin("/readyz")
        assert status == 503
        assert "no routes have been published yet" in body
        publish(control_plane, document("one"))
        wait_for_version(1, gateway)
        assert gateway.admin("/readyz")[0] == 200
        assert served(gateway, "one") == {"one"}


def test_a_version_that_is_not_announced_is_found(make_site: MakeSite) -> None:
    """Row 117: a proxy between that carries no notifications would keep a gateway on old routes for ever."""
    site = publishing(make_site(workers=1))
    site.values("ALTER TABLE route_versions DISABLE TRIGGER route_versions_announce")
    with site.control_plane() as control_plane:
        publish(control_plane, document("one"))
        with site.gateway() as gateway:
            publish(control_plane, document("two"))
            wait_for_version(2, gateway)
            assert served(gateway, "one", "two") == {"two"}


def test_a_hosts_own_file_and_what_is_published_change_by_themselves(make_site: MakeSite) -> None:
    """A file that someone is editing would keep a rollback from this gateway, or a reload bring back old routes."""
    site = publishing(make_site(workers=2))
    with site.control_plane() as control_plane:
        publish(control_plane, document("one"))
        with site.gateway() as gateway:
            site.write(site.text + "unknown: 1\n")
            gateway.wait_for_log("reload_refused")
            publish(control_plane, document("two"))
            wait_for_version(2, gateway)
            assert served(gateway, "one", "two") == {"two"}
            site.write(site.text.replace("drain: 10s", "drain: 7s"))
            gateway.wait_for_log("reloaded", generation=3)
            assert version(gateway) == 2
            assert served(gateway, "one", "two") == {"two"}
            # A plan that a key of the file has is gone: the version is refused here, until the file no longer needs it.
            publish(control_plane, document("three").replace("  slots: {}\n", ""))
            gateway.wait_for_log("routes_refused", version=3, in_force=2)
            site.write(site.text.replace(", plan: slots", ""))
            wait_for_version(3, gateway)
            assert served(gateway, "two", "three") == {"three"}


@pytest.mark.parametrize("change", ["routes: []\n", "plans: {}\nupstreams: {}\nroutes: []\n"])
def test_where_routes_are_from_changes_at_a_restart_alone(make_site: MakeSite, change: str) -> None:
    """A reload that went over to the file's routes would leave the gateway following versions that it does not use."""
    site = publishing(make_site(workers=1))
    with site.control_plane() as control_plane:
        publish(control_plane, document("one"))
        with site.gateway() as gateway:
            head, _, tail = site.text.partition("routes: {")
            keyless = tail.partition("keys:\n")[0].partition("\n")[2]
            site.write(head + change + keyless)
            refusal = gateway.wait_for_log("reload_refused")
            assert "routes.from: changed, and takes effect only at a restart" in refusal["problems"][0]
            assert served(gateway, "one") == {"one"}
