"""Keys that are revoked while two nodes serve them, and when the last call with each was let in.

`revoke_under_load` is importable with its parameters, so that the proof needs no other code than the test."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.endurance.callers import Call, Callers, Stream, broken
from tests.endurance.site import ControlPlane, Site, stream, wait_until_connected
from tests.support.gateway_process import GatewayProcess, eventually

HOLDS_WITHIN_SECONDS = 1.0
# Calls that begin this long after the answer must all be refused; there have to be some.
WATCHED_SECONDS = HOLDS_WITHIN_SECONDS + 0.5
# Of the key, before it is revoked: every worker knows it then.
CALLS_BEFORE = 300


@dataclass(frozen=True)
class Revocation:
    """`last_ms` is how long after the API's answer the last call began that was let in; below 0 if none began after it.
    `calls` were made in `seconds`, at `workers` workers. `failures` is what was not as it must be."""

    last_ms: float
    calls: int
    seconds: float
    workers: int
    failures: tuple[str, ...]


@contextmanager
def second_node(site: Site) -> Iterator[GatewayProcess]:
    """Another gateway with the same stores and a spool of its own, ready."""
    path = site.path.with_name("second.yaml")
    path.write_text(site.text.replace("spool: spool", "spool: second-spool"))
    with GatewayProcess(["ostiary", "gateway", "-c", str(path)]) as node:
        yield node.wait_ready()


def revoke_under_load(
    site: Site,
    control_plane: ControlPlane,
    nodes: list[GatewayProcess],
    callers: Callers,
    *,
    runs: int,
    connections: int,
    interval_seconds: float,
    progress: Callable[[int], None] | None = None,
) -> list[Revocation]:
    """In each run one key has all of the load: `connections` of each caller to each node, on each a call every
    `interval_seconds`."""
    found = []
    for number in range(runs):
        (key,) = control_plane.make_keys(1)
        load = [
            stream(
                key["key_id"],
                node,
                "local",
                site.bearer(key["secret"]),
                connections=connections,
                interval_seconds=interval_seconds,
            )
            for node in nodes
        ]
        found.append(_revoke_once(control_plane, key, nodes, callers, load))
        if progress is not None:
            progress(number + 1)
    return found


def _revoke_once(
    control_plane: ControlPlane,
    key: dict[str, object],
    nodes: list[GatewayProcess],
    callers: Callers,
    load: list[Stream],
) -> Revocation:
    callers.start(load)
    each = callers.connections(load) // len(nodes)
    ports = [wait_until_connected(node, each) for node in nodes]
    of_worker = [clients for by_worker in ports for clients in by_worker.values() if clients]
    callers.wait_until_answered(CALLS_BEFORE)
    control_plane.revoke(key)
    answered_ns = time.monotonic_ns()
    until = answered_ns / 1e9 + WATCHED_SECONDS
    eventually(lambda: time.monotonic() > until, "calls after the second")
    calls = callers.stop()
    last_ns = max((call.began_ns for call in calls if call.status == 200), default=0)
    return Revocation(
        last_ms=(last_ns - answered_ns) / 1e6,
        calls=len(calls),
        seconds=(calls[-1].ended_ns - calls[0].began_ns) / 1e9,
        workers=len(of_worker),
        failures=tuple(_judge(calls, answered_ns, of_worker)),
    )


def _judge(calls: list[Call], answered_ns: int, of_worker: list[set[int]]) -> Iterator[str]:
    for call in broken(calls):
        yield f"cut: {call}"
    late = [call for call in calls if call.began_ns > answered_ns + HOLDS_WITHIN_SECONDS * 1e9]
    for call in late:
        if (call.status, call.code) != (401, "credentials_invalid"):
            yield f"{call.status} after the second: {call}"
    heard = {call.local_port for call in late}
    for clients in of_worker:
        if not clients <= heard:
            yield f"connections of a worker without a call after the second: {clients - heard}"
