"""Ostiary itself as a side: started as an operator does, its processes told apart by what it says of them."""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks import cpu
from benchmarks.contestant import RunningSide
from benchmarks.processes import OTHER_CORE, PROXY_CORE, READY_SECONDS, REPOSITORY, DidNotStart, Started, free_port
from benchmarks.rendering import render_file
from benchmarks.requests import SECRET
from benchmarks.rig import Rig, Role

# The package that is measured: `scripts/bench` names a compiled copy (scripts/compile), else this checkout as it is.
PACKAGE = Path(os.environ.get("OSTIARY_BENCH_PACKAGE", REPOSITORY)).resolve()  # processes start elsewhere
COMPILED = any((PACKAGE / "ostiary").rglob("*.so"))
_OSTIARY = (sys.executable, "-P", "-m", "ostiary")
_ENVIRONMENT = {"PYTHONPATH": str(PACKAGE), "BENCH_KEY_SECRET": SECRET}
_MIGRATION_SECONDS = 60.0
# Of places that some templates have.
_DEFAULTS: Mapping[str, object] = {"workers": 1, "tls": ""}


def build() -> str:
    """How the measured package was built."""
    return "compiled" if COMPILED else "interpreted"


def start_ostiary(template: str, **values: object) -> Callable[[Rig], RunningSide]:
    """Starts a gateway with the configuration `peers/<template>`, and `values` where it has places for more than the rig
    knows; the database, where it has one, is migrated first. The start raises DidNotStart."""
    return start_prepared(template, lambda rig: None, **values)


def start_prepared(template: str, prepare: Callable[[Rig], None], **values: object) -> Callable[[Rig], RunningSide]:
    """As `start_ostiary`; between migration and start comes `prepare`."""

    def start(rig: Rig) -> RunningSide:
        port, admin_port = free_port(), free_port()
        all_values = rig.values(port=port, admin_port=admin_port, **{**_DEFAULTS, **values})
        # A file of its own: a gateway follows what becomes of its file, also where another side has the same template.
        configuration = render_file(template, rig.directory, all_values, prefix=f"{port}-")
        if rig.stores is not None and rig.stores.postgres_url in configuration.read_text():
            _migrate(rig, configuration)
        prepare(rig)
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


def _move(pid: int, core: int) -> None:
    for _, thread in cpu.thread_times([pid]):
        os.sched_setaffinity(thread, {core})


def _ready(started: Started, port: int, admin_port: int) -> RunningSide:
    """Waits until the gateway is ready, and leaves the proxy's core to its worker, as every side has it to itself. A second
    worker shares the other core with everything else."""
    deadline = time.monotonic() + READY_SECONDS
    while not (said := status(admin_port))["ready"]:
        if time.monotonic() > deadline:
            raise DidNotStart(f"ostiary is not ready after {READY_SECONDS:.0f} s:\n{started.log_tail()}")
        time.sleep(0.05)
    workers = frozenset(int(worker["pid"]) for worker in said["workers"])
    shipper = frozenset({int(said["shipper"]["pid"])} if said["shipper"] else ())
    cores = itertools.cycle((PROXY_CORE, OTHER_CORE))
    for pid in sorted(workers):
        _move(pid, next(cores))
    for pid in cpu.descendants(started.pid) - workers:
        _move(pid, OTHER_CORE)

    def pids() -> dict[Role, frozenset[int]]:
        everyone = cpu.descendants(started.pid)
        if not workers | shipper <= everyone:
            raise DidNotStart(f"a process of ostiary ended while it was measured:\n{started.log_tail()}")
        roles = {Role.GATEWAY: workers, Role.SUPERVISOR: everyone - workers - shipper}
        return {**roles, Role.SHIPPER: shipper} if shipper else roles

    return RunningSide(port, started, pids, admin_port)
