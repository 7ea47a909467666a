"""Requests while the configuration is read anew, again and again."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from benchmarks.contestant import Contestant, Credential, RunningSide
from benchmarks.gateway import start_ostiary, status
from benchmarks.load import LoadFailed, LoadResult
from benchmarks.requests import plain_request
from benchmarks.rig import Rig
from benchmarks.routes import routes_targets, routes_text
from benchmarks.sweeps.loads import by_wrk, repeated
from benchmarks.sweeps.sweep import AxisKind, Case, Load, Run, Sweep

COUNTS = {"10": 10, "100": 100, "1,000": 1000}
SECONDS_BETWEEN = 0.5
# Of a run, so that a reload is in it on a busy machine too: to read a thousand routes takes half a second on a quiet one.
_SECONDS_MIN = {10: 2.0, 100: 2.0, 1000: 5.0}


def _sides(_: Rig) -> Sequence[Contestant]:
    return [
        Contestant(
            f"ostiary-{count}-routes",
            f"Ostiary with {count} routes",
            Credential.UNCHANGING,
            (),
            start_ostiary("ostiary-routes.yaml", routes=routes_text(count)),
        )
        for count in COUNTS.values()
    ]


def while_reloading(load: Load, *, seconds_min: float) -> Load:
    """The same load, with a SIGHUP for the gateway each half second. Its run raises LoadFailed when none came in force."""

    @contextmanager
    def reloading(rig: Rig, side: RunningSide, seconds: float) -> Iterator[Run]:
        with load(rig, side, max(seconds, seconds_min)) as run:
            yield lambda: _run(run, side)

    return reloading


def _run(run: Run, side: RunningSide) -> LoadResult:
    assert side.admin_port is not None  # a gateway's
    before = int(status(side.admin_port)["generation"])
    ended = threading.Event()

    def ask() -> None:
        while True:
            side.started.popen.send_signal(signal.SIGHUP)
            if ended.wait(SECONDS_BETWEEN):
                return

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        result = run()
    finally:
        ended.set()
        asking.join()
    if int(status(side.admin_port)["generation"]) == before:
        raise LoadFailed("no reload came in force while the load ran")
    return result


def _cases() -> Iterator[Case]:
    for point, count in COUNTS.items():
        load = by_wrk(repeated(plain_request(routes_targets(count)[0])))
        side = f"ostiary-{count}-routes"
        yield Case("at rest", point, side, load)
        yield Case("reloading", point, side, while_reloading(load, seconds_min=_SECONDS_MIN[count]))


RELOAD = Sweep(
    "reload",
    "reloads under load",
    "As the scenario `plain`, with 10 to 1 000 routes in the file; and the same while the gateway is told each half second "
    "(SIGHUP) to read its file again, which it does as soon as it is done with the last time. The file is read and checked "
    "in another process; what the worker does for it, between two requests, is in these figures.",
    "routes in the file",
    AxisKind.NAMES,
    _sides,
    tuple(_cases()),
)
