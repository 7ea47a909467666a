"""A rolling restart, as far as this program goes: asked for, rehearsed, handed over (see `handover`). The next program takes
over from there (`Children.take_over`)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from ostiary import __version__
from ostiary.gateway.admin import AdminListener
from ostiary.gateway.children import Children
from ostiary.gateway.handover import Handover, become, own_command, rehearse, signals_wait
from ostiary.gateway.held_sockets import HeldSockets
from ostiary.gateway.in_force import InForce

log = logging.getLogger("ostiary.gateway.supervisor")


class Roll:
    """One at a time. `obstacle` says why the gateway is in no state for one, None if it is. `region` is the descriptor of the
    supervisor's own counters, `node` that of what the workers share. `changing` is held meanwhile: a reload takes turns
    with it."""

    def __init__(
        self,
        *,
        admin: AdminListener,
        children: Children,
        in_force: InForce,
        region: int,
        node: int,
        obstacle: Callable[[], str | None],
        changing: asyncio.Lock,
    ) -> None:
        self.refused: str | None = None  # why the last one was
        self._admin = admin
        self._children = children
        self._in_force = in_force
        self._region = region
        self._node = node
        self._obstacle = obstacle
        self._changing = changing
        self._wanted = asyncio.Event()

    def ask(self) -> None:
        """A stuck one, whose new processes can't start, may be followed by the next: that is its mend."""
        reason = self._obstacle()
        if reason is None and (self._wanted.is_set() or (self._children.predecessors.all and not self._stuck())):
            reason = "a rolling restart is under way"
        if reason is None:
            self._wanted.set()
        else:
            log.warning("roll_ignored", extra={"fields": {"reason": reason}})

    def _stuck(self) -> bool:
        return any(slot.keeps_dying or slot.problem is not None for slot in self._children.slots)

    async def follow(self, held: HeldSockets) -> None:
        """Does what is asked for; `held` is what must not close. Runs until cancelled, or until the next program runs."""
        while True:
            await self._wanted.wait()
            async with self._changing:
                self.refused = await self._become_next(held)
            log.error("roll_refused", extra={"fields": {"problem": self.refused}})
            self._wanted.clear()

    async def _become_next(self, held: HeldSockets) -> str:
        """Becomes the program on disk, after a rehearsal. Returns only when that can't be, with the reason."""
        log.info("roll_rehearses", extra={"fields": {"version": __version__}})
        if (problem := await rehearse(self._handover(held), own_command())) is not None:
            return problem
        await self._admin.pause()
        try:
            async with signals_wait():
                if (obstacle := self._obstacle()) is not None:  # a SIGTERM that came in the meantime, say
                    return obstacle
                log.info("hands_over", extra={"fields": {"version": __version__}})
                become(self._handover(held), own_command())
        except OSError as error:
            return f"the program on disk can't be started: {error.strerror}"
        finally:
            await self._admin.start(*held.for_operators())

    def _handover(self, held: HeldSockets) -> Handover:
        listen, admin = held.handed()
        processes, regions = self._children.hand_over()
        return Handover(
            listen=listen,
            admin=admin,
            generation=self._in_force.generation,
            processes=tuple(processes),
            regions=(self._region, *regions),
            node=self._node,
        )
