"""The decision: under a given pressure, how long may a call have waited and still be let in? A function of values.

The signal is time, as in CoDel (RFC 8289), not a count: how long a readable socket waits until its turn of the event loop.
A count of calls under way says nothing about whether this worker keeps up (a slow upstream makes many and harms nobody),
and its right bound changes with every route; a wait means the same everywhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ostiary.core.model import Priority

# The higher, the later refused. Numbers, because the request path compares them.
RANKS: Final = {Priority.LOW: 0, Priority.NORMAL: 1, Priority.HIGH: 2}
NOBODY: Final = -1

# A call that has waited this long is refused, by rank. A tenth of a second is what a person notices; a worker that serves
# 500 connections at its full rate makes each wait 25 to 50 ms, and that is load, not overload. Low calls give way before
# normal ones are touched; high ones wait on, which bounds how long a turn can get.
WAIT_SECONDS_MAX: Final = (0.05, 0.1, 0.25)
ALWAYS: Final = float("inf")
NEVER: Final = -1.0

# Parts of the memory bound from which a rank is refused. What is under way still grows after that: an admitted call may
# buffer 256 KiB each way, and the allocator gives back late.
MEMORY_PART_MAX: Final = (0.80, 0.86, 0.92)


@dataclass(frozen=True, slots=True)
class Pressure:
    """`waiting`: turns of the loop have been long for a while. `stalled`: the loop stood still a moment ago. `refused` is the
    highest rank of which a call was refused lately, NOBODY for none. `memory` is the part of its bound in use."""

    waiting: bool = False
    stalled: bool = False
    refused: int = NOBODY
    memory: float = 0.0


def patience(pressure: Pressure) -> tuple[float, float, float]:
    """For each rank, the seconds that a call of it may have waited to be let in: `ALWAYS` lets all in, `NEVER` none.

    A rank is shut while one above it has to be refused: no low call is served where a normal one could have been. When the
    ranks below are shut and that was enough, nothing of the upper one is refused any more, and they open again."""
    if pressure == Pressure():
        return (ALWAYS, ALWAYS, ALWAYS)
    low, normal, high = (_of_rank(rank, pressure) for rank in range(3))
    return (low, normal, high)


def _of_rank(rank: int, pressure: Pressure) -> float:
    if pressure.memory >= MEMORY_PART_MAX[rank] or rank < pressure.refused or (rank == 0 and pressure.stalled):
        return NEVER
    return WAIT_SECONDS_MAX[rank] if pressure.waiting else ALWAYS
