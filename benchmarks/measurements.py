"""Everything that `scripts/bench` can measure, by name: the scenarios, and what is measured in another way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks import latency, many_keys, memory, report, shipping
from benchmarks.contestant import Contestant
from benchmarks.findings import Finding
from benchmarks.load import LoadFailed
from benchmarks.measure import Plan, measure
from benchmarks.scenarios import SCENARIOS, Scenario
from benchmarks.sides import CONTESTANTS

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Measured:
    """What one measurement gives: text for people, a document for programs, and its lines of the table. Not `sound` is one
    in which work was left undone: its figures are no figures."""

    name: str
    text: str
    document: Mapping[str, object]
    findings: tuple[Finding, ...]
    sound: bool = True


@dataclass(frozen=True, slots=True)
class Measurement:
    """`peers` are names of contestants, of which `run` is given those that are to take part."""

    name: str
    peers: tuple[str, ...]
    run: Callable[[Plan, Sequence[Contestant], Say], Measured]


def _scenario(scenario: Scenario) -> Measurement:
    def run(plan: Plan, peers: Sequence[Contestant], say: Say) -> Measured:
        result = measure(scenario, [CONTESTANTS[scenario.subject], *peers], plan, say)
        return Measured(
            scenario.name,
            report.text(result, plan),
            report.document(result),
            report.findings(result),
            sound=result.check is None or result.check.reconciles,
        )

    return Measurement(scenario.name, tuple(scenario.peers()), run)


def _latency(plan: Plan, peers: Sequence[Contestant], say: Say) -> Measured:
    result = latency.measure_latency([CONTESTANTS[latency.SUBJECT], *peers], plan, say)
    return Measured("latency", result.text(), result.document(), result.findings())


def _keys(scenario: Scenario) -> Measurement:
    def run(plan: Plan, peers: Sequence[Contestant], say: Say) -> Measured:
        keys = many_keys.QUICK_KEYS if plan.quick else many_keys.KEYS
        result = many_keys.measure_keys(scenario, keys, plan, say)
        return Measured(scenario.name, report.text(result, plan), report.document(result), report.findings(result))

    return Measurement(scenario.name, (), run)


def _usage(plan: Plan, peers: Sequence[Contestant], say: Say) -> Measured:
    result = shipping.measure_shipping(plan, peers, say)
    return Measured("usage", result.text(), result.document(), result.findings())


def _memory(plan: Plan, peers: Sequence[Contestant], say: Say) -> Measured:
    result = memory.measure_memory(plan, say)
    return Measured("memory", result.text(), result.document(), result.findings())


# In the order of the table's rows.
MEASUREMENTS: Mapping[str, Measurement] = {
    measurement.name: measurement
    for measurement in (
        *(_scenario(SCENARIOS[name]) for name in ("whole-job", "plain", "body", "leased")),
        Measurement("latency", (latency.PEER,), _latency),
        *(_scenario(SCENARIOS[name]) for name in ("routes", "routes-cold")),
        *(_keys(scenario) for scenario in (many_keys.KNOWN, many_keys.CALLED)),
        Measurement("usage", (shipping.PEER,), _usage),
        Measurement("memory", (), _memory),
    )
}


def measured(measurement: Measurement, plan: Plan, peers: Sequence[Contestant], say: Say) -> Measured:
    """Once more, from its beginning, when a run is no result: one refused request among millions, on a machine that does
    something else for a moment, would cost a line of the table. Raises LoadFailed when that is none either, and what else a
    measurement raises."""
    try:
        return measurement.run(plan, peers, say)
    except LoadFailed as error:
        say(f"{measurement.name} once more, because {error}")
        return measurement.run(plan, peers, say)


def peers_of(
    measurement: Measurement, wanted: Sequence[str] | None, there: Mapping[str, Contestant] = CONTESTANTS
) -> list[Contestant]:
    """Those of its peers that are wanted and installed."""
    peers = [there[name] for name in measurement.peers if wanted is None or name in wanted]
    return [peer for peer in peers if not peer.missing()]


def missing_peers(
    measurements: Sequence[Measurement],
    wanted: Sequence[str] | None,
    there: Mapping[str, Contestant] = CONTESTANTS,
) -> dict[str, list[str]]:
    """Peers of these measurements that can't run here, with the commands that bring them."""
    names = dict.fromkeys(name for measurement in measurements for name in measurement.peers)
    return {
        name: list(dict.fromkeys(need.mend for need in there[name].missing()))
        for name in names
        if (wanted is None or name in wanted) and there[name].missing()
    }
