"""Two nodes that follow published routes, and when a version is in force in each of their workers.

`change_once` is importable with its parameters, so that the proof needs no other code than the test."""

from __future__ import annotations

import http.client
import time
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.endurance.site import ControlPlane, Site, ask, client_ports
from tests.support.gateway_process import GatewayProcess, eventually, wait_seconds

HOLDS_WITHIN_SECONDS = 1.0
ASK_AGAIN_SECONDS = 0.005
CONNECTIONS_MAX = 64  # of one node, until each of its workers has one

ROUTES = "routes: {from: control_plane, environment: [OSTIARY_TEST_SECRET], files: published}\n"
HEAD = """\
version: 1
plans:
  roomy: {limits: [{requests: 10000000, per: minute}]}
  exact_log: {}
  slots: {}
  bucket: {}
upstreams:
  origin: {targets: [{url: "http://127.0.0.1:9"}]}
routes:
"""
# What takes a call answers 502, for no one listens there; what does not answers 404.
TAKEN, NOT_TAKEN = 502, 404


def document(*names: str, upstream: str = "origin", extra: str = "") -> str:
    """Routes that take `/NAME`."""
    route = (
        "  - {{name: {name}, match: {{path: /{name}}}, upstream: {upstream}, auth: {{schemes: [anonymous]}}{extra}}}\n"
    )
    return HEAD + "".join(route.format(name=name, upstream=upstream, extra=extra) for name in names)


def publishing(site: Site) -> Site:
    """The site, with its routes from the control plane."""
    head, _, rest = site.text.partition("plans:\n")
    _, keys, tail = rest.partition("keys:\n")
    site.text = head.replace("spool: spool", "spool: spool\n  state: state") + ROUTES + keys + tail
    site.write(site.text)
    return site


@contextmanager
def second_node(site: Site) -> Iterator[GatewayProcess]:
    """Another gateway with the same stores, and a spool and a state of its own."""
    path = site.path.with_name("second.yaml")
    text = site.text.replace("spool: spool", "spool: second-spool").replace("state: state", "state: second-state")
    path.write_text(text.replace("files: published", "files: second-published"))
    with GatewayProcess(["ostiary", "gateway", "-c", str(path)]) as node:
        yield node.wait_ready()


def publish(control_plane: ControlPlane, text: str) -> dict[str, Any]:
    current = control_plane.call("GET", "/routes/status")["current"]
    base = 0 if current is None else current["number"]
    return control_plane.post("/routes/versions", {"document": text, "base": base})


def refused(control_plane: ControlPlane, text: str, base: int) -> int:
    """The status of the refusal."""
    try:
        control_plane.post("/routes/versions", {"document": text, "base": base})
    except urllib.error.HTTPError as error:
        return error.code
    raise AssertionError("it was taken")


def version(gateway: GatewayProcess) -> int | None:
    """The version in force in all workers that serve, None if they differ or there is none."""
    status = gateway.status()
    generations = {worker["generation"] for worker in status["workers"] if worker["state"] == "ready"}
    number: int | None = status["routes"]["version"]
    return number if generations == {status["generation"]} else None


def wait_for_version(number: int, *nodes: GatewayProcess) -> None:
    for node in nodes:
        eventually(lambda node=node: version(node) == number, f"version {number} is in force")  # type: ignore[misc]  # bound at once


def served(gateway: GatewayProcess, *names: str) -> set[str]:
    """Those of the names that are taken, by whoever answers ten new connections each; they must agree."""
    found = {name: {ask(gateway.port, f"/{name}")[0] for _ in range(10)} for name in names}
    assert all(statuses in ({TAKEN}, {NOT_TAKEN}) for statuses in found.values()), found
    return {name for name, statuses in found.items() if statuses == {TAKEN}}


class Probes:
    """Kept connections, at least one to each worker of each node."""

    def __init__(self, nodes: list[GatewayProcess]) -> None:
        self._connections: list[http.client.HTTPConnection] = []
        self.workers = 0
        for node in nodes:
            pids = node.worker_pids()
            self.workers += len(pids)
            for _ in range(CONNECTIONS_MAX):
                connection = http.client.HTTPConnection("127.0.0.1", node.port, timeout=30)
                self._connections.append(connection)
                self.ask(connection, "nothing")
                if all(client_ports(pid, node.port) for pid in pids):
                    break
            else:
                raise AssertionError(f"a worker got none of {CONNECTIONS_MAX} connections")

    @staticmethod
    def ask(connection: http.client.HTTPConnection, name: str) -> int:
        connection.request("GET", f"/{name}")
        answer = connection.getresponse()
        answer.read()
        return answer.status

    def wait_until_taken(self, name: str, seconds: float) -> float:
        """Seconds until every connection's worker takes `/NAME`."""
        began = time.monotonic()
        waiting = list(self._connections)
        while waiting:
            waiting = [connection for connection in waiting if self.ask(connection, name) != TAKEN]
            if waiting:
                wait_seconds(ASK_AGAIN_SECONDS)  # those who ask take processors from those who are to change
            if waiting and time.monotonic() - began > seconds:
                raise AssertionError(f"{len(waiting)} connections are not served by /{name} within {seconds} s")
        return time.monotonic() - began

    def close(self) -> None:
        for connection in self._connections:
            connection.close()


@dataclass(frozen=True)
class Change:
    """`apply_ms` is what the API took to answer, `in_force_ms` how long after that every worker served by the version."""

    apply_ms: float
    in_force_ms: float


def change_once(
    control_plane: ControlPlane, probes: Probes, text: str, name: str, *, base: int, seconds: float
) -> Change:
    """Applies a version in which `/NAME` is new."""
    began = time.monotonic()
    control_plane.post("/routes/versions", {"document": text, "base": base})
    answered = time.monotonic()
    return Change(1000 * (answered - began), 1000 * probes.wait_until_taken(name, seconds))
