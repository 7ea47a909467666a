"""What a sweep is: sides that are up at once, and the points at which each of them is loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum

from benchmarks.contestant import Contestant, RunningSide
from benchmarks.load import LoadResult
from benchmarks.rig import Rig

Run = Callable[[], LoadResult]

# Makes ready what a run of so many seconds needs (requests that are signed ahead, connections), and gives the run itself: it
# alone is measured.
Load = Callable[[Rig, RunningSide, float], AbstractContextManager[Run]]


class AxisKind(StrEnum):
    """How points stand beside each other: apart, in an order, or by their number."""

    NAMES = "names"
    STEPS = "steps"
    NUMBERS = "numbers"


@dataclass(frozen=True, slots=True)
class Case:
    """One point of one curve: `side` (the name of a contestant) under `load`. `number` is where it stands on an axis of
    numbers."""

    curve: str
    point: str
    side: str
    load: Load
    number: float = 0.0


@dataclass(frozen=True, slots=True)
class Sweep:
    """`what` is told beside the figures; `unit` is what CPU is divided by. `sides` makes what its sides share (certificates,
    files of the upstream) and returns them; those whose needs are not installed are left out, with their cases."""

    name: str
    title: str
    what: str
    axis: str
    kind: AxisKind
    sides: Callable[[Rig], Sequence[Contestant]]
    cases: tuple[Case, ...]
    with_stores: bool = False
    unit: str = "request"
