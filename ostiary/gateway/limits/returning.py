"""Giving back what is left of slices where it does not go with a tick's questions: to the masters of a cluster, and at the
end of a worker."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Final

from ostiary.gateway.limits import script
from ostiary.gateway.limits.connection import Command, RedisConnection
from ostiary.gateway.limits.slices import Returned

# Of one command; see limiter.BATCH_MAX.
_TOGETHER_MAX: Final = 256


def commands(returned: Sequence[Returned]) -> Iterator[tuple[RedisConnection, Command]]:
    """One for each connection that took slices and each slot of a cluster, unless there are many."""
    places: dict[tuple[int, int], list[Returned]] = {}
    for each in returned:
        places.setdefault((id(each.connection), each.place), []).append(each)
    for some in places.values():
        for first in range(0, len(some), _TOGETHER_MAX):
            arguments = script.arguments([], "", b"", some[first : first + _TOGETHER_MAX])
            yield some[0].connection, (b"EVALSHA", script.DECIDE_SHA, *arguments)


async def give_back(returned: Sequence[Returned], *, within_seconds: float) -> None:
    """Returns when Redis has it all, or after that time. What Redis does not take stays counted."""
    asked = [connection.ask(command) for connection, command in commands(returned)]
    if asked:
        try:
            async with asyncio.timeout(within_seconds):
                await asyncio.gather(*asked, return_exceptions=True)
        except TimeoutError:
            pass
