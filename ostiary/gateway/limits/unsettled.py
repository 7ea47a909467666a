"""What Redis could not be told while it was away, and is told once it is back: calls that turned out to cost more.

Only what certainly was not counted: it was not sent, or refused in words that say so. What may have been counted is not
told again, and a call that turned out to cost less stays as it was charged: the Redis that comes back may never have seen
the call, and would give back another's."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from ostiary.gateway.limits.settling import Charge

# A Redis that has come back is in use within 2 s (see link); so soon after it the limits hold again.
RETRY_SECONDS: Final = 0.5

# What a longer outage leaves is past most windows, and the state would not be there to be charged.
KEPT_SECONDS: Final = 60.0

# 1000 calls a second for ten seconds; some 200 bytes each.
KEPT_MAX: Final = 10_000


class Unsettled:
    """`send` settles a charge as if its call had ended now; `lost` is told how many never will be."""

    def __init__(
        self, *, send: Callable[[Charge], None], away: Callable[[], bool], lost: Callable[[int], None]
    ) -> None:
        self._send = send
        self._away = away
        self._lost = lost
        self._kept: deque[Charge] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def keep(self, charges: Sequence[Charge]) -> None:
        now = time.monotonic()
        for charge in charges:
            charge.kept_until = charge.kept_until or now + KEPT_SECONDS
            if charge.difference <= 0 or charge.kept_until < now or len(self._kept) >= KEPT_MAX:
                self._lost(1)
            else:
                self._kept.append(charge)
        if self._kept and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(RETRY_SECONDS, self._send_again)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        kept, self._kept = self._kept, deque()
        self._lost(len(kept))

    def _send_again(self) -> None:
        self._timer = None
        kept, self._kept = self._kept, deque()
        if self._away():
            self.keep(kept)
        else:
            for charge in kept:
                self._send(charge)
