"""`ostiary gateway`: keeps the workers and the shipper alive, reloads, drains, and answers the admin listener.

It holds the port and the configuration in force, and no request passes through it. A child that dies is replaced with that
configuration, whatever has become of the file since. When the supervisor itself dies, the end of each child's channel
tells it: workers drain and exit by themselves."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

from ostiary import __version__
from ostiary.core.model import Configuration
from ostiary.gateway.admin import AdminListener, Readiness
from ostiary.gateway.channel import pack_configuration
from ostiary.gateway.handover import SIGNALS, HandedProcess, Handover, become, own_command, rehearse
from ostiary.gateway.held_sockets import HeldSockets, moved
from ostiary.gateway.listening import CannotListen, authority
from ostiary.gateway.nameless import nameless_memory
from ostiary.gateway.predecessors import DRAIN_MARGIN_SECONDS, Predecessors
from ostiary.gateway.reload import (
    PROBLEMS_KEPT_MAX,
    PROBLEMS_LOGGED_MAX,
    FileWatch,
    Refused,
    ReloadResult,
    certificate_files,
    needs_restart,
    read_whole,
)
from ostiary.gateway.slot import Slot, State
from ostiary.gateway.spawn import Child, Spare, spawn
from ostiary.gateway.telemetry import Metrics
from ostiary.gateway.telemetry.exposition import Exposition
from ostiary.gateway.telemetry.log import tell_left_out
from ostiary.gateway.telemetry.metrics import foreign_region
from ostiary.gateway.telemetry.process import ProcessUsage, process_usage

log = logging.getLogger("ostiary.gateway.supervisor")

# The file is looked at this often, and read when two looks agree: a change holds about a second after it was written.
FILE_POLL_SECONDS = 0.5
# A load balancer counts as watching when it asked this recently; it is given this long to read that we are leaving.
WATCHED_WITHIN_SECONDS = 30.0
NOTICE_SECONDS_MAX = 5.0
# What the shipper has not shipped by then waits in the spool for the next start.
SHIPPER_DRAIN_SECONDS = 5.0
KILLED_SECONDS = 5.0


SHIPPER = "shipper"


class CannotStart(Exception):
    """The gateway can't begin to serve; the text names the cause and what to do."""


class Supervisor:
    """`load` reads the file again on a reload and raises ConfigurationError. `service` names the callable, as
    `module:name`, that builds what a worker serves, and `shipper` the one that ships what the workers metered. `handover` is
    what the program before left to this one, in a rolling restart."""

    def __init__(
        self,
        *,
        path: Path,
        configuration: Configuration,
        load: Callable[[Path], Configuration],
        service: str = "ostiary.gateway.worker:build",
        shipper: str | None = "ostiary.gateway.shipping:build",
        handover: Handover | None = None,
    ) -> None:
        self._path = path
        self._load = load
        self._configuration = configuration
        self._packed = pack_configuration(configuration)
        self._handover = handover
        self._generation = 1 if handover is None else handover.generation + 1
        self._last_reload: ReloadResult | None = None
        self._expiries: dict[str, int] = {}  # slots, by name; bounded by the catalog
        self._started_at = time.time()
        # Counters outlive the program as they outlive a process: of those that are gone, `retired` has the sums.
        self._region, self._retired_region = nameless_memory("supervisor"), nameless_memory("retired")
        self._metrics, self._retired = Metrics.attach(self._region), Metrics.attach(self._retired_region)
        for descriptor in handover.regions if handover is not None else ():
            if (region := foreign_region(descriptor)) is not None:
                self._retired.add(region)
            os.close(descriptor)
        self._predecessors = Predecessors(handover.processes if handover is not None else (), self._retired)
        self._serving = bool(self._predecessors.accepting)  # every worker has been ready once
        self._draining = False
        self._address = (configuration.gateway.listen.host, configuration.gateway.listen.port)
        self._reload_wanted = asyncio.Event()
        self._roll_wanted = asyncio.Event()
        self._roll_refused: str | None = None
        self._changing = asyncio.Lock()  # a reload and a rolling restart take turns
        self._held: HeldSockets | None = None
        self._stop_wanted = asyncio.Event()
        self._end_at_once = asyncio.Event()
        self._notice_wanted = False
        self._fatal: str | None = None
        self._defect = False
        self._lives: dict[str, asyncio.Task[None]] = {}
        self._turns: dict[str, asyncio.Event] = {}
        self._workers: list[Slot] = []
        for index in range(configuration.gateway.listen.workers):
            self._workers.append(self._slot(f"worker-{index}", self._worker_process))
        self._shipper = None
        if shipper is not None and configuration.stores.postgres is not None:
            self._shipper = self._slot(SHIPPER, partial(self._shipper_process, shipper))
        self._service = service
        self._spare = Spare(service, lambda: [worker.region for worker in self._workers])
        self._metrics.values[self._metrics.gauge("config_generation")] = self._generation
        for name in ("config_reloads_total", "config_reload_failures_total"):
            self._metrics.counter(name)
        self._admin = AdminListener(
            exposition=Exposition(
                regions=self._regions,
                processes=self._processes,
            ),
            readiness=self.readiness,
            status=self.status,
        )

    @property
    def _slots(self) -> list[Slot]:
        return [*self._workers, *([self._shipper] if self._shipper else [])]

    # --- life ---------------------------------------------------------------------------------------------------------

    async def run(self) -> int:
        """Serves until a signal ends it. The exit status: 0 when all ended in order, 1 when something had to be cut.
        Raises CannotStart when the gateway never came to serve."""
        listen, admin = self._configuration.gateway.listen, self._configuration.gateway.admin
        try:
            if self._handover is not None and self._handover.rehearsal:
                # All that a start needs has been loaded; what is left to find out is whether the addresses are the same.
                if names := moved(self._configuration.gateway, self._handover):
                    raise CannotStart(
                        f"{', '.join(names)}: the address has changed, which a rolling restart can't take"
                    )
                return 0
            held = self._held = self._take_sockets()
            self._address = (listen.host, held.port)
            await self._listen_for_operators()
        except CannotListen as error:
            raise CannotStart(str(error)) from error
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop, True)
        loop.add_signal_handler(signal.SIGINT, self._stop, False)
        loop.add_signal_handler(signal.SIGHUP, self._reload_wanted.set)
        loop.add_signal_handler(signal.SIGUSR2, self._ask_to_roll)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # see handover.become
        for slot in self._slots:
            self._turns[slot.name] = asyncio.Event()
            self._lives[slot.name] = life = asyncio.create_task(self._live(slot))
            life.add_done_callback(self._life_ended)
        watching = asyncio.create_task(self._predecessors.watch())
        works = (self._follow_file(), self._follow_rolls(), self._spare.keep(), self._take_over())
        others = [asyncio.create_task(work) for work in works]
        fields = {
            "version": __version__,
            "listen": authority(*self._address),
            "admin": authority(admin.host, self._admin.port),
            "workers": len(self._workers),
        }
        log.info("started", extra={"fields": fields})
        self._tell_warnings()
        try:
            await self._stop_wanted.wait()
            for task in others:
                task.cancel()
            status = await self._unless_ended_at_once(self._drain())
            await asyncio.wait(self._lives.values(), timeout=KILLED_SECONDS)
        finally:
            watching.cancel()
            held.close()
            await self._admin.close()
        if self._fatal is not None and not self._serving:
            raise CannotStart(self._fatal)
        log.info("stopped", extra={"fields": {"exit_status": status}})
        return status

    def _stop(self, notice: bool) -> None:
        """The first signal drains, the second one ends at once. SIGTERM comes from whoever runs us, and may have a load
        balancer in front that needs notice; SIGINT comes from a keyboard."""
        if self._stop_wanted.is_set():
            self._end_at_once.set()
        self._draining = True
        self._notice_wanted = notice
        self._stop_wanted.set()

    async def _unless_ended_at_once(self, work: Coroutine[Any, Any, int]) -> int:
        draining = asyncio.create_task(work)
        impatience = asyncio.create_task(self._end_at_once.wait())
        await asyncio.wait({draining, impatience}, return_when=asyncio.FIRST_COMPLETED)
        impatience.cancel()
        if draining.done():
            return draining.result()
        draining.cancel()
        log.warning("ended_at_once", extra={"fields": {"reason": "a second signal"}})
        for slot in self._slots:
            slot.drain(0.0)
            slot.end_process()
        self._start_all()
        self._predecessors.kill()
        return 1

    async def _drain(self) -> int:
        """Readiness first, then the workers, then the shipper, which has what the workers metered last."""
        deadline_seconds = self._configuration.gateway.drain_seconds
        log.info("draining", extra={"fields": {"deadline_seconds": deadline_seconds}})
        await self._give_notice(min(NOTICE_SECONDS_MAX, deadline_seconds / 2))
        for worker in self._workers:
            worker.drain(deadline_seconds)
        self._predecessors.relieve(None, deadline_seconds)
        self._start_all()  # a slot whose turn has not come ends at once
        in_order = await self._ended(self._workers, deadline_seconds + DRAIN_MARGIN_SECONDS)
        await self._predecessors.workers_gone.wait()
        self._predecessors.drain(SHIPPER_DRAIN_SECONDS)
        if self._shipper is not None:
            self._shipper.drain(SHIPPER_DRAIN_SECONDS)
            in_order &= await self._ended([self._shipper], SHIPPER_DRAIN_SECONDS + DRAIN_MARGIN_SECONDS)
        await self._predecessors.all_gone.wait()
        return 0 if in_order and not self._defect and not self._predecessors.killed else 1

    async def _give_notice(self, seconds: float) -> None:
        """Waits until whoever watches /readyz has read that it is 503. No one watching, nothing to wait for."""
        asked_ago = asyncio.get_running_loop().time() - self._admin.readiness_asked_at
        if not self._notice_wanted or asked_ago > WATCHED_WITHIN_SECONDS:
            return
        self._admin.refusal_told.clear()
        try:
            await asyncio.wait_for(self._admin.refusal_told.wait(), seconds)
        except TimeoutError:
            log.warning("readiness_not_read", extra={"fields": {"waited_seconds": seconds}})

    async def _ended(self, slots: list[Slot], seconds: float) -> bool:
        """Whether all of them ended by themselves; those that did not are killed."""
        _, running = await asyncio.wait([self._lives[slot.name] for slot in slots], timeout=seconds)
        late = [slot for slot in slots if self._lives[slot.name] in running]
        for slot in late:
            log.error("killed", extra={"fields": {"name": slot.name, "after_seconds": seconds}})
            slot.end_process()
        return not late

    def _life_ended(self, life: asyncio.Task[None]) -> None:
        if not life.cancelled() and (error := life.exception()) is not None:
            # A defect of ours: no one would replace this slot's process again. Better to end and be started anew.
            log.critical("supervision_failed", exc_info=error)
            self._defect = True
            self._stop(notice=False)

    # --- children -----------------------------------------------------------------------------------------------------

    def _slot(self, name: str, obtain: Callable[[], Awaitable[Child]]) -> Slot:
        return Slot(name=name, obtain=obtain, greeting=self._greeting, changed=self._slot_changed)

    async def _worker_process(self) -> Child:
        return self._spare.take() or await spawn(self._service, [worker.region for worker in self._workers])

    async def _shipper_process(self, service: str) -> Child:
        return await spawn(service, [self._shipper.region] if self._shipper is not None else [])

    async def _live(self, slot: Slot) -> None:
        await self._turns[slot.name].wait()
        await slot.run()

    def _start_all(self) -> None:
        for turn in self._turns.values():
            turn.set()

    def _greeting(self, name: str) -> tuple[dict[str, Any], bytes]:
        listen = None if name == SHIPPER else self._address
        return {"version": __version__, "generation": self._generation, "listen": listen}, self._packed

    def _slot_changed(self, slot: Slot) -> None:
        restarts = self._metrics.counter("gateway_process_restarts_total", process=slot.name)
        self._metrics.values[restarts] = slot.restarts
        ready = sum(worker.state is State.READY for worker in self._workers)
        ready += len(self._predecessors.accepting)
        self._metrics.values[self._metrics.gauge("gateway_workers_ready")] = ready
        if not self._serving and ready == len(self._workers):
            self._serving = True
            log.info("ready", extra={"fields": {"workers": ready}})
        if self._serving and slot.state is State.READY and not self._draining:
            self._spare.refill()
        if not self._serving and slot.problem is not None and not slot.came_up.is_set() and self._fatal is None:
            # Nothing has been served yet, and the child could say what is wrong: the operator should read it now.
            self._fatal = f"{slot.name} can't start: {slot.problem}"
            self._stop(notice=False)

    def _regions(self) -> list[memoryview]:
        ours = [self._metrics.region, self._retired.region, *(slot.metrics.region for slot in self._slots)]
        return ours + self._predecessors.regions

    def _processes(self) -> dict[str, ProcessUsage]:
        pids = {"supervisor": os.getpid(), "spare": self._spare.pid} | {slot.name: slot.pid for slot in self._slots}
        usages = {name: process_usage(pid) for name, pid in pids.items() if pid is not None}
        return {name: usage for name, usage in usages.items() if usage is not None}

    # --- what the admin listener tells --------------------------------------------------------------------------------

    def readiness(self) -> Readiness:
        """Not before every worker has served once, not while draining, not while a process keeps dying."""
        reasons = []
        if self._draining:
            reasons.append("draining")
        if not self._serving:
            reasons.append("starting")
        elif not any(worker.state is State.READY for worker in self._workers) and not self._predecessors.accepting:
            reasons.append("no worker is ready")
        if not self._predecessors.accepting:  # in a rolling restart that is stuck, those of before serve all
            reasons += [f"{slot.name} keeps dying" for slot in self._slots if slot.keeps_dying]
        return Readiness(tuple(reasons))

    def status(self) -> dict[str, object]:
        return {
            "version": __version__,
            "state": "draining" if self._draining else "serving" if self._serving else "starting",
            "ready": self.readiness().ready,
            "started_at": self._started_at,
            "listen": authority(*self._address),
            "configuration": str(self._path),
            "generation": self._generation,
            "warnings": list(self._configuration.warnings[:PROBLEMS_KEPT_MAX]),
            "last_reload": self._last_reload.status() if self._last_reload else None,
            "workers": [worker.status() for worker in self._workers],
            "shipper": self._shipper.status() if self._shipper else None,
            "spare": {"pid": self._spare.pid},
            "predecessors": self._predecessors.status(),
            "roll_refused": self._roll_refused,
        }

    # --- rolling restart (see handover) -------------------------------------------------------------------------------

    def _ask_to_roll(self) -> None:
        """One at a time. A stuck one, whose new processes can't start, may be followed by the next: that is its mend."""
        stuck = any(slot.keeps_dying or slot.problem is not None for slot in self._slots)
        if self._draining:
            reason = "the gateway is ending"
        elif not self._serving:
            reason = "the gateway has not started yet"
        elif self._roll_wanted.is_set() or (self._predecessors.all and not stuck):
            reason = "a rolling restart is under way"
        else:
            self._roll_wanted.set()
            return
        log.warning("roll_ignored", extra={"fields": {"reason": reason}})

    async def _follow_rolls(self) -> None:
        while True:
            await self._roll_wanted.wait()
            async with self._changing:
                self._roll_refused = await self._roll()
            log.error("roll_refused", extra={"fields": {"problem": self._roll_refused}})
            self._roll_wanted.clear()

    async def _roll(self) -> str:
        """Becomes the program on disk, after a rehearsal. Returns only when that can't be, with the reason."""
        log.info("roll_rehearses", extra={"fields": {"version": __version__}})
        if (problem := await rehearse(self._handover_now(), own_command())) is not None:
            return problem
        await self._admin.pause()
        try:
            if not self._draining:
                log.info("hands_over", extra={"fields": {"version": __version__}})
                become(self._handover_now(), own_command())
        except OSError as error:
            return f"the program on disk can't be started: {error.strerror}"
        finally:
            await self._listen_for_operators()
        return "the gateway is ending"

    def _handover_now(self) -> Handover:
        assert self._held is not None  # noqa: S101  since `run` began
        listen, admin = self._held.handed()
        handed = {slot.name: slot.hand_over(is_worker=slot is not self._shipper) for slot in self._slots}
        processes = [process for process in handed.values() if process is not None]
        if (pid := self._spare.pid) is not None:
            processes.append(HandedProcess("spare", pid, False, None, None, time.monotonic() + KILLED_SECONDS))
        idle = [slot.region for slot in self._slots if handed[slot.name] is None]
        return Handover(
            listen=listen,
            admin=admin,
            generation=self._generation,
            processes=(*processes, *(each.hand_over() for each in self._predecessors.all)),
            regions=(self._region, self._retired_region, *idle),
        )

    def _take_sockets(self) -> HeldSockets:
        settings = self._configuration.gateway
        if self._handover is None:
            return HeldSockets.reserved(settings)
        if names := moved(settings, self._handover):  # since the rehearsal; to end now would end everything
            log.error("addresses_stay", extra={"fields": {"changed": list(names)}})
        return HeldSockets.inherited(settings, self._handover)

    async def _listen_for_operators(self) -> None:
        """On a descriptor of its own, so that the socket stays open while the listener pauses."""
        assert self._held is not None  # noqa: S101  since `run` began
        admin = self._configuration.gateway.admin
        await self._admin.start(self._held.admin.dup(), authority(admin.host, admin.port))

    async def _take_over(self) -> None:
        """Starts the workers: all at once, or, where there are predecessors, one by one, and for each that is ready one of
        those is relieved. If one can't start, the others of before serve on for as long as that takes."""
        deadline_seconds = self._configuration.gateway.drain_seconds
        if self._predecessors.accepting:
            self._spare.refill()  # the second worker imports while the first one does
        for worker in self._workers if self._predecessors.accepting else ():
            self._turns[worker.name].set()
            await worker.came_up.wait()
            self._predecessors.relieve(1, deadline_seconds)
            self._slot_changed(worker)
        self._start_all()
        if self._handover is None:
            return
        self._predecessors.relieve(None, deadline_seconds)
        await self._predecessors.workers_gone.wait()
        self._predecessors.drain(SHIPPER_DRAIN_SECONDS)
        await self._predecessors.all_gone.wait()
        log.info("rolled", extra={"fields": {"version": __version__, "workers": len(self._workers)}})

    # --- reload -------------------------------------------------------------------------------------------------------

    async def _follow_file(self) -> None:
        watch = FileWatch(self._path, certificate_files(self._configuration))
        while True:
            self._tell_expiry()
            try:
                await asyncio.wait_for(self._reload_wanted.wait(), FILE_POLL_SECONDS)
            except TimeoutError:
                tell_left_out()
                if not watch.came_to_rest():
                    continue
            self._reload_wanted.clear()
            async with self._changing:
                watch.mark_read()
                problems = await self._reload(watch)
                self._report(problems)

    async def _reload(self, watch: FileWatch) -> tuple[str, ...]:
        """Brings the file in force, or gives the reasons why not; then nothing has changed."""
        try:
            configuration = await asyncio.to_thread(read_whole, self._path, self._load, watch)
        except Refused as refused:
            watch.follow(self._followed(refused.followed))
            return refused.problems
        watch.follow(self._followed(certificate_files(configuration)))
        if fields := needs_restart(self._configuration, configuration):
            names = ", ".join(fields)
            return (f"{self._path}: {names}: changed, and takes effect only at a restart; nothing was reloaded",)
        return await self._hand_out(configuration)

    def _followed(self, candidates: tuple[str, ...]) -> tuple[str, ...]:
        """The certificate files in force, and those of a configuration that may not come in force."""
        return tuple(dict.fromkeys((*certificate_files(self._configuration), *candidates)))

    async def _hand_out(self, configuration: Configuration) -> tuple[str, ...]:
        """One worker first: what it refuses reaches no other. One of the rest that fails then is replaced."""
        packed = pack_configuration(configuration)
        generation = self._generation + 1
        first = next((worker for worker in self._workers if worker.state is State.READY), None)
        if first is not None and (problem := await first.reload(generation, packed)) is not None:
            return (f"{self._path}: {problem}",)
        self._configuration, self._packed, self._generation = configuration, packed, generation
        rest = [slot for slot in self._slots if slot is not first]
        problems = await asyncio.gather(*(slot.reload(generation, packed) for slot in rest))
        for slot, problem in zip(rest, problems, strict=True):
            if problem is not None:
                log.error("reload_replaces_process", extra={"fields": {"name": slot.name, "problem": problem}})
                slot.end_process()
        return ()

    def _tell_expiry(self) -> None:
        """How long the certificates in force still hold; of two of one name, the one that ends first."""
        now = time.time()
        left: dict[str, float] = dict.fromkeys(self._expiries, math.nan)
        for certificate in self._configuration.gateway.listen.tls:
            name = certificate.names[0] if certificate.names else "unnamed"
            seconds = certificate.expires_at - now
            left[name] = min(seconds, left[name]) if name in left and not math.isnan(left[name]) else seconds
        for name, seconds in left.items():
            slot = self._metrics.gauge("tls_certificate_expiry_seconds", certificate=name)
            self._expiries[name] = slot
            self._metrics.values[slot] = seconds

    def _report(self, problems: tuple[str, ...]) -> None:
        self._last_reload = ReloadResult(self._generation, time.time(), problems)
        if problems:
            self._metrics.values[self._metrics.counter("config_reload_failures_total")] += 1
            fields = {
                "generation": self._generation,
                "problems": list(problems[:PROBLEMS_LOGGED_MAX]),
                "problem_count": len(problems),
            }
            log.error("reload_refused", extra={"fields": fields})
        else:
            self._metrics.values[self._metrics.counter("config_reloads_total")] += 1
            self._metrics.values[self._metrics.gauge("config_generation")] = self._generation
            log.info("reloaded", extra={"fields": {"generation": self._generation}})
            self._tell_warnings()

    def _tell_warnings(self) -> None:
        if warnings := self._configuration.warnings[:PROBLEMS_KEPT_MAX]:
            log.warning("configuration_warnings", extra={"fields": {"warnings": list(warnings)}})
