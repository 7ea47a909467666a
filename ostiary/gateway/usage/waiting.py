"""How long whoever brings usage somewhere waits, for its next try or to be stopped: shipper, and consumer of the stream."""

from __future__ import annotations

import asyncio
import random
from typing import Final

_BACKOFF_FIRST_SECONDS: Final = 0.1
_BACKOFF_MOST_SECONDS: Final = 5.0  # how long rows wait at most once what failed is back


def backoff_seconds(failures: int) -> float:
    """After so many failures in a row, from 1. Doubling to a bound, then any time from half of it: those that lost their sink
    together don't return together."""
    most = min(_BACKOFF_MOST_SECONDS, _BACKOFF_FIRST_SECONDS * 2.0 ** min(failures - 1, 16))
    return random.uniform(most / 2, most)  # noqa: S311  spread, not secrecy


async def wait_for_stop(stop: asyncio.Event, seconds: float) -> bool:
    """At most that long; True if it is set."""
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return False
    return True
