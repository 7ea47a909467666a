"""The latency that a gateway adds, under a load that it can take: the whole job at half of the highest rate.

At its highest rate a latency tells how many connections wait, and nothing else. So the highest rate of each gateway is found
first, as in `whole-job`; then all sides are loaded at one rate, half of what the slowest of them reached. The same rate for
all, because a latency at twice the rate is another question; of the slowest, because past half of its own a gateway's queue
would be measured. Where the load generator's core sets the pace it is less than half for all, and alike.

The load is one of independent callers (`paced.py`): calls are due at random times, whether or not those before are answered,
and a call's time runs from when it was due. So a gateway that stalls is asked all that it would have been asked, and all of
it counts. (Connections that wait for it would send nothing meanwhile, and the stall would count once: coordinated omission.)

Added is the p99 through the gateway less the p99 of the same load straight at the upstream, in the same round.

Shipper and Postgres share the core of the load generator, the upstream and Redis, and no peer has them. Here, as for the CPU
of `whole-job`, a gateway is compared by what it does itself: for the row of the table the shipper is stopped while the calls
are made, and ships their usage when they are over. The same with the shipper at work is measured too, and shown beside."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks.contestant import Contestant, Credential, RunningSide
from benchmarks.findings import Bar, Finding, Unit
from benchmarks.load import LoadFailed, LoadResult, paced_load
from benchmarks.measure import WARM_UP_SECONDS, Plan, probe, requests_for, run_once, sample_of
from benchmarks.paced import Pace
from benchmarks.report import sample_document, table
from benchmarks.rig import SMALL_ANSWER_BYTES, Rig, Role, running_rig
from benchmarks.scenarios import SCENARIOS, Sample
from benchmarks.statistics import Spread

SCENARIO = SCENARIOS["whole-job"]
SUBJECT, PEER, DIRECT = "ostiary", "nginx-lua", "upstream"
# The subject once more, with its shipper at work meanwhile.
SHIPPING = "ostiary, shipping"
# A supervisor takes a child for hung that has said nothing for 7.5 s.
SECONDS_MAX = 5.0
# Enough that a call that is due finds one free, also behind a stall of some 20 ms.
CONNECTIONS = 256
SHARE_OF_HIGHEST = 0.5
# As many runs at full load find the highest rate; the best of them counts.
FULL_RUNS = 2
# Below this an added latency is a matter of the load generator, and no ratio is taken of it.
GRAIN_US = 10.0


@dataclass(frozen=True, slots=True)
class LatencyResult:
    """`highest` is requests/s at full load by gateway, `rate` what each side was sent. `samples` has the upstream too, and
    the subject once more as SHIPPING."""

    highest: Mapping[str, float]
    rate: float
    samples: Mapping[str, Sequence[Sample]]

    def added_p99_us(self, name: str) -> list[float]:
        return [
            float(through.latency_p99_us - direct.latency_p99_us)
            for through, direct in zip(self.samples[name], self.samples[DIRECT], strict=True)
        ]

    def ratios(self) -> tuple[float, ...]:
        """Added by Ostiary : added by the peer, round by round; empty without the peer."""
        if PEER not in self.samples:
            return ()
        sides = zip(self.added_p99_us(SUBJECT), self.added_p99_us(PEER), strict=True)
        return tuple(max(GRAIN_US, mine) / max(GRAIN_US, theirs) for mine, theirs in sides)

    def findings(self) -> tuple[Finding, ...]:
        if not (ratios := self.ratios()):
            return ()
        measure = f"{SCENARIO.short}, added latency at half of the highest rate: p99, against nginx+Lua+Redis"
        return (Finding("6", measure, Unit.RATIO, Bar(1.5, aim=1.0), ratios),)

    def text(self) -> str:
        rows = [["", "at most/s", "requests/s", "p50 µs", "p99 µs", "added p99 µs"]]
        for name, runs in self.samples.items():
            rows.append(
                [
                    name,
                    f"{self.highest[name]:,.0f}" if name in self.highest else "",
                    _spread([run.requests_per_second for run in runs]),
                    _spread([run.latency_p50_us for run in runs]),
                    _spread([run.latency_p99_us for run in runs]),
                    _spread(self.added_p99_us(name)) if name != DIRECT else "",
                ]
            )
        heading = f"latency: the whole job at {self.rate:,.0f} requests/s, {CONNECTIONS} connections"
        lines = [finding.cells() for finding in self.findings()]
        ratio = "\n".join(f"added p99, {SUBJECT} : {PEER}  {' '.join(cells[2:])}" for cells in lines)
        return "\n\n".join(part for part in (heading, table(rows), ratio) if part)

    def document(self) -> dict[str, object]:
        return {
            "title": "the whole job, at half of the highest rate",
            "highest_per_second": dict(self.highest),
            "rate_per_second": self.rate,
            "connections": CONNECTIONS,
            "samples": {name: [sample_document(sample) for sample in runs] for name, runs in self.samples.items()},
            "added_p99_us": {name: self.added_p99_us(name) for name in self.samples if name != DIRECT},
        }


def measure_latency(contestants: Sequence[Contestant], plan: Plan, say: Callable[[str], None]) -> LatencyResult:
    """Raises LoadFailed, DidNotStart, MissingWheels; whatever is raised, no process is left."""
    with running_rig(with_stores=True) as rig:
        sides: dict[str, RunningSide] = {}
        for contestant in contestants:
            say(f"starting {contestant.name}")
            sides[contestant.name] = contestant.start(rig)
            probe(contestant, sides[contestant.name].port, SCENARIO)
        highest = {each.name: _highest_rate(rig, each, sides[each.name], plan, say) for each in contestants}
        rate = SHARE_OF_HIGHEST * min(highest.values())
        upstream, seconds = _upstream(rig), min(plan.seconds, SECONDS_MAX)
        sides[DIRECT] = upstream.start(rig)
        turns = [(each.name, each, True) for each in (upstream, *contestants)]
        turns.append((SHIPPING, contestants[0], False))
        samples: dict[str, list[Sample]] = {name: [] for name, _, _ in turns}
        for number in range(1, plan.runs + 1):
            for name, contestant, held in turns:
                sample = _at_rate(rig, contestant, sides[contestant.name], rate, seconds, hold_shipper=held)
                samples[name].append(sample)
                say(
                    f"run {number} of {plan.runs}: {name} "
                    f"{sample.requests_per_second:,.0f} requests/s, p99 {sample.latency_p99_us} µs"
                )
        return LatencyResult(highest, rate, samples)


def _highest_rate(rig: Rig, contestant: Contestant, side: RunningSide, plan: Plan, say: Callable[[str], None]) -> float:
    rates = []
    for seconds in (WARM_UP_SECONDS, *[plan.seconds] * FULL_RUNS):
        try:
            sample = run_once(rig, side, requests_for(contestant, SCENARIO, rig, seconds), seconds)
        except LoadFailed as error:
            raise LoadFailed(f"{contestant.name}: {error}") from error
        rates.append(sample.requests_per_second)
    say(f"{contestant.name}: at most {max(rates):,.0f} requests/s")
    return max(rates)


def _at_rate(
    rig: Rig, contestant: Contestant, side: RunningSide, rate: float, seconds: float, *, hold_shipper: bool
) -> Sample:
    requests = requests_for(contestant, SCENARIO, rig, seconds)

    pace = Pace(
        port=side.port,
        connections=CONNECTIONS,
        seconds=seconds,
        per_second=rate,
        requests=str(requests.path),
        request_bytes=requests.request_bytes,
        answer_bytes=SMALL_ANSWER_BYTES,
    )
    try:
        with paced_load(rig.processes, pace) as run:

            def run_alone() -> LoadResult:
                with _stopped(side.pids().get(Role.SHIPPER, frozenset()) if hold_shipper else frozenset()):
                    return run()

            return sample_of(rig, side, run_alone)
    except LoadFailed as error:
        raise LoadFailed(f"{contestant.name}: {error}") from error


@contextmanager
def _stopped(pids: Collection[int]) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def _upstream(rig: Rig) -> Contestant:
    """The upstream without a gateway. It looks at no signature."""
    pids = {Role.GATEWAY: frozenset({rig.upstream.pid}), Role.UPSTREAM: frozenset[int]()}
    side = RunningSide(rig.upstream_port, rig.upstream, lambda: pids)
    return Contestant(DIRECT, "the upstream itself", Credential.UNCHANGING, (), lambda _: side)


def _spread(values: Sequence[float]) -> str:
    spread = Spread.of(values)
    return f"{spread.median:,.0f} ({spread.least:,.0f}–{spread.most:,.0f})"
