"""Waiting for what tells nobody that it has happened."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

SECONDS_MAX = 10.0
# What a busy machine may add to any time. A bound in a test tells a wait from none, not a fast machine from a slow one.
MACHINE_SECONDS = 2.0


async def until(holds: Callable[[], object], what: str) -> None:
    """Returns as soon as `holds` does; fails, naming `what`, when it does not in time."""
    try:
        async with asyncio.timeout(SECONDS_MAX):
            while not holds():  # noqa: ASYNC110  the point of it
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"not within {SECONDS_MAX} s: {what}") from None
