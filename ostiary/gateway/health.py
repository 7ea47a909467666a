"""Active health checks: each worker asks each target of an upstream that has `health`, and takes it out of the choice while
it fails. Off the hot path, so by aiohttp; which is imported with the first check, because most workers have none and it
would be a quarter of their start."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable
from importlib import import_module
from typing import TYPE_CHECKING

from ostiary.core.model import Health
from ostiary.gateway.telemetry.metrics import Metrics
from ostiary.gateway.upstreams import UpstreamGroup
from ostiary.gateway.wire.pool import TargetPool

if TYPE_CHECKING:
    import aiohttp

logger = logging.getLogger("ostiary.gateway.health")


class HealthChecks:
    """`follow` starts the checks of a configuration and ends those of the one before."""

    def __init__(self, *, metrics: Metrics) -> None:
        self._metrics = metrics
        self._tasks: list[asyncio.Task[None]] = []
        self._session: aiohttp.ClientSession | None = None

    def follow(self, groups: Iterable[UpstreamGroup]) -> None:
        for task in self._tasks:
            task.cancel()
        self._tasks = []
        for group in groups:
            health = group.upstream.health
            for pool in group.pools:
                slot = self._metrics.gauge("upstream_healthy", upstream=group.name, target=pool.target.authority)
                self._metrics.values[slot] = 1.0
                pool.healthy = True
                if health is not None:
                    check = self._check(group.name, pool, health, slot)
                    self._tasks.append(asyncio.get_running_loop().create_task(check))

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        if self._session is not None:
            await self._session.close()

    async def _check(self, name: str, pool: TargetPool, health: Health, slot: int) -> None:
        # In a thread: a reload that brings the first check must not hold up the requests under way for 0.1 s.
        await asyncio.to_thread(import_module, "aiohttp")
        import aiohttp

        if self._session is None:
            self._session = aiohttp.ClientSession(auto_decompress=False)
        session = self._session
        target = pool.target
        url = f"{target.scheme}://{target.authority}{health.path}"
        timeout = aiohttp.ClientTimeout(total=min(health.every_seconds, 5.0))
        good = bad = 0
        while True:
            try:
                async with session.get(url, timeout=timeout, allow_redirects=False) as answer:
                    well = 200 <= answer.status < 400
            except (aiohttp.ClientError, TimeoutError, OSError):
                well = False
            good, bad = (good + 1, 0) if well else (0, bad + 1)
            run, needed = (bad, health.unhealthy_after) if pool.healthy else (good, health.healthy_after)
            if run >= needed:
                pool.healthy = well
                self._metrics.values[slot] = float(well)
                logger.warning(
                    "upstream_target_healthy" if well else "upstream_target_unhealthy",
                    extra={"fields": {"upstream": name, "target": target.authority}},
                )
            await asyncio.sleep(health.every_seconds)
