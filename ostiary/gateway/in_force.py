"""The configuration in force, and how the file's takes its place: read once the file has come to rest, tried by one worker,
then given to all. A file that is refused changes nothing."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path

from ostiary.core.model import Configuration
from ostiary.gateway.channel import pack_configuration
from ostiary.gateway.children import Children
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
from ostiary.gateway.slot import State
from ostiary.gateway.telemetry import Metrics
from ostiary.gateway.telemetry.log import tell_left_out

log = logging.getLogger("ostiary.gateway.supervisor")

# The file is looked at this often, and read when two looks agree: a change holds about a second after it was written.
FILE_POLL_SECONDS = 0.5


class InForce:
    """`packed` is the configuration as children are given it, `generation` its number. `load` reads the file again and raises
    ConfigurationError. `changing` is held during a reload: a rolling restart takes turns with it."""

    def __init__(
        self,
        *,
        path: Path,
        configuration: Configuration,
        generation: int,
        load: Callable[[Path], Configuration],
        metrics: Metrics,
        changing: asyncio.Lock,
    ) -> None:
        self.path = path
        self.configuration = configuration
        self.packed = pack_configuration(configuration)
        self.generation = generation
        self._load = load
        self._metrics = metrics
        self._changing = changing
        self._wanted = asyncio.Event()
        self._last_reload: ReloadResult | None = None
        self._expiries: dict[str, int] = {}  # slots, by name; bounded by the catalog
        metrics.values[metrics.gauge("config_generation")] = generation
        for name in ("config_reloads_total", "config_reload_failures_total"):
            metrics.counter(name)

    def ask(self) -> None:
        """The file is to be read again, changed or not."""
        self._wanted.set()

    async def follow(self, children: Children) -> None:
        """Brings what the file says in force, in the children, whenever it changes. Runs until cancelled."""
        watch = FileWatch(self.path, certificate_files(self.configuration))
        while True:
            self._tell_expiry()
            try:
                await asyncio.wait_for(self._wanted.wait(), FILE_POLL_SECONDS)
            except TimeoutError:
                tell_left_out()
                if not watch.came_to_rest():
                    continue
            self._wanted.clear()
            async with self._changing:
                watch.mark_read()
                problems = await self._reload(watch, children)
                self._report(problems)

    async def _reload(self, watch: FileWatch, children: Children) -> tuple[str, ...]:
        """Brings the file in force, or gives the reasons why not; then nothing has changed."""
        try:
            configuration = await asyncio.to_thread(read_whole, self.path, self._load, watch)
        except Refused as refused:
            watch.follow(self._followed(refused.followed))
            return refused.problems
        watch.follow(self._followed(certificate_files(configuration)))
        if fields := needs_restart(self.configuration, configuration):
            names = ", ".join(fields)
            return (f"{self.path}: {names}: changed, and takes effect only at a restart; nothing was reloaded",)
        return await self._hand_out(configuration, children)

    def _followed(self, candidates: tuple[str, ...]) -> tuple[str, ...]:
        """The certificate files in force, and those of a configuration that may not come in force."""
        return tuple(dict.fromkeys((*certificate_files(self.configuration), *candidates)))

    async def _hand_out(self, configuration: Configuration, children: Children) -> tuple[str, ...]:
        """One worker first: what it refuses reaches no other. One of the rest that fails then is replaced."""
        packed = pack_configuration(configuration)
        generation = self.generation + 1
        first = next((worker for worker in children.workers if worker.state is State.READY), None)
        if first is not None and (problem := await first.reload(generation, packed)) is not None:
            return (f"{self.path}: {problem}",)
        self.configuration, self.packed, self.generation = configuration, packed, generation
        rest = [slot for slot in children.slots if slot is not first]
        problems = await asyncio.gather(*(slot.reload(generation, packed) for slot in rest))
        for slot, problem in zip(rest, problems, strict=True):
            if problem is not None:
                log.error("reload_replaces_process", extra={"fields": {"name": slot.name, "problem": problem}})
                slot.end_process()
        return ()

    # --- what is told of it

    def _tell_expiry(self) -> None:
        """How long the certificates in force still hold; of two of one name, the one that ends first."""
        now = time.time()
        left: dict[str, float] = dict.fromkeys(self._expiries, math.nan)
        for certificate in self.configuration.gateway.listen.tls:
            name = certificate.names[0] if certificate.names else "unnamed"
            seconds = certificate.expires_at - now
            left[name] = min(seconds, left[name]) if name in left and not math.isnan(left[name]) else seconds
        for name, seconds in left.items():
            slot = self._metrics.gauge("tls_certificate_expiry_seconds", certificate=name)
            self._expiries[name] = slot
            self._metrics.values[slot] = seconds
        tls = self.configuration.gateway.listen.tls
        if tls and (clients := tls[0].clients) is not None and (until := clients.revocation_until) is not None:
            self._metrics.values[self._metrics.gauge("client_crl_expiry_seconds")] = until - now

    def _report(self, problems: tuple[str, ...]) -> None:
        self._last_reload = ReloadResult(self.generation, time.time(), problems)
        if problems:
            self._metrics.values[self._metrics.counter("config_reload_failures_total")] += 1
            fields = {
                "generation": self.generation,
                "problems": list(problems[:PROBLEMS_LOGGED_MAX]),
                "problem_count": len(problems),
            }
            log.error("reload_refused", extra={"fields": fields})
        else:
            self._metrics.values[self._metrics.counter("config_reloads_total")] += 1
            self._metrics.values[self._metrics.gauge("config_generation")] = self.generation
            log.info("reloaded", extra={"fields": {"generation": self.generation}})
            self.tell_warnings()

    def tell_warnings(self) -> None:
        if warnings := self.configuration.warnings[:PROBLEMS_KEPT_MAX]:
            log.warning("configuration_warnings", extra={"fields": {"warnings": list(warnings)}})

    def status(self) -> dict[str, object]:
        return {
            "configuration": str(self.path),
            "generation": self.generation,
            "warnings": list(self.configuration.warnings[:PROBLEMS_KEPT_MAX]),
            "last_reload": self._last_reload.status() if self._last_reload else None,
        }
