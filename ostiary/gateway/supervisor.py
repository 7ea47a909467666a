"""`ostiary gateway`: keeps the workers and the shipper alive, reloads, drains, and answers the admin listener.

It holds the port and the configuration in force, and no request passes through it. A child that dies is replaced with that
configuration, whatever has become of the file since. When the supervisor itself dies, the end of each child's channel
tells it: workers drain and exit by themselves. `children` has the processes, `in_force` the configuration, `roll` the change
to another version of the program; here is what becomes of the whole."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ostiary import __version__
from ostiary.core.model import Configuration
from ostiary.gateway.admin import AdminListener, Readiness
from ostiary.gateway.children import SHIPPER, Children
from ostiary.gateway.handover import SIGNALS, Handover, keep_signals_from_threads
from ostiary.gateway.held_sockets import HeldSockets, moved
from ostiary.gateway.in_force import InForce
from ostiary.gateway.listening import CannotListen, authority
from ostiary.gateway.node import NodeMemory, NodeMemoryError
from ostiary.gateway.roll import Roll
from ostiary.gateway.slot import Slot, State
from ostiary.gateway.telemetry import Metrics
from ostiary.gateway.telemetry.exposition import Exposition
from ostiary.nameless import nameless_memory

if TYPE_CHECKING:  # a gateway whose routes are its file's asks Postgres nothing from here
    from ostiary.gateway.published import Beginning, Follower

log = logging.getLogger("ostiary.gateway.supervisor")

# A load balancer counts as watching when it asked this recently; it is given this long to read that we are leaving.
WATCHED_WITHIN_SECONDS = 30.0
NOTICE_SECONDS_MAX = 5.0


class CannotStart(Exception):
    """The gateway can't begin to serve; the text names the cause and what to do."""


class Supervisor:
    """`load` reads the file again on a reload and raises ConfigurationError. `service` names the callable, as
    `module:name`, that builds what a worker serves, and `shipper` the one that ships what the workers metered. `handover` is
    what the program before left to this one, in a rolling restart. `beginning` is where `configuration` has its routes from,
    if they are published."""

    def __init__(
        self,
        *,
        path: Path,
        configuration: Configuration,
        load: Callable[[Path], Configuration],
        service: str = "ostiary.gateway.worker:build",
        shipper: str | None = "ostiary.gateway.shipping:build",
        handover: Handover | None = None,
        beginning: Beginning | None = None,
    ) -> None:
        self._settings = configuration.gateway  # as it was started with: its addresses stay
        self._address = (configuration.gateway.listen.host, configuration.gateway.listen.port)
        self._handover = handover
        self._started_at = time.time()
        region = nameless_memory("supervisor")
        self._metrics = Metrics.attach(region)
        self._node = _node_memory(handover, configuration.gateway.listen.workers)
        changing = asyncio.Lock()  # a reload and a rolling restart take turns
        self._in_force = InForce(
            path=path,
            configuration=configuration,
            generation=1 if handover is None else handover.generation + 1,
            load=load,
            metrics=self._metrics,
            changing=changing,
            host=None if beginning is None else beginning.host,
            version=None if beginning is None else beginning.version,
            refused=None if beginning is None else beginning.refused,
        )
        self._beginning = beginning
        self._follower: Follower | None = None
        self._children = Children(
            workers=configuration.gateway.listen.workers,
            service=service,
            shipper=shipper if configuration.metered else None,
            handover=handover,
            node=self._node,
            greeting=self._greeting,
            changed=self._slot_changed,
        )
        self._serving = bool(self._children.predecessors.accepting)  # every worker has been ready once
        self._draining = False
        self._stop_wanted = asyncio.Event()
        self._end_at_once = asyncio.Event()
        self._notice_wanted = False
        self._fatal: str | None = None
        self._defect = False
        self._admin = AdminListener(
            exposition=Exposition(regions=self._regions, processes=self._children.usages),
            readiness=self.readiness,
            status=self.status,
        )
        self._roll = Roll(
            admin=self._admin,
            children=self._children,
            in_force=self._in_force,
            region=region,
            node=self._node.descriptor,
            obstacle=self._obstacle,
            changing=changing,
        )

    # --- life ---------------------------------------------------------------------------------------------------------

    async def run(self) -> int:
        """Serves until a signal ends it. The exit status: 0 when all ended in order, 1 when something had to be cut.
        Raises CannotStart when the gateway never came to serve."""
        children, in_force = self._children, self._in_force
        loop = asyncio.get_running_loop()
        keep_signals_from_threads(loop)
        try:
            if self._handover is not None and self._handover.rehearsal:
                # All that a start needs has been loaded; what is left to find out is whether the addresses are the same.
                if names := moved(self._settings, self._handover):
                    raise CannotStart(
                        f"{', '.join(names)}: the address has changed, which a rolling restart can't take"
                    )
                return 0
            held = self._take_sockets()
            self._address = (self._settings.listen.host, held.port)
            await self._admin.start(*held.for_operators())
        except CannotListen as error:
            raise CannotStart(str(error)) from error
        loop.add_signal_handler(signal.SIGTERM, self._stop, True)
        loop.add_signal_handler(signal.SIGINT, self._stop, False)
        loop.add_signal_handler(signal.SIGHUP, in_force.ask)
        loop.add_signal_handler(signal.SIGUSR2, self._roll.ask)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # see handover.signals_wait
        children.begin(self._life_ended)
        watching = asyncio.create_task(children.predecessors.watch())
        self._follower = self._follow_routes()
        works = (
            in_force.follow(children),
            *((self._follower.run(),) if self._follower is not None else ()),
            self._roll.follow(held),
            children.spare.keep(),
            children.take_over(self._settings.drain_seconds),
        )
        others = [asyncio.create_task(work) for work in works]
        fields = {
            "version": __version__,
            "listen": authority(*self._address),
            "admin": authority(self._settings.admin.host, self._admin.port),
            "workers": len(children.workers),
        }
        log.info("started", extra={"fields": fields})
        in_force.tell_warnings()
        try:
            await self._stop_wanted.wait()
            for task in others:
                task.cancel()
            forgetting = asyncio.create_task(self._follower.forget()) if self._follower is not None else None
            status = await self._unless_ended_at_once(self._drain())
            await children.gone()
            if forgetting is not None:
                await forgetting
        finally:
            watching.cancel()
            held.close()
            await self._admin.close()
        if self._fatal is not None and not self._serving:
            raise CannotStart(self._fatal)
        log.info("stopped", extra={"fields": {"exit_status": status}})
        return status

    def _follow_routes(self) -> Follower | None:
        """None where the routes are the file's."""
        postgres = self._in_force.configuration.stores.postgres
        if self._beginning is None or postgres is None:
            return None
        from ostiary.gateway.published import Follower

        return Follower(
            postgres_url=postgres,
            node=self._node.name,
            in_force=self._in_force,
            children=self._children,
            last_good=self._beginning.last_good,
            metrics=self._metrics,
        )

    def _take_sockets(self) -> HeldSockets:
        if self._handover is None:
            return HeldSockets.reserved(self._settings)
        if names := moved(self._settings, self._handover):  # since the rehearsal; to end now would end everything
            log.error("addresses_stay", extra={"fields": {"changed": list(names)}})
        return HeldSockets.inherited(self._settings, self._handover)

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
        self._children.end_at_once()
        return 1

    async def _drain(self) -> int:
        """Readiness first, then the children."""
        deadline_seconds = self._in_force.configuration.gateway.drain_seconds
        log.info("draining", extra={"fields": {"deadline_seconds": deadline_seconds}})
        await self._give_notice(min(NOTICE_SECONDS_MAX, deadline_seconds / 2))
        in_order = await self._children.drain(deadline_seconds)
        return 0 if in_order and not self._defect else 1

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

    # --- what children ask and tell -----------------------------------------------------------------------------------

    def _greeting(self, name: str) -> tuple[dict[str, Any], bytes]:
        listen = None if name == SHIPPER else self._address
        return {
            "version": __version__,
            "generation": self._in_force.generation,
            "listen": listen,
        }, self._in_force.packed

    def _slot_changed(self, slot: Slot) -> None:
        restarts = self._metrics.counter("gateway_process_restarts_total", process=slot.name)
        restarts.add(slot.restarts - restarts.total)
        ready = self._children.ready
        self._metrics.values[self._metrics.gauge("gateway_workers_ready")] = ready
        if not self._serving and ready == len(self._children.workers):
            self._serving = True
            log.info("ready", extra={"fields": {"workers": ready}})
        if self._serving and slot.state is State.READY and not self._draining:
            self._children.spare.refill()
        if not self._serving and slot.problem is not None and not slot.came_up.is_set() and self._fatal is None:
            # Nothing has been served yet, and the child could say what is wrong: the operator should read it now.
            self._fatal = f"{slot.name} can't start: {slot.problem}"
            self._stop(notice=False)

    def _life_ended(self, life: asyncio.Task[None]) -> None:
        if not life.cancelled() and (error := life.exception()) is not None:
            # A defect of ours: no one would replace this slot's process again. Better to end and be started anew.
            log.critical("supervision_failed", exc_info=error)
            self._defect = True
            self._stop(notice=False)

    # --- what the whole is doing --------------------------------------------------------------------------------------

    def _obstacle(self) -> str | None:
        """Why there can be no rolling restart now."""
        if self._draining:
            return "the gateway is ending"
        return None if self._serving else "the gateway has not started yet"

    def _regions(self) -> list[memoryview]:
        return [self._metrics.region, *self._children.regions()]

    def readiness(self) -> Readiness:
        """Not before every worker has served once, not while draining, not while a process keeps dying."""
        reasons = []
        if self._draining:
            reasons.append("draining")
        if not self._serving:
            reasons.append("starting")
        elif not self._children.ready:
            reasons.append("no worker is ready")
        if self._beginning is not None and self._in_force.version is None:
            reasons.append("no routes have been published yet")
        if not self._children.predecessors.accepting:  # in a rolling restart that is stuck, those of before serve all
            reasons += [f"{slot.name} keeps dying" for slot in self._children.slots if slot.keeps_dying]
        return Readiness(tuple(reasons))

    def _routes_status(self) -> dict[str, object]:
        if self._beginning is None:
            return {"from": "file"}
        following = {} if self._follower is None else self._follower.status()
        began = {"from": "control_plane", "began_with": self._beginning.origin}
        return {**began, **self._in_force.status_of_routes(), **following}

    def status(self) -> dict[str, object]:
        return {
            "version": __version__,
            "state": "draining" if self._draining else "serving" if self._serving else "starting",
            "ready": self.readiness().ready,
            "started_at": self._started_at,
            "listen": authority(*self._address),
            "node": self._node.status(),
            **self._in_force.status(),
            "routes": self._routes_status(),
            **self._children.status(),
            "roll_refused": self._roll.refused,
        }


def _node_memory(handover: Handover | None, workers: int) -> NodeMemory:
    """That of the program before, so that a nonce used under it is used up under this one; or a new one. Raises
    CannotStart."""
    if handover is not None and handover.node is not None:
        os.set_inheritable(handover.node, False)
        try:
            return NodeMemory(handover.node)
        except NodeMemoryError as error:  # its workers go on with theirs
            log.warning("node_memory_anew", extra={"fields": {"reason": str(error)}})
    try:
        return NodeMemory.create(workers=workers)
    except OSError as error:
        raise CannotStart(f"there is no memory for what the workers share: {error.strerror}") from error
