"""How a figure comes about: all sides of a scenario up at once, then rounds of runs.

A round is: empty Redis, wait until the sides are at rest, load them in turns (`turns.py`), wait until they are at rest again.
CPU per request is what a side spent, divided by the requests that the load generator saw answered. `run_once` is a run of one
side by itself, for what is measured otherwise."""

from __future__ import annotations

import http.client
import random
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks import cpu
from benchmarks.checks import JobCheck, check_job
from benchmarks.contestant import Contestant, Credential, RunningSide
from benchmarks.load import LoadFailed, LoadResult, start_load
from benchmarks.processes import OTHER_CORE, PROXY_CORE
from benchmarks.requests import (
    RequestFile,
    bearer_request,
    body_signed_request,
    signed_request,
    unchanging_request,
    write_in_turn,
    write_repeated,
    write_signed,
    write_spread,
)
from benchmarks.rig import Rig, Role, running_rig
from benchmarks.scenarios import Sample, Scenario
from benchmarks.turns import EXTRA_SECONDS, Turns, run_in_turns

# Signed requests are made for this rate. Twice what any side reaches on the machines at hand; one that reaches it ends the
# run with a message that names this constant.
REQUESTS_PER_SECOND_MAX = 60_000
WARM_UP_SECONDS = 1.0

# A side is at rest when it uses less than this share of a core. At rest it takes 0.013, on a slow machine with others a few
# times that; draining a run's usage takes most of one. The deadline is what that may take.
REST_SHARE = 0.1
REST_SECONDS = 60.0
_REST_WINDOW_SECONDS = 0.25

_UNCHANGING: Mapping[Credential, Callable[..., bytes]] = {
    Credential.UNCHANGING: unchanging_request,
    Credential.BODY: body_signed_request,
    Credential.BEARER: lambda target, secret: bearer_request(target, secret),
}
_FORGED = "not the secret of this key"


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to measure. `quick` shows that it works, no more: what has sizes besides takes small ones."""

    runs: int
    seconds: float
    quick: bool = False


@dataclass(frozen=True, slots=True)
class ScenarioResult:
    scenario: Scenario
    titles: Mapping[str, str]  # by contestant, as the others below
    samples: Mapping[str, Sequence[Sample]]  # in the order of the rounds
    check: JobCheck | None  # where the subject meters and limits


def requests_for(contestant: Contestant, scenario: Scenario, rig: Rig, seconds: float) -> RequestFile:
    """The requests of one run. Signed ones are new for every run: a nonce is never seen twice, and all are far from the
    300 s of skew at which they would be refused."""
    path = rig.directory / f"{contestant.name}.requests"
    count = int(seconds * REQUESTS_PER_SECOND_MAX)
    if contestant.secrets is not None:
        requests = [bearer_request(scenario.target, secret) for secret in contestant.secrets()]
        random.shuffle(requests)  # or each run would ask first for what the run before asked for first
        return write_in_turn(path, requests, count)
    if contestant.targets:
        return write_spread(path, contestant.targets, count)
    if contestant.credential is Credential.NONCE:
        return write_signed(path, scenario.target, count)
    return write_repeated(path, _UNCHANGING[contestant.credential](scenario.target))


def measure(
    scenario: Scenario, contestants: Sequence[Contestant], plan: Plan, say: Callable[[str], None]
) -> ScenarioResult:
    """Runs a scenario; `say` gets a line of progress for each step. The first contestant is the subject.

    Raises LoadFailed, DidNotStart, MissingWheels; whatever is raised, no process is left."""
    with running_rig(with_stores=scenario.with_stores) as rig:
        sides: dict[str, RunningSide] = {}
        for contestant in contestants:
            say(f"starting {contestant.name}")
            sides[contestant.name] = contestant.start(rig)
            probe(contestant, sides[contestant.name].port, scenario)
        samples: dict[str, list[Sample]] = {contestant.name: [] for contestant in contestants}
        answered = 0
        for round_number in range(plan.runs + 1):
            warm_up = round_number == 0
            seconds = WARM_UP_SECONDS if warm_up else plan.seconds
            loads = {
                contestant.name: (
                    sides[contestant.name],
                    requests_for(contestant, scenario, rig, seconds + EXTRA_SECONDS),
                )
                for contestant in contestants
            }
            for side, _ in loads.values():
                wait_for_rest(side)
            if rig.stores is not None:
                rig.stores.empty_redis()
            before = {name: spent_by_role(rig, side) for name, (side, _) in loads.items()}
            turns = run_in_turns(rig, loads, seconds)
            for side, _ in loads.values():
                # What a run leaves to do (usage still to be shipped) belongs to its requests, and must not disturb the next.
                wait_for_rest(side)
            after = {name: spent_by_role(rig, side) for name, (side, _) in loads.items()}
            answered += turns[contestants[0].name].load.requests
            for name, sample in samples_of(turns, before, after).items():
                if warm_up:
                    say(f"warmed up {name}")
                    continue
                samples[name].append(sample)
                say(
                    f"run {round_number} of {plan.runs}: {name} "
                    f"{sample.requests_per_second:,.0f} requests/s, {sample.cpu_us[Role.GATEWAY]:.1f} µs"
                )
        titles = {contestant.name: contestant.title for contestant in contestants}
        return ScenarioResult(
            scenario, titles, samples, _check(rig, scenario, sides[contestants[0].name], answered, plan)
        )


def _check(rig: Rig, scenario: Scenario, subject: RunningSide, answered: int, plan: Plan) -> JobCheck | None:
    if rig.stores is None or subject.admin_port is None or not scenario.subject_alone_is_metered:
        return None
    # Besides the load and its warm-up stand the probes: one answered, two refused.
    answered += 1
    # At rest the last segment may still be open: it is sealed a while after its last call.
    deadline = time.monotonic() + REST_SECONDS
    while (rows := rig.stores.usage_rows()) < answered and time.monotonic() < deadline:
        time.sleep(_REST_WINDOW_SECONDS)
    return check_job(
        answered=answered,
        rows=rows,
        runs=plan.runs + 1,
        probes=2,
        admin_port=subject.admin_port,
    )


def samples_of(
    turns: Mapping[str, Turns],
    before: Mapping[str, Mapping[Role, cpu.ThreadTimes]],
    after: Mapping[str, Mapping[Role, cpu.ThreadTimes]],
) -> dict[str, Sample]:
    """Of each side, from what was read before and after the round. What sides share was read by turn; what they have beside
    the gateway works on when their turn is over, so all of it counts. Postgres is worked on by those that meter alone, and
    is divided by their requests."""
    metered = sum(turn.load.requests for name, turn in turns.items() if Role.SHIPPER in after[name])
    samples = {}
    for name, turn in turns.items():
        spent = {role: cpu.seconds_between(before[name][role], times) for role, times in after[name].items()}
        if Role.POSTGRES in spent:
            meters = Role.SHIPPER in spent
            spent[Role.POSTGRES] *= turn.load.requests / metered if meters else 0.0
        spent |= turn.spent_seconds
        busy = turn.proxy_core.busy_share
        samples[name] = Sample(
            requests=turn.load.requests,
            requests_per_second=turn.load.requests / turn.seconds,
            cpu_us={role: spent[role] / turn.load.requests * 1e6 for role in sorted(spent)},
            latency_p50_us=turn.load.latency_p50_us,
            latency_p99_us=turn.load.latency_p99_us,
            proxy_core_busy=busy,
            proxy_core_foreign=max(0.0, busy - turn.spent_seconds[Role.GATEWAY] / turn.seconds),
            other_core_busy=turn.other_core.busy_share,
        )
    return samples


def run_once(rig: Rig, side: RunningSide, requests: RequestFile, seconds: float) -> Sample:
    """One run of one side. Raises LoadFailed."""

    def run() -> LoadResult:
        return start_load(rig.processes, port=side.port, requests=requests, seconds=seconds).to_end()

    return sample_of(rig, side, run)


def sample_of(rig: Rig, side: RunningSide, run: Callable[[], LoadResult]) -> Sample:
    """What the side spent while `run` loaded it, and until it was at rest again. Raises LoadFailed."""
    if rig.stores is not None:
        rig.stores.empty_redis()
    wait_for_rest(side)
    before = spent_by_role(rig, side)
    cores_before = {core: cpu.core_times(core) for core in (PROXY_CORE, OTHER_CORE)}
    began = time.monotonic()
    load = run()
    cores_after = {core: cpu.core_times(core) for core in (PROXY_CORE, OTHER_CORE)}
    whole_seconds = time.monotonic() - began
    gateway_seconds = cpu.seconds_between(before[Role.GATEWAY], spent_by_role(rig, side)[Role.GATEWAY])
    # What a run leaves to do (usage still to be shipped) belongs to its requests, and must not disturb the next run.
    wait_for_rest(side)
    after = spent_by_role(rig, side)
    spent = {role: cpu.seconds_between(before[role], after[role]) for role in after}
    spent[Role.GATEWAY] = gateway_seconds
    proxy_busy = cores_after[PROXY_CORE].busy_share_since(cores_before[PROXY_CORE])
    return Sample(
        requests=load.requests,
        requests_per_second=load.requests_per_second,
        cpu_us={role: spent[role] / load.requests * 1e6 for role in sorted(spent)},
        latency_p50_us=load.latency_p50_us,
        latency_p99_us=load.latency_p99_us,
        proxy_core_busy=proxy_busy,
        proxy_core_foreign=max(0.0, proxy_busy - gateway_seconds / whole_seconds),
        other_core_busy=cores_after[OTHER_CORE].busy_share_since(cores_before[OTHER_CORE]),
    )


def spent_by_role(rig: Rig, side: RunningSide) -> dict[Role, cpu.ThreadTimes]:
    """What the processes of each role have spent until now. Looked up anew each time: Postgres starts a process for each
    connection, and a connection may be made in the middle of a run."""
    return {role: cpu.thread_times(pids) for role, pids in {**rig.pids(), **side.pids()}.items()}


def wait_for_rest(side: RunningSide) -> None:
    """Returns when the side's own processes do next to nothing. Raises LoadFailed, with what each role still does, when they
    never do."""
    deadline = time.monotonic() + REST_SECONDS
    while True:
        before = {role: cpu.thread_times(pids) for role, pids in side.pids().items()}
        began = time.monotonic()
        time.sleep(_REST_WINDOW_SECONDS)
        after = {role: cpu.thread_times(pids) for role, pids in side.pids().items()}
        seconds = time.monotonic() - began
        shares = {role: cpu.seconds_between(before.get(role, {}), times) / seconds for role, times in after.items()}
        if sum(shares.values()) < REST_SHARE:
            return
        if time.monotonic() > deadline:
            doing = ", ".join(f"{role} {share:.3f}" for role, share in shares.items())
            raise LoadFailed(
                f"{side.started.name} is still busy {REST_SECONDS:.0f} s after its load has ended; of a core: {doing}"
            )


def probe(contestant: Contestant, port: int, scenario: Scenario) -> None:
    """That the side does what it is measured for: a good request is answered, and where credentials are checked a forged
    one is not, nor a replayed one where there is a nonce. Raises LoadFailed."""
    target = contestant.targets[0] if contestant.targets else scenario.target
    if contestant.credential is Credential.NONCE:
        now, nonce = int(time.time()), f"probe{time.monotonic_ns():020}"
        good = signed_request(target, timestamp=now, nonce=nonce)
        forged = signed_request(target, timestamp=now, nonce=nonce + "f", secret=_FORGED)
        expected = [("a good request", good, 200), ("its replay", good, 401), ("a forged request", forged, 401)]
    else:
        signed = _UNCHANGING[contestant.credential]
        good = bearer_request(target, contestant.secrets()[0]) if contestant.secrets is not None else signed(target)
        expected = [("a good request", good, 200)]
        if scenario.with_stores:
            expected.append(("a forged request", signed(target, secret=_FORGED), 401))
    for what, request, status in expected:
        answer, length = exchange(port, request)
        if answer != status or (status == 200 and length != scenario.answer_bytes):
            raise LoadFailed(f"{contestant.name} answered {what} with {answer} and {length} bytes, not {status}")


def exchange(port: int, request: bytes) -> tuple[int, int]:
    """Sends one request to 127.0.0.1; returns the status and the length of the answer's body."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request)
        with http.client.HTTPResponse(connection) as answer:
            answer.begin()
            return answer.status, len(answer.read())
