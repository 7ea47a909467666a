"""The configuration in force, and how another takes its place: the file's, read once the file has come to rest, or a version
of the routes that the control plane published. One worker tries it, then all get it; what is refused changes nothing."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ostiary.core.model import Configuration
from ostiary.core.published import RouteVersion
from ostiary.followed import PROBLEMS_KEPT_MAX, FileWatch, Refused, read_whole
from ostiary.gateway.channel import pack_configuration
from ostiary.gateway.children import Children
from ostiary.gateway.reload import (
    PROBLEMS_LOGGED_MAX,
    RefusedVersion,
    ReloadResult,
    certificate_files,
    complete,
    needs_restart,
)
from ostiary.gateway.slot import State
from ostiary.gateway.telemetry import Metrics
from ostiary.gateway.telemetry.log import tell_left_out

log = logging.getLogger("ostiary.gateway.supervisor")

# The file is looked at this often, and read when two looks agree: a change holds about a second after it was written.
FILE_POLL_SECONDS = 0.5


class InForce:
    """`packed` is the configuration as children are given it, `generation` its number. `load` reads the file again and raises
    ConfigurationError. `changing` is held during a reload: a rolling restart takes turns with it.

    Where routes are published, `configuration` is `host`, which the file says, with `version`; `refused` is a newer version
    that can't be taken, with the reasons. It is tried again whenever the file changes, or one that is named."""

    def __init__(
        self,
        *,
        path: Path,
        configuration: Configuration,
        generation: int,
        load: Callable[[Path], Configuration],
        metrics: Metrics,
        changing: asyncio.Lock,
        host: Configuration | None = None,
        version: RouteVersion | None = None,
        refused: RefusedVersion | None = None,
    ) -> None:
        self.path = path
        self.configuration = configuration
        self.version = version
        self.refused = refused
        self._host = configuration if host is None else host
        self._watch = FileWatch(path, (*certificate_files(configuration), *(refused.followed if refused else ())))
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
        self._tell_version()

    def ask(self) -> None:
        """The file is to be read again, changed or not."""
        self._wanted.set()

    async def follow(self, children: Children) -> None:
        """Brings what the file says in force, in the children, whenever it changes. Runs until cancelled."""
        while True:
            self._tell_expiry()
            try:
                await asyncio.wait_for(self._wanted.wait(), FILE_POLL_SECONDS)
            except TimeoutError:
                tell_left_out()
                if not self._watch.came_to_rest():
                    continue
            self._wanted.clear()
            async with self._changing:
                self._watch.mark_read()
                problems = await self._reload(children)
                self._report(problems)

    async def _reload(self, children: Children) -> tuple[str, ...]:
        """Brings the file in force, or gives the reasons why not; then nothing has changed."""
        try:
            host = await asyncio.to_thread(read_whole, self.path, self._load, self._watch)
        except Refused as refused:
            self._watch.follow(self._followed(refused.followed))
            return refused.problems
        self._watch.follow(self._followed(certificate_files(host)))
        if fields := needs_restart(self.configuration, host):
            names = ", ".join(fields)
            return (f"{self.path}: {names}: changed, and takes effect only at a restart; nothing was reloaded",)
        problems: tuple[str, ...] = ()
        waiting = self.refused
        for version in (self.version,) if waiting is None else (waiting.version, self.version):
            followed: tuple[str, ...] = ()
            try:
                configuration = await asyncio.to_thread(complete, host, version)
            except Refused as refused:
                followed, problems = refused.followed, refused.problems
                self._watch.follow(self._followed(followed))
            else:
                self._watch.follow(self._followed(certificate_files(configuration)))
                problems = await self._hand_out(configuration, children, of=str(self.path))
            if not problems:
                self._host = host
                self._now_runs(version)
                return ()
            if waiting is not None and version is waiting.version:
                self.refused = RefusedVersion(waiting.version, problems, followed)
        return problems

    async def take(self, version: RouteVersion, children: Children) -> None:
        """Brings a version of the routes in force in all workers, or in none: then it is `refused`. Of the host's own
        settings nothing changes, whatever has become of its files."""
        name = f"version {version.number} of the routes"
        followed: tuple[str, ...] = ()
        async with self._changing:
            try:
                composed = await asyncio.to_thread(complete, self._host, version)
            except Refused as refused:
                followed, problems = refused.followed, refused.problems
            else:
                configuration = replace(
                    self.configuration,
                    plans=composed.plans,
                    upstreams=composed.upstreams,
                    routes=composed.routes,
                    issuers=composed.issuers,
                    certificates=composed.certificates,
                    warnings=composed.warnings,
                )
                self._watch.follow(self._followed(certificate_files(configuration)))
                problems = await self._hand_out(configuration, children, of=name)
            if problems:
                self.refused = RefusedVersion(version, problems, followed)
                self._watch.follow(self._followed(followed))
                self._tell_version()
                self._metrics.counter("config_reload_failures_total").add(1)
                fields = {
                    "version": version.number,
                    "in_force": None if self.version is None else self.version.number,
                    "problems": list(problems[:PROBLEMS_LOGGED_MAX]),
                    "problem_count": len(problems),
                }
                log.error("routes_refused", extra={"fields": fields})
                return
            self._now_runs(version)
            self._metrics.counter("config_reloads_total").add(1)
            self._metrics.values[self._metrics.gauge("config_generation")] = self.generation
            self.tell_warnings()

    def _now_runs(self, version: RouteVersion | None) -> None:
        if version is not self.version and version is not None:
            self.refused = None
            log.info("routes_in_force", extra={"fields": {"version": version.number, "generation": self.generation}})
        self.version = version
        self._tell_version()

    def _followed(self, candidates: tuple[str, ...]) -> tuple[str, ...]:
        """The certificate files in force, those of a configuration that may not come in force, and those that may mend a
        version of the routes."""
        mending = () if self.refused is None else self.refused.followed
        return tuple(dict.fromkeys((*certificate_files(self.configuration), *candidates, *mending)))

    async def _hand_out(self, configuration: Configuration, children: Children, *, of: str) -> tuple[str, ...]:
        """One worker first: what it refuses reaches no other. One of the rest that fails then is replaced. `of` says what is
        handed out."""
        packed = pack_configuration(configuration)
        generation = self.generation + 1
        first = next((worker for worker in children.workers if worker.state is State.READY), None)
        if first is not None and (problem := await first.reload(generation, packed)) is not None:
            return (f"{of}: {problem}",)
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
            self._metrics.counter("config_reload_failures_total").add(1)
            fields = {
                "generation": self.generation,
                "problems": list(problems[:PROBLEMS_LOGGED_MAX]),
                "problem_count": len(problems),
            }
            log.error("reload_refused", extra={"fields": fields})
        else:
            self._metrics.counter("config_reloads_total").add(1)
            self._metrics.values[self._metrics.gauge("config_generation")] = self.generation
            log.info("reloaded", extra={"fields": {"generation": self.generation}})
            self.tell_warnings()

    def _tell_version(self) -> None:
        if self._host.published is None:
            return
        values = self._metrics.values
        values[self._metrics.gauge("config_routes_version")] = 0 if self.version is None else self.version.number
        values[self._metrics.gauge("config_routes_refused")] = float(self.refused is not None)

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

    def status_of_routes(self) -> dict[str, object]:
        refused = self.refused
        return {
            "version": None if self.version is None else self.version.number,
            "published_at": None if self.version is None else self.version.published_at,
            "refused": None
            if refused is None
            else {"version": refused.version.number, "problems": list(refused.problems[:PROBLEMS_KEPT_MAX])},
        }
