"""All processes of the gateway but the supervisor itself: the workers, the shipper, one in reserve, and those of the program
before (see `predecessors`). Which of them begins, serves, drains and is handed over when."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from ostiary import __version__
from ostiary.gateway.handover import HandedProcess, Handover
from ostiary.gateway.node import NodeMemory
from ostiary.gateway.predecessors import DRAIN_MARGIN_SECONDS, Predecessors
from ostiary.gateway.slot import Slot, State
from ostiary.gateway.spawn import Child, Spare, spawn
from ostiary.gateway.telemetry import Metrics
from ostiary.gateway.telemetry.metrics import foreign_region
from ostiary.gateway.telemetry.process import ProcessUsage, process_usage
from ostiary.nameless import nameless_memory

log = logging.getLogger("ostiary.gateway.supervisor")

# What the shipper has not shipped by then waits in the spool for the next start.
SHIPPER_DRAIN_SECONDS = 5.0
KILLED_SECONDS = 5.0

SHIPPER = "shipper"


class Children:
    """`workers` is how many. `service` and `shipper` name the callables, as `module:name`, that build what a worker serves
    and what ships (None for nobody). `greeting` and `changed` are as for a Slot. `handover` is what the program before
    left. `node` is what the workers share."""

    def __init__(
        self,
        *,
        workers: int,
        service: str,
        shipper: str | None,
        handover: Handover | None,
        node: NodeMemory,
        greeting: Callable[[str], tuple[dict[str, Any], bytes]],
        changed: Callable[[Slot], None],
    ) -> None:
        self._service = service
        self._node = node
        self._changed = changed
        self._takes_over = handover is not None
        # Counters outlive the program as they outlive a process: of those that are gone, `retired` has the sums.
        self._retired_region = nameless_memory("retired")
        self._retired = Metrics.attach(self._retired_region)
        for descriptor in handover.regions if handover is not None else ():
            if (region := foreign_region(descriptor)) is not None:
                self._retired.add(region)
            os.close(descriptor)
        self.predecessors = Predecessors(handover.processes if handover is not None else (), self._retired)
        self.workers = [
            Slot(name=f"worker-{index}", obtain=self._worker_process, greeting=greeting, changed=changed)
            for index in range(workers)
        ]
        self.shipper: Slot | None = None
        if shipper is not None:
            obtain = partial(self._shipper_process, shipper)
            self.shipper = Slot(name=SHIPPER, obtain=obtain, greeting=greeting, changed=changed)
        self.spare = Spare(service, self._worker_regions, node)
        self._turns = {slot.name: asyncio.Event() for slot in self.slots}
        self._lives: dict[str, asyncio.Task[None]] = {}

    @property
    def slots(self) -> list[Slot]:
        return [*self.workers, *([self.shipper] if self.shipper else [])]

    @property
    def ready(self) -> int:
        """How many workers take calls, those of the program before among them."""
        return sum(worker.state is State.READY for worker in self.workers) + len(self.predecessors.accepting)

    def _worker_regions(self) -> list[int]:
        return [worker.region for worker in self.workers]

    async def _worker_process(self) -> Child:
        return self.spare.take() or await spawn(self._service, self._worker_regions(), node=self._node)

    async def _shipper_process(self, service: str) -> Child:
        return await spawn(service, [self.shipper.region] if self.shipper is not None else [])

    # --- from the first to the last

    def begin(self, ended: Callable[[asyncio.Task[None]], None]) -> None:
        """Keeps the slots from now on. None has a process before its turn, which `take_over` gives. `ended` is called with
        the life of each slot, once that is over."""
        for slot in self.slots:
            self._lives[slot.name] = life = asyncio.create_task(self._live(slot))
            life.add_done_callback(ended)

    async def _live(self, slot: Slot) -> None:
        await self._turns[slot.name].wait()
        await slot.run()

    def _start_all(self) -> None:
        for turn in self._turns.values():
            turn.set()

    async def take_over(self, drain_seconds: float) -> None:
        """Starts the workers: all at once, or, where there are predecessors, one by one, and for each that is ready one of
        those is relieved. If one can't start, the others of before serve on for as long as that takes."""
        if self.predecessors.accepting:
            self.spare.refill()  # the second worker imports while the first one does
        for worker in self.workers if self.predecessors.accepting else ():
            self._turns[worker.name].set()
            await worker.came_up.wait()
            self.predecessors.relieve(1, drain_seconds)
            self._changed(worker)
        self._start_all()
        if not self._takes_over:
            return
        self.predecessors.relieve(None, drain_seconds)
        await self.predecessors.workers_gone.wait()
        self.predecessors.drain(SHIPPER_DRAIN_SECONDS)
        await self.predecessors.all_gone.wait()
        log.info("rolled", extra={"fields": {"version": __version__, "workers": len(self.workers)}})

    def hand_over(self) -> tuple[list[HandedProcess], list[int]]:
        """All that run, as the next program will find them; and the counters of those that do not."""
        handed = {slot.name: slot.hand_over(is_worker=slot is not self.shipper) for slot in self.slots}
        processes = [process for process in handed.values() if process is not None]
        if (pid := self.spare.pid) is not None:
            processes.append(HandedProcess("spare", pid, False, None, None, time.monotonic() + KILLED_SECONDS))
        processes += [each.hand_over() for each in self.predecessors.all]
        idle = [slot.region for slot in self.slots if handed[slot.name] is None]
        return processes, [self._retired_region, *idle]

    async def drain(self, deadline_seconds: float) -> bool:
        """The workers first, then the shipper, which has what the workers metered last. Whether all ended by themselves;
        those that did not are killed."""
        for worker in self.workers:
            worker.drain(deadline_seconds)
        self.predecessors.relieve(None, deadline_seconds)
        self._start_all()  # a slot whose turn has not come ends at once
        in_order = await self._ended(self.workers, deadline_seconds + DRAIN_MARGIN_SECONDS)
        await self.predecessors.workers_gone.wait()
        self.predecessors.drain(SHIPPER_DRAIN_SECONDS)
        if self.shipper is not None:
            self.shipper.drain(SHIPPER_DRAIN_SECONDS)
            in_order &= await self._ended([self.shipper], SHIPPER_DRAIN_SECONDS + DRAIN_MARGIN_SECONDS)
        await self.predecessors.all_gone.wait()
        return in_order and not self.predecessors.killed

    async def _ended(self, slots: list[Slot], seconds: float) -> bool:
        _, running = await asyncio.wait([self._lives[slot.name] for slot in slots], timeout=seconds)
        late = [slot for slot in slots if self._lives[slot.name] in running]
        for slot in late:
            log.error("killed", extra={"fields": {"name": slot.name, "after_seconds": seconds}})
            slot.end_process()
        return not late

    def end_at_once(self) -> None:
        for slot in self.slots:
            slot.drain(0.0)
            slot.end_process()
        self._start_all()
        self.predecessors.kill()

    async def gone(self) -> None:
        """Waits for what was killed."""
        await asyncio.wait(self._lives.values(), timeout=KILLED_SECONDS)

    # --- what they are doing

    def regions(self) -> list[memoryview]:
        """Of the counters of all, those that are gone included."""
        return [self._retired.region, *(slot.metrics.region for slot in self.slots), *self.predecessors.regions]

    def usages(self) -> dict[str, ProcessUsage]:
        pids = {"supervisor": os.getpid(), "spare": self.spare.pid} | {slot.name: slot.pid for slot in self.slots}
        usages = {name: process_usage(pid) for name, pid in pids.items() if pid is not None}
        return {name: usage for name, usage in usages.items() if usage is not None}

    def status(self) -> dict[str, object]:
        return {
            "workers": [worker.status() for worker in self.workers],
            "shipper": self.shipper.status() if self.shipper else None,
            "spare": {"pid": self.spare.pid},
            "predecessors": self.predecessors.status(),
        }
