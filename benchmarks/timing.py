"""What one call costs: CPU of this thread, over batches long enough for the clock."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

from benchmarks.statistics import Spread

BATCH_SECONDS = 0.05  # a thousand times what reading the clock takes
BATCHES = 9


def cost_us(call: Callable[[], object], *, batch_seconds: float = BATCH_SECONDS, batches: int = BATCHES) -> Spread:
    """Microseconds of CPU a call, over so many batches of calls. The loop around it, some 0.02 µs, is in the figure.

    CPU and not time on the wall: on a machine that others use as well a batch is interrupted, and the wall clock counts
    that too. The collector rests, so that a batch does not pay for what an earlier one left behind."""
    calls = 1
    while (spent := _batch(call, calls)) < batch_seconds / 4:
        calls *= 2
    calls = max(1, int(calls * batch_seconds / spent))
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        return Spread.of([_batch(call, calls) / calls * 1e6 for _ in range(batches)])
    finally:
        if enabled:
            gc.enable()


def interpreter_us() -> float:
    """What a few lines of plain Python cost here: the mark by which results of two interpreters can be compared. How a
    CPython was built (profile-guided or not) moves it, and all of Ostiary's figures, by half and more; no build says so."""

    def lines() -> None:
        values: dict[bytes, bytes] = {}
        for number in range(16):
            name, _, value = (b"X-Header-%d: a value" % number).partition(b":")
            values[name.lower()] = value.strip(b" ")

    return cost_us(lines, batch_seconds=0.02, batches=5).least


def _batch(call: Callable[[], object], calls: int) -> float:
    numbers = range(calls)
    began = time.thread_time()
    for _ in numbers:
        call()
    return time.thread_time() - began
