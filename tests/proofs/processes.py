"""Proof: no call that was let in fails while the gateway ends, restarts, reloads and loses workers, over and over.

Runs `ostiary gateway` with two workers before an origin of its own, under a steady load on new connections and kept ones."""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

from tests.proofs._program import conclude
from tests.support.gateway_process import GatewayProcess, eventually
from tests.support.load import Load
from tests.support.plain_gateway import CONFIGURATION, origin, running


def prove_drains(path: Path, rounds: int) -> list[str]:
    """SIGTERM under load: all calls let in are answered, readiness is red first, exit status 0."""
    failures, answered = [], 0
    for _ in range(rounds):
        with running(path) as gateway:
            load = Load(gateway.port)
            load.wait_until_answered(100)
            gateway.admin("/readyz")
            gateway.signal(signal.SIGTERM)
            gateway.wait_for_log("draining")
            if gateway.admin("/readyz")[0] != 503 or load.refused_at is not None:
                failures.append("readiness was not red before the port closed")
            if (status := gateway.wait()) != 0:
                failures.append(f"exit status {status}")
            load.join()
            failures += load.failures
            answered += load.answered
    print(f"drains under load        {rounds:5}   calls {answered:7}   failed {len(failures)}")
    return failures


# A quiet machine takes two; the bound is for one that does much else.
ROLL_SECONDS = 120.0


def loads_of(gateway: GatewayProcess) -> list[Load]:
    """Clients of both kinds: every call on a new connection, and one connection for as long as it is kept."""
    loads = [Load(gateway.port, clients=2), Load(gateway.port, clients=2, keep=True)]
    for load in loads:
        load.wait_until_answered(50)
    return loads


def stopped(loads: list[Load]) -> tuple[int, list[str]]:
    """(calls answered, what failed)"""
    for load in loads:
        load.stop()
    refused = ["a connection was refused" for load in loads if load.refused_at is not None]
    return sum(load.answered for load in loads), [failure for load in loads for failure in load.failures] + refused


def prove_rolls(path: Path, rounds: int) -> list[str]:
    """Rolling restarts under load: no call fails, and the gateway stays the same process and ready."""
    with running(path) as gateway:
        loads = loads_of(gateway)
        failures, seconds, resident = [], [], []
        for number in range(rounds):
            began = time.monotonic()
            gateway.signal(signal.SIGUSR2)
            # From the log: between two programs /status waits, on a machine that is busy for seconds.
            eventually(partial(has_rolled, gateway, number + 1), f"rolling restart {number + 1}", ROLL_SECONDS)
            seconds.append(time.monotonic() - began)
            resident.append(sum(map(resident_bytes, [gateway.process.pid, *gateway.worker_pids()])))
            if gateway.admin("/readyz")[0] != 200:
                failures.append(f"not ready after rolling restart {number + 1}")
            for load in loads:
                load.wait_until_answered(10)
        closes = loads[1].closes
        answered, failed = stopped(loads)
        failures += failed
        failures += [str(line) for line in gateway.logged("process_ended")]
    print(
        f"rolling restarts         {rounds:5}   calls {answered:7}   failed {len(failures)}   told to close {closes}   "
        f"each {statistics.median(seconds):.1f} s (at most {max(seconds):.1f})   memory {resident[-1] / resident[0] - 1:+.1%}"
    )
    return failures


def prove_reloads(path: Path, rounds: int, text: str) -> list[str]:
    """Reloads under load, every eleventh invalid: no call fails, no process is replaced, memory does not grow."""
    with running(path) as gateway:
        loads = loads_of(gateway)
        resident = []
        for number in range(rounds):
            # A route that only this version has: what belongs to it must go with it.
            path.write_text(text.replace("all-0", f"all-{number}"))
            gateway.signal(signal.SIGHUP)
            # Not from the log, which leaves lines out of so many in a second.
            eventually(partial(is_in_force, gateway, number + 2), f"generation {number + 2}")
            if number % 10 == 9:
                path.write_text(text.replace("upstream: origin", "upstream: nowhere"))
                gateway.signal(signal.SIGHUP)
                eventually(partial(was_refused, gateway), f"refusal after generation {number + 2}")
            if number in (rounds // 10, rounds - 1):
                resident.append(sum(map(resident_bytes, gateway.worker_pids())))
        path.write_text(text)
        answered, failures = stopped(loads)
        failures += [str(line) for line in gateway.logged("process_ended")]
        if len({load.closes for load in loads} | {0}) > 1:
            failures.append("a kept connection was closed")
        growth = resident[-1] / resident[0] - 1
        if growth > 0.05:
            failures.append(f"memory grew by {growth:.1%}")
    print(
        f"reloads under load       {rounds:5}   invalid {rounds // 10}   calls {answered:7}   failed {len(failures)}   "
        f"memory {growth:+.1%}"
    )
    return failures


def prove_replacements(path: Path, rounds: int) -> list[str]:
    """kill -9 of a worker under load: at most the calls in flight fail, and another one serves within a second."""
    with running(path) as gateway:
        load = Load(gateway.port)
        seconds = []
        for number in range(rounds):
            # Ten seconds of life, and the deaths before are forgotten: this is about single deaths, not a crash loop.
            time.sleep(10.5)
            victim = gateway.worker_pids()[number % 2]
            killed_at = time.monotonic()
            os.kill(victim, signal.SIGKILL)
            gateway.wait_for_workers(without=victim)
            seconds.append(time.monotonic() - killed_at)
        load.stop()
    failures = [f"replaced after {each:.2f} s" for each in seconds if each > 1]
    # Each client has one call in flight at a time.
    if len(load.failures) > 4 * rounds:
        failures += load.failures
    print(
        f"kills under load         {rounds:5}   calls {load.answered:7}   cut {len(load.failures)}   "
        f"replaced after {statistics.median(seconds):.2f} s (at most {max(seconds):.2f})"
    )
    return failures


def has_rolled(gateway: GatewayProcess, times: int) -> bool:
    return len(gateway.logged("rolled")) == times


def was_refused(gateway: GatewayProcess) -> bool:
    return bool(gateway.status()["last_reload"]["result"] == "refused")


def is_in_force(gateway: GatewayProcess, generation: int) -> bool:
    return bool(gateway.status()["generation"] == generation)


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/prove processes", description=__doc__)
    parser.add_argument("--drains", type=int, default=100, help="SIGTERMs under load (default 100, about 8 minutes)")
    parser.add_argument("--rolls", type=int, default=100, help="rolling restarts under load (default 100, 5 minutes)")
    parser.add_argument(
        "--reloads",
        type=int,
        default=1000,
        help="valid reloads, and a tenth as many invalid (default 1000, 3 minutes)",
    )
    parser.add_argument("--kills", type=int, default=20, help="workers killed under load (default 20, 4 minutes)")
    chosen = parser.parse_args()
    failures = []
    with tempfile.TemporaryDirectory() as directory, origin() as port:
        path = Path(directory) / "gateway.yaml"
        text = CONFIGURATION.format(origin=port, number=0)
        path.write_text(text)
        if chosen.drains:
            failures += prove_drains(path, chosen.drains)
        if chosen.rolls:
            failures += prove_rolls(path, chosen.rolls)
        if chosen.reloads:
            failures += prove_reloads(path, chosen.reloads, text)
        if chosen.kills:
            failures += prove_replacements(path, chosen.kills)
    conclude(failures)


if __name__ == "__main__":
    main()
