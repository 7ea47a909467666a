"""Proof: Postgres away under load, for as long as you say: stopped at once and started again, frozen, and both again while
the spool is drained. No call is lost, none counted twice, none refused, and callers can't tell: their p99 changes by at most
5 %.

Two gateways get the same load at the same time, each with a Postgres of its own; one of these goes away. What other work on
the machine does to callers it does to both, so the p99 of the one is told as a multiple of that of the other, and that
multiple while Postgres is away is held against the one while it was there, before and after it."""

from __future__ import annotations

import argparse
import random
import time
from array import array
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ostiary.demo.stores import EmbeddedPostgres, EmbeddedValkey
from tests.endurance.callers import Callers, broken
from tests.endurance.origin import OriginProcess, running_origin
from tests.endurance.postgres_faults import frozen, stopped
from tests.endurance.site import Site, fresh_database, stream
from tests.support.directories import directory_for_all
from tests.support.gateway_process import GatewayProcess, eventually, wait_seconds
from tests.support.samples import samples

CHANGE_MAX = 0.05
PROCESSES, CONNECTIONS, PAUSE_SECONDS = 2, 5, 0.02  # some 450 calls a second at each gateway
ROUND_SECONDS = 20.0  # after each its calls are judged, and of them no more remembered than id and seconds
INTERRUPTIONS = 10  # of the draining
DRAIN_SECONDS = 300.0
NAMES = ("away", "there")


@dataclass
class Phase:
    """A while of the load: the seconds of each call at each gateway."""

    name: str
    seconds: dict[str, array[float]] = field(default_factory=lambda: {name: array("d") for name in NAMES})

    def p(self, name: str, share: float) -> float:
        """In ms."""
        found = sorted(self.seconds[name])
        return found[int(len(found) * share)] * 1000

    @property
    def ratio(self) -> float:
        return self.p("away", 0.99) / self.p("there", 0.99)

    def __str__(self) -> str:
        calls = len(self.seconds["away"])
        figures = ", ".join(f"{name} p50 {self.p(name, 0.5):.2f} p99 {self.p(name, 0.99):.2f} ms" for name in NAMES)
        return f"{self.name:22} {calls:8} calls: {figures}, p99 x {self.ratio:.3f}"


class Load:
    """The same load at both gateways, in rounds. `answered` are the ids of the calls at the one whose Postgres goes away."""

    def __init__(self, callers: Callers, sites: dict[str, Site], gateways: dict[str, GatewayProcess]) -> None:
        self._callers = callers
        self._streams = [
            stream(
                name,
                gateways[name],
                "open",
                sites[name].bearer("key_roomy"),
                connections=CONNECTIONS,
                pause_seconds=PAUSE_SECONDS,
            )
            for name in NAMES
        ]
        self.answered: dict[str, list[str]] = {name: [] for name in NAMES}
        self.failures: list[str] = []

    def run(self, phase: Phase, seconds: float) -> None:
        """Adds to the phase what the calls of so many seconds took."""
        ends = time.monotonic() + seconds
        while (left := ends - time.monotonic()) > 0:
            with self.round(phase):
                wait_seconds(min(left, ROUND_SECONDS))

    @contextmanager
    def round(self, phase: Phase) -> Iterator[None]:
        """The load goes on until its end."""
        self._callers.start(self._streams)
        try:
            yield
        finally:
            calls = self._callers.stop()
            self.failures += [f"{phase.name}: not answered: {call}" for call in broken(calls)]
            self.failures += [f"{phase.name}: {call}" for call in calls if call.status not in (0, 200)]
            for call in calls:
                self.answered[call.stream].append(call.request_id)
                phase.seconds[call.stream].append(call.seconds)


def waiting(gateway: GatewayProcess) -> int:
    """Calls that were accepted and are not in Postgres yet."""
    total: dict[str, float] = {}
    for (name, _), value in samples(gateway.admin("/metrics")[1]).items():
        total[name] = total.get(name, 0) + value
    return int(total["usage_events_accepted_total"] - total.get("usage_events_written_total", 0))


def prove(directory: Path, minutes: float) -> list[str]:
    """What failed. Prints the figures."""
    with ExitStack() as stack:
        servers = {name: stack.enter_context(EmbeddedPostgres(directory / f"postgres-{name}")) for name in NAMES}
        valkey = stack.enter_context(EmbeddedValkey(directory / "valkey"))
        sites: dict[str, Site] = {}
        origins: dict[str, OriginProcess] = {}
        for name in NAMES:
            (directory / name).mkdir(mode=0o711)
            origins[name] = stack.enter_context(running_origin(directory / name))
            sites[name] = Site(
                directory / name,
                postgres=fresh_database(servers[name]),
                redis=valkey.url(),
                origin_port=origins[name].port,
                workers=1,
            )
        gateways = {name: stack.enter_context(sites[name].gateway()) for name in NAMES}
        callers = Callers(PROCESSES)
        stack.callback(callers.close)
        load = Load(callers, sites, gateways)
        calm, phases = _phases(load, gateways["away"], servers["away"], minutes * 60)
        failures = load.failures + _judge_times(calm, phases)
        for name in NAMES:
            failures += [
                f"{name}: {failure}" for failure in _judge_rows(sites[name], origins[name], load.answered[name])
            ]
    return failures


def _phases(
    load: Load, gateway: GatewayProcess, postgres: EmbeddedPostgres, away_seconds: float
) -> tuple[Phase, list[Phase]]:
    """With Postgres there, before and after; and each while it was not."""
    calm_seconds = max(30.0, away_seconds / 8)
    load.run(Phase("to warm up"), 10)
    calm = Phase("there")
    load.run(calm, calm_seconds)
    print(calm, flush=True)
    phases = []
    for name, fault in (("stopped", stopped), ("frozen", frozen)):
        phase = Phase(name)
        began = waiting(gateway)
        with fault(postgres):
            load.run(phase, away_seconds / 2)
            arrived = waiting(gateway) - began
        phases.append(phase)
        print(f"{phase}, {arrived} calls in the spool", flush=True)
        phases.append(_drained(load, gateway, postgres, name))
    load.run(calm, calm_seconds)
    print(f"before and after: {calm}", flush=True)
    return calm, phases


def _drained(load: Load, gateway: GatewayProcess, postgres: EmbeddedPostgres, after: str) -> Phase:
    """Until the spool is empty, under load and with Postgres going away again and again while it takes what is there."""
    chance = random.Random()
    phase = Phase(f"drained after {after}")
    behind, began = waiting(gateway), time.monotonic()
    with load.round(phase):
        for number in range(INTERRUPTIONS):
            wait_seconds(chance.uniform(0.05, 0.6))
            with stopped(postgres) if number % 2 else frozen(postgres):
                wait_seconds(chance.uniform(0.05, 0.5))
        try:
            eventually(lambda: waiting(gateway) < 2000, "the spool is drained", DRAIN_SECONDS)
        except AssertionError:
            load.failures.append(
                f"not drained, {waiting(gateway)} left; the gateway said:\n{''.join(gateway.text[-20:])}"
            )
        seconds = time.monotonic() - began
    print(f"{phase}, {behind} behind, {seconds:.1f} s with {INTERRUPTIONS} interruptions", flush=True)
    return phase


def _judge_times(calm: Phase, phases: list[Phase]) -> list[str]:
    failures = []
    for phase in phases:
        if phase.name.startswith("drained"):
            continue  # seconds, in which the server starts ten times on the callers' processors: told, not judged
        change = phase.ratio / calm.ratio - 1
        print(f"{phase.name}: the p99 is {change:+.1%} of what it is with Postgres there")
        if change > CHANGE_MAX:
            failures.append(f"{phase.name}: the p99 changed by {change:+.1%}")
    return failures


def _judge_rows(site: Site, origin: OriginProcess, answered: list[str]) -> list[str]:
    failures = []
    try:
        site.assert_each_once(answered, set(answered))
    except AssertionError as error:
        failures.append(str(error))
    rows = site.rows(answered)
    arrivals = origin.arrivals()
    if rows.keys() ^ arrivals.keys():
        failures.append(f"{len(rows.keys() ^ arrivals.keys())} calls are in Postgres or in the origin's log alone")
    print(f"answered {len(answered)}, at the origin {len(arrivals)}, rows {rows.total()} of {len(rows)} ids")
    books = site.reconcile(seconds=600)
    return failures if books.returncode == 0 else [*failures, books.stdout + books.stderr]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="scripts/prove outage", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30, help="for which Postgres is away (default 30)")
    chosen = parser.parse_args()
    with directory_for_all() as directory:
        failures = prove(directory, chosen.minutes)
    for failure in failures[:20]:
        print(f"FAILED: {failure}")
    raise SystemExit(1 if failures else 0)


if __name__ == "__main__":
    main()
