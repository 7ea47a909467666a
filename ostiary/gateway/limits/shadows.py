"""Limits in shadow: which calls they would have refused, told in metrics, in the log and in `/status`."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Final

from ostiary.gateway.limits.decision import WOULD_REFUSE, LimiterObserver
from ostiary.gateway.limits.policy import LimitPolicy

log = logging.getLogger("ostiary.gateway.limits")

# A limit in shadow that is far too tight would refuse thousands of calls a second: one line tells of all since the last.
LOG_SECONDS: Final = 10.0

# Limits that are told apart, of all routes; the configuration may have more. What is beyond counts as `other`.
LIMITS_MAX: Final = 1000
STATUS_MAX: Final = 50


class _Tally:
    __slots__ = ("calls", "told_at", "untold")

    def __init__(self) -> None:
        self.calls = 0
        self.untold = 0
        self.told_at = 0.0


class Shadows:
    """What one worker has seen since it began."""

    def __init__(self, observe: LimiterObserver) -> None:
        self._observe = observe
        self._tallies: dict[tuple[str, str], _Tally] = {}

    def would_refuse(self, policy: LimitPolicy, places: Sequence[int]) -> tuple[str, ...]:
        """A call was let in that these limits of the policy, in shadow, would have refused. Their names."""
        labels = [policy.labels[place] for place in places]
        for label in labels:
            self._observe.decided(label.kind, WOULD_REFUSE)
            self._count(policy.route, label.name)
        return tuple(label.name for label in labels)

    def status(self) -> list[dict[str, object]]:
        """The limits that would have refused most, and how many calls."""
        most = sorted(self._tallies.items(), key=lambda item: -item[1].calls)[:STATUS_MAX]
        return [{"route": route, "limit": limit, "calls": tally.calls} for (route, limit), tally in most]

    def _count(self, route: str, limit: str) -> None:
        tally = self._tallies.get((route, limit))
        if tally is None:
            if len(self._tallies) >= LIMITS_MAX:
                route, limit = "other", "other"
            tally = self._tallies.setdefault((route, limit), _Tally())
        tally.calls += 1
        tally.untold += 1
        now = time.monotonic()
        if not tally.told_at or now - tally.told_at >= LOG_SECONDS:
            fields = {"route": route, "limit": limit, "calls": tally.untold}
            log.info("limit_would_refuse", extra={"fields": fields})
            tally.told_at, tally.untold = now, 0
