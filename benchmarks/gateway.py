"""Ostiary itself as a side: started as an operator does, its processes told apart by what it says of them."""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import cpu
from benchmarks.contestant import RunningSide
from benchmarks.processes import OTHER_CORE, PROXY_CORE, READY_SECONDS, DidNotStart, Started, free_port
from benchmarks.rendering import render_file
from benchmarks.requests import SECRET
from benchmarks.rig import Rig, Role

REPOSITORY = Path(__file__).parent.parent
# The package that is measured: `scripts/bench` names a compiled copy (scripts/compile), else this checkout as it is.
PACKAGE = Path(os.environ.get("OSTIARY_BENCH_PACKAGE", REPOSITORY))
COMPILED = any((PACKAGE / "ostiary").rglob("*.so"))
_OSTIARY = (sys.executable, "-P", "-m", "ostiary")
_ENVIRONMENT = {"PYTHONPATH": str(PACKAGE), "BENCH_KEY_SECRET": SECRET}
_MIGRATION_SECONDS = 60.0


def build() -> str:
    """How the measured package was built."""
    return "compiled" if COMPILED else "interpreted"


def start_ostiary(template: str, *, routes: str = "") -> Callable[[Rig], RunningSide]:
    """Starts a gateway with the configuration `peers/<template>`, and `routes` (YAML) where it has a place for them; its
    database is migrated first. The start raises DidNotStart."""

    def start(rig: Rig) -> RunningSide:
        port, admin_port = free_port(), free_port()
        configuration = render_file(
            template, rig.directory, rig.values(port=port, admin_port=admin_port, routes=routes)
        )
        if rig.stores is not None:
            _migrate(rig, configuration)
        command: list[str | Path] = [*_OSTIARY, "gateway", "-c", configuration]
        started = rig.processes.start("ostiary", command, core=PROXY_CORE, environment=_ENVIRONMENT)
        rig.processes.wait_until_listening(started, admin_port)
        return _ready(started, port, admin_port)

    return start


def status(admin_port: int) -> dict[str, Any]:
    """What a running gateway says of itself. Raises OSError when it does not answer."""
    with urllib.request.urlopen(f"http://127.0.0.1:{admin_port}/status", timeout=5) as answer:
        document: dict[str, Any] = json.load(answer)
        return document


def _migrate(rig: Rig, configuration: Path) -> None:
    command: list[str | Path] = [*_OSTIARY, "db", "migrate", "-c", configuration]
    migration = rig.processes.start("migrate", command, core=OTHER_CORE, environment=_ENVIRONMENT)
    if (code := migration.popen.wait(_MIGRATION_SECONDS)) != 0:
        raise DidNotStart(f"ostiary db migrate ended with status {code}:\n{migration.log_tail()}")


def _ready(started: Started, port: int, admin_port: int) -> RunningSide:
    """Waits until the gateway is ready, and leaves the proxy's core to its worker, as every side has it to itself."""
    deadline = time.monotonic() + READY_SECONDS
    while not (said := status(admin_port))["ready"]:
        if time.monotonic() > deadline:
            raise DidNotStart(f"ostiary is not ready after {READY_SECONDS:.0f} s:\n{started.log_tail()}")
        time.sleep(0.05)
    workers = frozenset(int(worker["pid"]) for worker in said["workers"])
    shipper = frozenset({int(said["shipper"]["pid"])} if said["shipper"] else ())
    for pid in cpu.descendants(started.pid) - workers:
        for thread in cpu.thread_times([pid]):
            os.sched_setaffinity(thread[1], {OTHER_CORE})

    def pids() -> dict[Role, frozenset[int]]:
        everyone = cpu.descendants(started.pid)
        if not workers | shipper <= everyone:
            raise DidNotStart(f"a process of ostiary ended while it was measured:\n{started.log_tail()}")
        roles = {Role.GATEWAY: workers, Role.SUPERVISOR: everyone - workers - shipper}
        return {**roles, Role.SHIPPER: shipper} if shipper else roles

    return RunningSide(port, started, pids, admin_port)
