"""Decisions without Redis, as each route chose: `local`, `open` or `closed`."""

from __future__ import annotations

import time

from ostiary.core.model import StoreFailure
from ostiary.gateway.limits.batch import Question
from ostiary.gateway.limits.decision import Decision, Outcome
from ostiary.gateway.limits.local import LocalLimits
from ostiary.gateway.limits.nonces import NodeNonces, Taken
from ostiary.gateway.limits.settling import Charge
from ostiary.gateway.limits.shadows import Shadows
from ostiary.gateway.node import NodeMemory

_OUTCOMES = {
    "rate": Outcome.RATE_LIMITED,
    "window": Outcome.RATE_LIMITED,
    "quota": Outcome.QUOTA_EXCEEDED,
    "concurrency": Outcome.TOO_MANY_CONCURRENT,
}


def replayed() -> Decision:
    return Decision(Outcome.NONCE_REPLAYED, b"", 0, False, None, "nonce")


def _unknown() -> Decision:
    """It can't be decided, and letting it in could do harm."""
    return Decision(Outcome.UNAVAILABLE, b"", 1, False, None, "none")


class Alone:
    """Decides from the memory of this node, for one of its `workers`.

    local: every limit as this worker's share, of all workers of as many nodes as there were when Redis was last asked.
    open: no limit. closed: refused, unless there is no limit and replaying the call would change nothing. Whatever lets a
    call in checks its nonce against what any worker of this node has seen accepted by Redis or has let in itself; when there
    is no room to remember another one, signed writes are refused."""

    def __init__(self, *, workers: int, node: NodeMemory, nonces: NodeNonces, shadows: Shadows) -> None:
        self.decided = 0
        self._workers = workers
        self._node = node
        self._nonces = nonces
        self._shadows = shadows
        self._limits = LocalLimits(sharers=self.sharers)

    def sharers(self) -> int:
        """How many workers there are on all nodes: each has one such part of every limit."""
        return self._workers * self._node.nodes

    def decide(self, question: Question, on_failure: StoreFailure) -> Decision:
        self.decided += 1
        policy = question.policy
        if on_failure is StoreFailure.CLOSED and (question.signed_write or not policy.empty):
            return _unknown()
        now = time.monotonic()
        if (nonce := question.nonce) is not None:
            if self._nonces.holds(nonce, now) or self._nonces.holds_elsewhere(nonce, now):
                return replayed()
            if question.signed_write and not self._nonces.has_room(nonce, now):
                return _unknown()
        if on_failure is not StoreFailure.LOCAL or policy.empty:
            return self._refused_by_nonce(question, now) or Decision(Outcome.ALLOWED, b"", 0, False, None, "none")
        return self._within_limits(question, now)

    def settle(self, charge: Charge) -> None:
        """A call that was decided here turned out to cost more, or less."""
        now_us = time.time_ns() // 1000
        self._limits.settle(charge.policy, charge.names, charge.skipped, charge.difference, charge.taken_us, now_us)

    def _refused_by_nonce(self, question: Question, now: float) -> Decision | None:
        """Uses it up. A refused call must not have taken anything else, so this comes after the limits were found to hold,
        and before they are taken."""
        if question.nonce is None:
            return None
        match self._nonces.take(question.nonce, now, question.nonce_seconds):
            case Taken.USED:
                return replayed()
            case Taken.UNKNOWN if question.signed_write:
                return _unknown()
        return None

    def _within_limits(self, question: Question, now: float) -> Decision:
        policy, labels = question.policy, question.policy.labels
        now_us = time.time_ns() // 1000
        local = self._limits.question(policy, question.names, now_us)
        standing, remaining = local.standing, 0
        if standing.refused:
            standing = local.charge_refused()
            assert standing.index is not None  # noqa: S101  what refused still does
            label, remaining, reset = labels[standing.index], standing.remaining, standing.reset_seconds
        elif local.crowded is not None:
            local.charge_refused()
            label, reset = labels[local.crowded], 1
        else:
            if (refusal := self._refused_by_nonce(question, now)) is not None:
                return refusal
            standing, lease = local.take()
            headers = b""
            if standing.index is not None:
                headers = labels[standing.index].headers(standing.remaining, standing.reset_seconds)
            skipped = standing.would_refuse
            would_refuse = self._shadows.would_refuse(policy, skipped) if skipped else ()
            charge = Charge(policy, question.names, now_us, alone=True, skipped=skipped) if policy.settles else None
            return Decision(Outcome.ALLOWED, headers, 0, standing.overage, lease, "none", charge, would_refuse)
        return Decision(_OUTCOMES[label.kind], label.headers(remaining, reset), reset, False, None, label.kind)
