"""Active health checks: each worker asks each target of an upstream that has `health`, and takes it out of the choice while
it fails. A check connects as a call does (name, addresses, unix socket, TLS), each time anew: that it can is half of what is
to be known."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Final, cast

from ostiary.core.upstream import Health, Target
from ostiary.gateway.upstreams import Member, UpstreamGroup
from ostiary.gateway.wire.dialing import ConnectFailed
from ostiary.gateway.wire.pool import TargetPool
from ostiary.gateway.wire.request_head import Framing
from ostiary.gateway.wire.response_head import HEAD_BYTES_MAX, ResponseError, parse_response_head
from ostiary.gateway.wire.upstream import INTERIM_ANSWERS_MAX

# Of one check: what they are apart, but a target that is busy for a moment is not ill, and one that hangs is.
CHECK_SECONDS_MIN: Final = 1.0
CHECK_SECONDS_MAX: Final = 5.0
BODY_BYTES_MAX: Final = 64 * 1024  # of an answer to a check is read; the status is what counts


class HealthChecks:
    """`follow` begins the checks that a configuration asks for and ends those it does not. A check that stays the same goes
    on: what it has learnt holds after a reload too."""

    def __init__(self) -> None:
        self._tasks: dict[tuple[str, Target, Health], asyncio.Task[None]] = {}
        self._subjects: dict[tuple[str, Target, Health], tuple[UpstreamGroup, Member]] = {}

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

    async def _check(self, key: tuple[str, Target, Health]) -> None:
        health = key[2]
        seconds = min(max(health.every_seconds, CHECK_SECONDS_MIN), CHECK_SECONDS_MAX)
        good = bad = 0
        while True:
            well = await is_well(self._subjects[key][1].pool, health.path, seconds=seconds)
            good, bad = (good + 1, 0) if well else (0, bad + 1)
            group, member = self._subjects[key]  # of the configuration in force: a reload makes groups anew
            passes = member.health.passes_checks
            run, needed = (bad, health.unhealthy_after) if passes else (good, health.healthy_after)
            if passes != well and run >= needed:
                member.health.checked(well)
                group.meters.checked(member.number, passes=well, healthy=not member.health.out)
            await asyncio.sleep(health.every_seconds)


async def is_well(pool: TargetPool, path: str, *, seconds: float) -> bool:
    """Whether the target answers GET `path` with 2xx or 3xx within `seconds`."""
    asking = _Asking()
    try:
        async with asyncio.timeout(seconds):
            await pool.dialer.connect(lambda: asking, seconds=seconds)
            return await asking.ask(path, pool.target.authority)
    except (ConnectFailed, ResponseError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
        return False
    finally:
        asking.close()


class _Asking(asyncio.StreamReaderProtocol):
    """One connection, for one check."""

    def __init__(self) -> None:
        self._reader = asyncio.StreamReader(limit=HEAD_BYTES_MAX)
        self._way: asyncio.Transport | None = None
        super().__init__(self._reader)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._way = cast(asyncio.Transport, transport)

    async def ask(self, path: str, host: str) -> bool:
        """Raises ResponseError, and what StreamReader raises."""
        assert self._way is not None  # noqa: S101  the dialer has connected it
        request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: ostiary-health\r\nConnection: close\r\n\r\n"
        self._way.write(request.encode("ascii"))
        for _ in range(INTERIM_ANSWERS_MAX + 1):
            head = parse_response_head((await self._reader.readuntil(b"\r\n\r\n"))[:-4], b"GET")
            if head.status >= 200:
                break
        if 0 < head.length <= BODY_BYTES_MAX and head.framing is Framing.LENGTH:
            await self._reader.readexactly(head.length)  # else the target would see its answer refused
        return 200 <= head.status < 400

    def close(self) -> None:
        if self._way is not None:
            self._way.abort()
