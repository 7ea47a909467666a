"""Runs a sweep: all its sides up at once, all its cases in turn, round after round, as `benchmarks/measure.py` does it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.contestant import RunningSide
from benchmarks.load import LoadFailed
from benchmarks.measure import WARM_UP_SECONDS, Plan, sample_of
from benchmarks.rig import Rig, Role, running_rig
from benchmarks.scenarios import Sample
from benchmarks.sweeps.sweep import Case, Sweep


@dataclass(frozen=True, slots=True)
class SweepResult:
    """The cases that were measured with their samples, in the order of the rounds; those that could not be, with the reason;
    and who is not installed, with the commands that bring it."""

    sweep: Sweep
    samples: Sequence[tuple[Case, Sequence[Sample]]]
    failed: Sequence[tuple[Case, str]]
    missing: Mapping[str, Sequence[str]]


def measure_sweep(sweep: Sweep, plan: Plan, say: Callable[[str], None]) -> SweepResult:
    """`say` gets a line of progress for each step. A case of which one run fails is left out, and the others go on. Raises
    DidNotStart, MissingWheels; whatever is raised, no process is left."""
    with running_rig(with_stores=sweep.with_stores) as rig:
        contestants = sweep.sides(rig)
        missing = {each.name: [need.mend for need in each.missing()] for each in contestants if each.missing()}
        sides = {}
        for contestant in contestants:
            if contestant.name not in missing:
                say(f"starting {contestant.name}")
                sides[contestant.name] = contestant.start(rig)
        samples: dict[Case, list[Sample]] = {case: [] for case in sweep.cases if case.side in sides}
        failed: dict[Case, str] = {}
        cold = set(sides)
        for round_number, case in itertools.product(range(1, plan.runs + 1), samples):
            if case in failed:
                continue
            try:
                if case.side in cold:
                    _loaded(rig, sides[case.side], case, WARM_UP_SECONDS)
                    cold.remove(case.side)
                sample = _loaded(rig, sides[case.side], case, plan.seconds)
            except LoadFailed as error:
                failed[case] = str(error)
                say(f"left out: {case.curve}, {case.point}: {error}")
                continue
            samples[case].append(sample)
            say(
                f"run {round_number} of {plan.runs}: {case.curve}, {case.point}: "
                f"{sample.requests_per_second:,.0f}/s, {sample.cpu_us[Role.GATEWAY]:.1f} µs"
            )
        measured = [(case, runs) for case, runs in samples.items() if case not in failed]
        return SweepResult(sweep, measured, tuple(failed.items()), missing)


def _loaded(rig: Rig, side: RunningSide, case: Case, seconds: float) -> Sample:
    with case.load(rig, side, seconds) as run:
        return sample_of(rig, side, run)
