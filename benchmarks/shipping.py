"""What a row of usage costs one core on its way from the spool to Postgres: scenario `usage`.

`benchmarks/usage.py` measures it: CPU of the shipper and of all processes of Postgres together. It runs as a program of its
own, with the package that is measured; this starts it, tells it when it is its turn, and reads what it says.

Rows per second of a core say as much of the machine as of the code: what a row takes on one is 2.4 times what it takes on
another. So in turn with each run nginx with Lua and Redis does the whole job, as in `whole-job`, and what is asked is a ratio
(decision 0040)."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks.contestant import Contestant
from benchmarks.findings import Bar, Finding, Unit
from benchmarks.gateway import PACKAGE
from benchmarks.load import LoadFailed
from benchmarks.measure import WARM_UP_SECONDS, Plan, probe, requests_for, run_once
from benchmarks.processes import REPOSITORY
from benchmarks.report import sample_document
from benchmarks.rig import Role, running_rig
from benchmarks.scenarios import SCENARIOS, Sample
from benchmarks.statistics import Spread, paired_ratios

ROWS, QUICK_ROWS = 300_000, 20_000
SECONDS_MAX = 180.0  # of a run: some 20 on a slow machine, its rows made included
_END_SECONDS = 30.0

SCENARIO, PEER = SCENARIOS["whole-job"], "nginx-lua"
# 100 000 rows a second (wanted: 200 000) where nginx took 37 to 44 µs a call: 10 and 5 µs of the stricter end, rounded down.
ASKED = Bar(0.22, aim=0.11)


@dataclass(frozen=True, slots=True)
class ShippingResult:
    """What `benchmarks.usage` reported of each run, and the peer's run before each; none without the peer."""

    rows: int
    runs: tuple[dict[str, float], ...]
    calls: tuple[Sample, ...] = ()

    def _us(self, *parts: str) -> Spread:
        return Spread.of([1e6 * sum(run[part] for part in parts) / run["rows"] for run in self.runs])

    @property
    def rows_per_core_second(self) -> Spread:
        return Spread.of([run["rows"] / (run["shipper_seconds"] + run["postgres_seconds"]) for run in self.runs])

    def findings(self) -> tuple[Finding, ...]:
        if not self.calls:
            return ()
        costs = [1e6 * (run["shipper_seconds"] + run["postgres_seconds"]) / run["rows"] for run in self.runs]
        ratios = paired_ratios(costs, [call.cpu_us[Role.GATEWAY] for call in self.calls])
        measure = "usage from spool to Postgres: CPU per row, against a call's of nginx+Lua+Redis"
        return (Finding("8", measure, Unit.RATIO, ASKED, tuple(ratios)),)

    def text(self) -> str:
        rate, shipper, postgres = self.rows_per_core_second, self._us("shipper_seconds"), self._us("postgres_seconds")
        lines = [
            f"usage: from the spool to Postgres\n{len(self.runs)} runs of {self.rows:,} rows",
            f"shipper {shipper.median:.2f} µs, Postgres {postgres.median:.2f} µs a row (medians); "
            f"{rate.median:,.0f} ({rate.least:,.0f}–{rate.most:,.0f}) rows per second of one core of this machine",
        ]
        for finding in self.findings():
            call = Spread.of([call.cpu_us[Role.GATEWAY] for call in self.calls])
            lines.append(
                f"a call of {PEER}, in turn: {call.median:.1f} ({call.least:.1f}–{call.most:.1f}) µs\n"
                f"a row : a call  {' '.join(finding.cells()[2:])}"
            )
        return "\n\n".join(lines)

    def document(self) -> dict[str, object]:
        rate = self.rows_per_core_second
        return {
            "title": "usage from the spool to Postgres",
            "rows": self.rows,
            "runs": list(self.runs),
            "rows_per_core_second": {"min": rate.least, "median": rate.median, "max": rate.most},
            "samples": {PEER: [sample_document(call) for call in self.calls]},
        }


def measure_shipping(plan: Plan, peers: Sequence[Contestant], say: Callable[[str], None]) -> ShippingResult:
    """Raises LoadFailed, DidNotStart, MissingWheels; whatever is raised, no process is left."""
    rows = QUICK_ROWS if plan.quick else ROWS
    runs, calls = [], []
    with _peers_calls(peers, say) as call, _shipping(rows, plan.runs) as ship:
        for number in range(1, plan.runs + 1):
            if call is not None:
                calls.append(call(plan.seconds))
                say(f"run {number} of {plan.runs}: {PEER} {calls[-1].cpu_us[Role.GATEWAY]:.1f} µs a call")
            runs.append(ship())
            spent = runs[-1]["shipper_seconds"] + runs[-1]["postgres_seconds"]
            say(f"run {number} of {plan.runs}: {rows:,} rows, {1e6 * spent / rows:.1f} µs a row")
    return ShippingResult(rows, tuple(runs), tuple(calls))


@contextmanager
def _peers_calls(peers: Sequence[Contestant], say: Callable[[str], None]) -> Iterator[Callable[[float], Sample] | None]:
    """Runs of the peer, each of so many seconds; None without the peer."""
    if not peers:
        yield None
        return
    (peer,) = peers
    with running_rig(with_stores=SCENARIO.with_stores) as rig:
        say(f"starting {peer.name}")
        side = peer.start(rig)
        probe(peer, side.port, SCENARIO)

        def call(seconds: float) -> Sample:
            try:
                return run_once(rig, side, requests_for(peer, SCENARIO, rig, seconds), seconds)
            except LoadFailed as error:
                raise LoadFailed(f"{peer.name}: {error}") from error

        call(WARM_UP_SECONDS)
        yield call


@contextmanager
def _shipping(rows: int, runs: int) -> Iterator[Callable[[], dict[str, float]]]:
    """One Postgres for so many runs, each on its turn."""
    command = [sys.executable, "-P", "-m", "benchmarks.usage", "--json", "--in-turn"]
    # The package that is measured before the benchmarks of this checkout, which has one too.
    environment = {**os.environ, "PYTHONPATH": f"{PACKAGE}{os.pathsep}{REPOSITORY}"}
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            [*command, "--rows", str(rows), "--runs", str(runs)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            bufsize=0,
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        turns, said = process.stdin, process.stdout

        def ship() -> dict[str, float]:
            try:
                turns.write(b"\n")
            except BrokenPipeError:
                pass  # it has ended: it says nothing more, and why is told below
            if not select.select([said], [], [], SECONDS_MAX)[0]:
                raise LoadFailed(f"benchmarks.usage did not end a run within {SECONDS_MAX:.0f} s")
            line = said.readline()
            if not line:
                errors.seek(0)
                message = errors.read()[-2000:].decode(errors="replace")
                raise LoadFailed(f"benchmarks.usage ended with status {process.wait()}:\n{message}")
            run: dict[str, float] = json.loads(line)
            return run

        try:
            yield ship
        finally:
            turns.close()  # which ends it, with its Postgres, once it has done its run
            try:
                process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
