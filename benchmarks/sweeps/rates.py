"""Latency against the rate that is offered, up to where it can't be had."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.contestant import Contestant
from benchmarks.requests import unchanging_request
from benchmarks.rig import Rig
from benchmarks.scenarios import SCENARIOS
from benchmarks.sides import CONTESTANTS
from benchmarks.sweeps.loads import by_wrk, repeated, signed
from benchmarks.sweeps.sweep import AxisKind, Case, Sweep

RATES = (1000, 4000, 8000, 12_000, 16_000, 20_000, 26_000)
CONNECTIONS = 256
_TARGET = SCENARIOS["whole-job"].target
_WRITINGS = {
    "Ostiary": ("ostiary", signed(_TARGET)),
    "nginx+Lua+Redis": ("nginx-lua", repeated(unchanging_request(_TARGET))),
}


def _sides(_: Rig) -> Sequence[Contestant]:
    return [CONTESTANTS[side] for side, _ in _WRITINGS.values()]


def _cases() -> Iterator[Case]:
    for rate in RATES:
        for curve, (side, writing) in _WRITINGS.items():
            load = by_wrk(writing, connections=CONNECTIONS, think_ms=1000 * CONNECTIONS / rate)
            yield Case(curve, f"{rate:,}", side, load, number=rate)


LATENCY = Sweep(
    "latency",
    "latency against offered rate",
    f"The whole job, by {CONNECTIONS} callers who think between their calls, at random, so long that together they offer the "
    "rate. Where less is reached than offered, a gateway (or the core of load generator, upstream and Redis) can do no more, "
    "and what grows is the wait. nginx checks neither time nor nonce.",
    "offered, requests a second",
    AxisKind.NUMBERS,
    _sides,
    tuple(_cases()),
    with_stores=True,
)
