"""A round of a scenario: all its sides under load in turns of a quarter of a second, until each has had its time.

Whatever slows the machine (a neighbour on the other half of the core, a host that is busy) comes and goes within seconds.
Runs of seconds each, one side after the other, have it on one side and not on the other, and their ratio is of the machine
then. In turns that are shorter than such spells both sides have their share of each. What is stopped between turns is the
load generator of a side, not the side: it answers what it was asked, and rests."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from benchmarks import cpu
from benchmarks.contestant import RunningSide
from benchmarks.load import LoadResult, RunningLoad, start_load
from benchmarks.processes import OTHER_CORE, PROXY_CORE
from benchmarks.requests import RequestFile
from benchmarks.rig import Rig, Role

# Long against what a turn costs to begin (caches that are cold for some hundred µs), short against what disturbs.
TURN_SECONDS = 0.25
# What a side has been asked when its turn ends it answers before the next turn begins, and that counts for its own: it has
# answered when it did next to nothing for so long. 64 calls take a slow one some 50 ms.
_SETTLE_SECONDS = 0.005
_SETTLE_SECONDS_MAX = 0.5
_IDLE_SHARE = 0.1
# The most that a load may take beyond its seconds: it begins while others have their turns, and ends when its clock says so.
EXTRA_SECONDS = 1.0
# Roles whose CPU is read by turn: what is measured, and what all sides share.
_BY_TURN = (Role.GATEWAY, Role.REDIS, Role.UPSTREAM)


class Turns:
    """Of one side: what came of them together. `seconds` is how long the load ran, `spent_seconds` what processes spent by
    role, and the cores are as they were in these turns."""

    load: LoadResult

    def __init__(self) -> None:
        self.seconds = 0.0
        self.spent_seconds: dict[Role, float] = {}
        self.proxy_core = cpu.CoreTimes(0.0, 0.0)
        self.other_core = cpu.CoreTimes(0.0, 0.0)

    @contextmanager
    def turn(self, pids: Mapping[Role, frozenset[int]]) -> Iterator[None]:
        spent = {role: cpu.thread_times(those) for role, those in pids.items()}
        proxy_core, other_core, began = cpu.core_times(PROXY_CORE), cpu.core_times(OTHER_CORE), time.monotonic()
        yield
        self.seconds += time.monotonic() - began
        self.proxy_core += cpu.core_times(PROXY_CORE) - proxy_core
        self.other_core += cpu.core_times(OTHER_CORE) - other_core
        for role, those in pids.items():
            seconds = cpu.seconds_between(spent[role], cpu.thread_times(those))
            self.spent_seconds[role] = self.spent_seconds.get(role, 0.0) + seconds


def run_in_turns(rig: Rig, loads: Mapping[str, tuple[RunningSide, RequestFile]], seconds: float) -> dict[str, Turns]:
    """Loads each side for about so many seconds. Raises LoadFailed."""
    # Processes of these roles stay: looked up once, for it takes longer than all that a turn has to read.
    shared = rig.pids()
    pids = {
        name: {role: those for role, those in {**shared, **side.pids()}.items() if role in _BY_TURN}
        for name, (side, _) in loads.items()
    }
    found = {name: Turns() for name in loads}
    running: dict[str, RunningLoad] = {}
    try:
        for number in range(math.ceil(seconds / TURN_SECONDS)):
            for name, (side, requests) in loads.items():
                with found[name].turn(pids[name]):
                    if number == 0:
                        running[name] = start_load(
                            rig.processes, port=side.port, requests=requests, seconds=seconds * len(loads)
                        )
                    else:
                        running[name].resume()
                    time.sleep(TURN_SECONDS)
                    running[name].pause()
                    _settle(pids[name][Role.GATEWAY])
        for name, load in running.items():  # whose time is over: each ends at once, but in a turn of its own
            with found[name].turn(pids[name]):
                load.resume()
                found[name].load = load.result()
    finally:
        for load in running.values():
            load.close()
    return found


def _settle(pids: frozenset[int]) -> None:
    deadline = time.monotonic() + _SETTLE_SECONDS_MAX
    spent = cpu.thread_times(pids)
    while time.monotonic() < deadline:
        before, began = spent, time.monotonic()
        time.sleep(_SETTLE_SECONDS)
        spent = cpu.thread_times(pids)
        if cpu.seconds_between(before, spent) < _IDLE_SHARE * (time.monotonic() - began):
            return
