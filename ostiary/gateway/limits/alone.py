"""Decisions without Redis, as each route chose: `local`, `open` or `closed`."""

from __future__ import annotations

import time

from ostiary.core.model import StoreFailure
from ostiary.gateway.limits.batch import Question
from ostiary.gateway.limits.decision import Decision, Outcome
from ostiary.gateway.limits.local import LocalLimits
from ostiary.gateway.limits.nonces import NonceMemory
from ostiary.gateway.limits.settling import Charge

_OUTCOMES = {
    "rate": Outcome.RATE_LIMITED,
    "window": Outcome.RATE_LIMITED,
    "quota": Outcome.QUOTA_EXCEEDED,
    "concurrency": Outcome.TOO_MANY_CONCURRENT,
}


def replayed() -> Decision:
    return Decision(Outcome.NONCE_REPLAYED, b"", 0, False, None, "nonce")


class Alone:
    """Decides from the memory of this worker, one of `workers`.

    local: every limit as this worker's share. open: no limit. closed: refused, unless there is no limit and replaying the
    call would change nothing. Whatever lets a call in checks its nonce against what this worker has seen (`seen`, accepted
    by Redis) and has let in itself; when there is no room to remember another one, signed writes are refused."""

    def __init__(self, *, workers: int, seen: NonceMemory, nonces_generation_max: int) -> None:
        self.decided = 0
        self._limits = LocalLimits(workers=workers)
        self._seen = seen
        self._nonces = NonceMemory(nonces_generation_max)

    def knows(self, nonce: str, now: float) -> bool:
        return self._seen.holds(nonce, now) or self._nonces.holds(nonce, now)

    def decide(self, question: Question, on_failure: StoreFailure) -> Decision:
        self.decided += 1
        policy, nonce = question.policy, question.nonce
        if on_failure is StoreFailure.CLOSED and (question.signed_write or not policy.empty):
            return Decision(Outcome.UNAVAILABLE, b"", 1, False, None, "none")
        now = time.monotonic()
        if nonce is not None:
            if self.knows(nonce, now):
                return replayed()
            if question.signed_write and self._nonces.is_full(now):
                return Decision(Outcome.UNAVAILABLE, b"", 1, False, None, "none")
        if on_failure is StoreFailure.LOCAL and not policy.empty:
            decision = self._within_limits(question)
        else:
            decision = Decision(Outcome.ALLOWED, b"", 0, False, None, "none")
        if nonce is not None and decision.outcome is Outcome.ALLOWED:
            self._nonces.remember(nonce, now, question.nonce_seconds)
        return decision

    def settle(self, charge: Charge) -> None:
        """A call that was decided here turned out to cost more, or less."""
        self._limits.settle(charge.names, charge.difference, charge.taken_us, time.time_ns() // 1000)

    def _within_limits(self, question: Question) -> Decision:
        policy, labels = question.policy, question.policy.labels
        now_us = time.time_ns() // 1000
        local = self._limits.question(policy, question.names, now_us)
        standing, remaining = local.standing, 0
        if standing.refused and standing.index is not None:
            label, remaining, reset = labels[standing.index], standing.remaining, standing.reset_seconds
        elif local.crowded:
            label, reset = labels[-1], 1
        else:
            standing, lease = local.take()
            headers = b""
            if standing.index is not None:
                headers = labels[standing.index].headers(standing.remaining, standing.reset_seconds)
            charge = Charge(policy, question.names, now_us, alone=True) if policy.settles else None
            return Decision(Outcome.ALLOWED, headers, 0, standing.overage, lease, "none", charge)
        return Decision(_OUTCOMES[label.kind], label.headers(remaining, reset), reset, False, None, label.kind)
