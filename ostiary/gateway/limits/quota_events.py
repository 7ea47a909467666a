"""How much of a quota is used: told by Redis with a decision, and by this worker with the next usage record that it writes.

A record is in the spool before its call's answer ends, and reaches Postgres whatever is killed meanwhile; so does what it
carries. What is lost before (the reply came too late, the worker was killed between decision and record) is told again: by
the 1st, 2nd, 4th, 8th ... call past the share (`lua/decide.lua`), and by calls that a quota refuses.
The table takes each once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ostiary.core.limiting import period_end_us
from ostiary.gateway.limits.policy import LimitPolicy

# A worker without a call to record, or without a spool, keeps the latest; what is dropped is told again by later calls.
PENDING_MAX: Final = 1000

# Subjects at the end of their quota, whose refused calls this worker has told of.
USED_UP_MAX: Final = 4096


@dataclass(frozen=True, slots=True)
class QuotaReached:
    """`percent` (50, 80, 90, 100) of `limit` calls was used. `subject` as in the names of Redis: `k:` a key, `a:` an app,
    `o:` an organization, `r:` a route, `i:` an address, `h:` a hash of a header's value. `quota` as in `standard:day` of a
    plan and `clients/day-quota-by-ip` of a route."""

    subject: str
    quota: str
    limit: int
    percent: int
    period_ends_us: int


class QuotaEvents:
    """`pending` is what no record has carried yet."""

    def __init__(self) -> None:
        self.pending: list[QuotaReached] = []
        self._used_up: set[tuple[str, str, int]] = set()

    def reached(self, policy: LimitPolicy, names: Sequence[str], place: int, percent: int, period_ends_us: int) -> None:
        name = policy.state_name(names, place)
        subject = name[name.find("{") + 1 : name.find("}")]
        quota, limit, _ = policy.quota_at(place)
        if len(self.pending) >= PENDING_MAX:
            del self.pending[0]
        self.pending.append(QuotaReached(subject, quota, limit, percent, period_ends_us))

    def used_up(self, policy: LimitPolicy, names: Sequence[str], place: int, now_us: int) -> None:
        """A quota of which nothing is left refused a call: told once by each worker, for the call that took the last of it
        may have had no answer."""
        name = policy.state_name(names, place)
        _, _, period = policy.quota_at(place)
        ends_us = period_end_us(period, now_us)
        told = (name, policy.labels[place].name, ends_us)
        if told in self._used_up:
            return
        if len(self._used_up) >= USED_UP_MAX:
            self._used_up.clear()
        self._used_up.add(told)
        self.reached(policy, names, place, 100, ends_us)

    def take(self, at_most: int) -> list[QuotaReached]:
        """What is pending longest, for the record that is written now."""
        taken, self.pending = self.pending[:at_most], self.pending[at_most:]
        return taken

    def put_back(self, taken: list[QuotaReached]) -> None:
        """The record could not be written; the next one may."""
        self.pending[:0] = taken[: PENDING_MAX - len(self.pending)]
