"""Active health checks: each worker asks each target of an upstream that has `health`, and takes it out of the choice while
it fails. Off the hot path, so by aiohttp; which is imported with the first check, because most workers have none and it
would be a quarter of their start."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from importlib import import_module
from typing import TYPE_CHECKING

from ostiary.core.model import Health, Target
from ostiary.gateway.upstreams import Member, UpstreamGroup

if TYPE_CHECKING:
    import aiohttp


class HealthChecks:
    """`follow` begins the checks that a configuration asks for and ends those it does not. A check that stays the same goes
    on: what it has learnt holds after a reload too."""

    def __init__(self) -> None:
        self._tasks: dict[tuple[str, Target, Health], asyncio.Task[None]] = {}
        self._subjects: dict[tuple[str, Target, Health], tuple[UpstreamGroup, Member]] = {}
        self._session: aiohttp.ClientSession | None = None

    def follow(self, groups: Iterable[UpstreamGroup]) -> None:
        self._subjects = {}
        for group in groups:
            for member in group.members:
                if group.upstream.health is None:
                    member.health.checked(passes=True)
                else:
                    self._subjects[group.name, member.pool.target, group.upstream.health] = (group, member)
            group.publish()
        for key in self._tasks.keys() - self._subjects.keys():
            self._tasks.pop(key).cancel()
        for key in self._subjects.keys() - self._tasks.keys():
            self._tasks[key] = asyncio.get_running_loop().create_task(self._check(key))

    async def close(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        for task in self._tasks.values():
            with contextlib.suppress(asyncio.CancelledError):
                await task
        if self._session is not None:
            await self._session.close()

    async def _check(self, key: tuple[str, Target, Health]) -> None:
        # In a thread: a reload that brings the first check must not hold up the requests under way for 0.1 s.
        await asyncio.to_thread(import_module, "aiohttp")
        import aiohttp

        if self._session is None:
            self._session = aiohttp.ClientSession(auto_decompress=False)
        session = self._session
        _, target, health = key
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
            group, member = self._subjects[key]  # of the configuration in force: a reload makes groups anew
            passes = member.health.passes_checks
            run, needed = (bad, health.unhealthy_after) if passes else (good, health.healthy_after)
            if passes != well and run >= needed:
                member.health.checked(well)
                group.meters.checked(member.number, passes=well, healthy=not member.health.out)
            await asyncio.sleep(health.every_seconds)
