"""How a load generator of the bench's own speaks with the bench: it says READY, begins at SIGUSR1, and prints a line
`RESULT {…}` as `load.lua` does. Then it keeps what it has open until it is ended, so that the end is in nobody's figures."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass


class Broken(Exception):
    """A connection ended, or an answer is not what it must be."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """`waits` are seconds from when a call was due to its answer, or, of those that have none, to the end."""

    answered: int
    seconds: float
    waits: Sequence[float]


def block_signal() -> None:
    """Before threads are started and before READY is said: else SIGUSR1 would end the program."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})


def generate(run: Callable[[], Outcome]) -> None:
    """Runs once, when it is told to. An Outcome or Broken or OSError is reported."""
    print("READY", flush=True)
    signal.sigwait({signal.SIGUSR1})
    broken, outcome = 0, Outcome(0, 0.0, ())
    try:
        outcome = run()
    except (Broken, OSError) as error:
        broken = 1
        print(error, flush=True)
    waits = sorted(outcome.waits) or [0.0]
    result = {
        "requests": outcome.answered,
        "seconds": outcome.seconds,
        "refused": 0,
        "broken": broken,
        "latency_p50_us": round(waits[len(waits) // 2] * 1e6),
        "latency_p99_us": round(waits[len(waits) * 99 // 100] * 1e6),
    }
    print("RESULT " + json.dumps(result), flush=True)
    signal.pause()
