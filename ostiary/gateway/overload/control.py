"""Measures how much is too much in one worker, four times a second, and acts on it: tells the shedder, makes room, pauses
accepting, says so in the log."""

from __future__ import annotations

import asyncio
import logging
import resource
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from ostiary.core.model import ClientLimits
from ostiary.gateway.telemetry.metrics import Metrics

from .accepting import Accepting, connections_that_fit, descriptors_are_short
from .memory import CgroupMemory, Memory, give_memory_back
from .pressure import MEMORY_PART_MAX
from .shedding import BEAT_SECONDS, Shedder

if TYPE_CHECKING:
    from ostiary.gateway.wire.client import ClientConnection
    from ostiary.gateway.wire.pool import TargetPool

log: Final = logging.getLogger("ostiary.gateway.overload")

# From this part of the memory bound on, no new connection is served either: each costs 10 KB before it has said anything.
SHUT_PART: Final = MEMORY_PART_MAX[-1]
# To make room, connections are closed that have been idle for so long: one between two requests of a busy client is not.
IDLE_SECONDS: Final = 1.0
# Accepting goes on once so many of the connections that fit are free, so that it does not stop and go with each of them.
FREE_PART: Final = 0.02
# A head is a kilobyte or two; whoever has sent so much of one, and not its end, holds memory that others need.
PARTIAL_HEAD_BYTES: Final = 8 * 1024
TELL_SECONDS: Final = 10.0
GIVE_BACK_SECONDS: Final = 2.0


class Overload:
    """`connections_max` is how many clients the descriptors allow. `shut`: memory is so short that none more is served."""

    def __init__(
        self,
        *,
        metrics: Metrics,
        limits: ClientLimits,
        connections: set[ClientConnection],
        pools: Callable[[], Iterable[TargetPool]],
    ) -> None:
        self.shedder = Shedder(metrics=metrics)
        self.shut = False
        self._connections = connections
        self._pools = pools
        self._loop = asyncio.get_running_loop()
        self._memory = Memory(limits.memory_bytes, cgroup=CgroupMemory.of_this_process())
        self._memory_part = 0.0
        self._values = metrics.values
        self._memory_gauge = metrics.gauge("gateway_memory_ratio")
        self._pauses = metrics.counter("accept_pauses_total")
        self._accepting: Accepting | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._shedding = False
        self._told_at = -TELL_SECONDS
        self._told_shed = 0
        self._told_full_at = -TELL_SECONDS
        self._told_memory_at = -TELL_SECONDS
        self._gave_back_at = -GIVE_BACK_SECONDS
        self._look_at_descriptors()
        if self.connections_max < limits.connections:
            fields = {"fit": self.connections_max, "configured": limits.connections, "descriptors": self._descriptors}
            log.warning("descriptors_bound_connections", extra={"fields": fields})

    def start(self, accepting: Accepting) -> None:
        self._accepting = accepting
        self._beat()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def follow(self, limits: ClientLimits) -> None:
        """The bounds of a new configuration."""
        self._memory.configured_bytes = limits.memory_bytes

    def status(self) -> dict[str, object]:
        return {
            "shedding": self.shedder.watchful,
            "shed": self.shedder.shed,
            "connections_max": self.connections_max,
            "accepting": self._accepting is not None and not self._accepting.paused,
            "memory": round(self._memory_part, 3),
        }

    def _beat(self) -> None:
        self.shedder.beat()
        self._timer = self._loop.call_later(BEAT_SECONDS, self._beat)

    # --- four times a second

    def sweep(self) -> None:
        now = self._loop.time()
        self._memory_part = part = self._memory.part_in_use()
        self._values[self._memory_gauge] = part
        self.shedder.memory_is(part)
        self.shut = part >= SHUT_PART
        if part >= MEMORY_PART_MAX[0]:
            self._make_room(now)
        self._look_at_descriptors()
        short = descriptors_are_short(self._descriptors)
        if short or len(self._connections) >= self.connections_max:
            self._pause(now)
        elif self._accepting is not None and len(self._connections) <= self.connections_max * (1 - FREE_PART):
            self._accepting.resume()
        self._tell(now)

    def _look_at_descriptors(self) -> None:
        self._descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if self._descriptors == resource.RLIM_INFINITY:
            self._descriptors = 1 << 30
        self.connections_max = connections_that_fit(self._descriptors)

    def _make_room(self, now: float) -> None:
        """Gives up what nobody waits for; where normal calls are refused, also those of which a large part has come."""
        refuse_partial = self._memory_part >= MEMORY_PART_MAX[1]
        for connection in list(self._connections):
            connection.end_idle(IDLE_SECONDS)
            if refuse_partial:
                connection.refuse_partial_head(PARTIAL_HEAD_BYTES)
        for pool in self._pools():
            pool.close_idle()
        if now - self._told_memory_at >= TELL_SECONDS:
            self._told_memory_at = now
            fields = {"part": round(self._memory_part, 3), "connections": len(self._connections)}
            log.warning("memory_short", extra={"fields": fields})
        if now - self._gave_back_at >= GIVE_BACK_SECONDS:
            self._gave_back_at = now
            give_memory_back()

    # --- descriptors

    def on_full(self) -> None:
        """There are as many clients as fit: no more are accepted until some have gone."""
        self._pause(self._loop.time())

    def _pause(self, now: float) -> None:
        if self._accepting is None:
            return
        if self._accepting.pause():
            self._pauses.add(1)
            if now - self._told_full_at >= TELL_SECONDS:
                self._told_full_at = now
                fields = {"connections": len(self._connections), "descriptors": self._descriptors}
                log.warning("accepting_paused", extra={"fields": fields})
        # Who came and stays without a word makes room for who waits outside.
        for connection in list(self._connections):
            connection.end_idle(IDLE_SECONDS)
        if descriptors_are_short(self._descriptors):
            for pool in self._pools():
                pool.close_idle()

    # --- the log

    def _tell(self, now: float) -> None:
        shedding = self.shedder.watchful
        shed = self.shedder.shed - self._told_shed
        if shed and now - self._told_at >= TELL_SECONDS:
            self._told_at, self._told_shed = now, self.shedder.shed
            fields = {"refused": shed, "memory": round(self._memory_part, 3), "held": self.shedder.held}
            log.warning("calls_shed", extra={"fields": fields})
        elif self._shedding and not shedding and shed:
            self._told_shed = self.shedder.shed
            log.warning("shedding_ended", extra={"fields": {"refused": shed}})
        self._shedding = shedding
