"""Proof: whoever asks from wherever, no span of a window holds more than its limit, no bucket gives more than its burst and
refill, no quota more in its period, no bound on calls under way is passed; and nearly all of each limit is given.

Four processes with 200 clients ask the limiter of a worker each, one Valkey decides. Then the same over HTTP: 200 clients at
two gateway nodes of two workers each, every decision read off the wire between the nodes and Valkey. Both write each decision
to a log by Redis's clock, which a verifier reads that knows nothing of how the limits are counted."""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ostiary.demo.stores import EmbeddedValkey
from tests.endurance.nodes import HTTP_SUBJECTS, hammer_nodes
from tests.gateway.limits.decision_log import merged
from tests.gateway.limits.hammer import SUBJECTS, hammer
from tests.gateway.limits.verifier import Subject, verify

PROGRESS_SECONDS = 10.0

# A caller that asks for ten times its limit gets at least so much of it: the oldest slot of a window counts whole, and
# between two calls of a client some milliseconds pass.
SHARE_MIN = 0.99
DEMAND_MIN = 10.0


def progress_to(decisions: int) -> Callable[[int], None]:
    """Says every ten seconds how far it is."""
    began = said_at = time.monotonic()

    def say(made: int) -> None:
        nonlocal said_at
        now = time.monotonic()
        if now - said_at >= PROGRESS_SECONDS:
            said_at = now
            print(
                f"  {made / decisions:4.0%}   {made:9} decisions, {made / (now - began):7.0f} a second",
                flush=True,
            )

    return say


def judge(logs: Sequence[Path], subjects: Sequence[Subject]) -> list[str]:
    """Prints a line a subject; what failed."""
    failures = []
    for verdict in verify(merged(logs), subjects):
        print(f"  {verdict.line()}")
        failures += verdict.findings
        if verdict.demand >= DEMAND_MIN and verdict.share < SHARE_MIN:
            failures.append(f"{verdict.subject.name}: only {verdict.share:.2%} of what was due was admitted")
        if not verdict.admitted:
            failures.append(f"{verdict.subject.name}: nothing was admitted")
    return failures


def prove_limiters(directory: Path, decisions: int) -> list[str]:
    directory.mkdir()
    with EmbeddedValkey(directory / "valkey") as valkey:
        hammered = hammer(valkey.url(), directory, decisions=decisions, progress=progress_to(decisions))
    print(f"four limiters, 200 clients: {hammered.asked} decisions in {hammered.seconds:.0f} s", flush=True)
    failures = [f"{hammered.alone} decisions were made without Redis"] if hammered.alone else []
    return failures + judge(hammered.logs, SUBJECTS)


def prove_nodes(directory: Path, calls: int) -> list[str]:
    directory.mkdir()
    with EmbeddedValkey(directory / "valkey") as valkey:
        hammered = hammer_nodes(valkey.port, directory, calls=calls, progress=progress_to(calls))
    print(f"two nodes of two workers, 200 clients: {hammered.answered} calls in {hammered.seconds:.0f} s", flush=True)
    return hammered.failures + judge(hammered.logs, HTTP_SUBJECTS)


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/prove limits", description=__doc__)
    parser.add_argument("--decisions", type=int, default=10_000_000, help="of the limiters (default 10 000 000)")
    parser.add_argument("--calls", type=int, default=300_000, help="over HTTP (default 300 000)")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ostiary-limits-") as directory:
        failures = prove_limiters(Path(directory) / "limiters", chosen.decisions)
        failures += prove_nodes(Path(directory) / "nodes", chosen.calls)
    print(f"memory of the verifier: at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
    for failure in failures:
        print(f"FAILED: {failure}")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
