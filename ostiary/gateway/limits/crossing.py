"""One question about names that lie in several slots of a Redis Cluster: asked slot by slot, and still all or nothing.

No script sees two slots, so the slots are asked one after the other. When one refuses, those before it give the call back,
as one that cost nothing, but for limits that charge refused calls; and those after it, which were not asked, are told to
charge it. The slot of the plan comes last, and with it the nonce; where a plan counts an app or an organization, the
nonce, which belongs to the key, comes after it. docs/decisions/0015-redis-topologies.md and 0017 have the reasons.

Never above a limit: what is admitted has been counted everywhere. A refused call costs nothing in the end, but what a bucket
of another slot than the last was refilled with meanwhile; until it has been given back, others may be refused in its
place."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final, Protocol

from ostiary.core.model import StoreFailure
from ostiary.gateway.limits import script
from ostiary.gateway.limits.batch import Question
from ostiary.gateway.limits.connection import RedisConnection
from ostiary.gateway.limits.decision import Decision, Outcome
from ostiary.gateway.limits.policy import LimitPolicy
from ostiary.gateway.limits.settling import Charge
from ostiary.gateway.limits.slots import slot_of

# Slots in the order in which they are asked: whoever asks for the same ones does so in the same order, so of two calls that
# want the last place of two limits one gets it. First what one caller has alone: a flood from one address is refused
# there, and never takes from what it shares with others.
_FIRST: Final = {"ip": 0, "header": 1, "key": 2, "app": 3, "organization": 4, "route": 5}
_PLAN: Final = 9
_NONCE: Final = 10

# How many calls left stands for "not told".
_UNTOLD: Final = 1 << 62


class Groups:
    """The parts of a policy by the slot of their names. `slots` in the order in which they are asked. A part is asked
    whole: its state and its calls under way have one subject, and so one slot."""

    __slots__ = ("names", "parts", "slots")

    def __init__(self, slots: list[int], parts: dict[int, list[int]], names: dict[int, list[str]]) -> None:
        self.slots = slots
        self.parts = parts
        self.names = names


def single_slot(question: Question) -> int:
    """The slot that all names of a question lie in; -1 if there are several."""
    slot = -1
    tag = ""
    for name in question.names:
        if tag and name.startswith(tag):
            continue
        other = slot_of(name)
        if slot >= 0 and other != slot:
            return -1
        slot, tag = other, name[: name.find("}") + 1]
    if question.nonce is not None and not (tag and question.nonce.startswith(tag)):
        other = slot_of(question.nonce)
        if slot >= 0 and other != slot:
            return -1
        slot = other
    return slot


def groups(question: Question) -> Groups:
    """The parts of a question by slot. The slot of the plan comes last, and that of the nonce, which is the same one."""
    parts: dict[int, list[int]] = {}
    names: dict[int, list[str]] = {}
    rank: dict[int, int] = {}
    for place, mine in enumerate(question.policy.names_by_part(question.names)):
        part = question.policy.parts[place]
        slot = slot_of(mine[0])
        parts.setdefault(slot, []).append(place)
        names.setdefault(slot, []).extend(mine)
        order = _PLAN if part.plan is not None else _FIRST[part.by.value]
        rank[slot] = max(rank.get(slot, 0), order)
    if question.nonce is not None:
        slot = slot_of(question.nonce)
        parts.setdefault(slot, [])
        names.setdefault(slot, [])
        rank[slot] = _NONCE
    return Groups(sorted(rank, key=lambda slot: rank[slot]), parts, names)


class Step:
    """What one slot but the last is asked."""

    __slots__ = ("crossing", "names", "nonce", "parts", "policy", "slot", "specification")

    def __init__(self, crossing: Crossing, slot: int, parts: tuple[int, ...], names: list[str]) -> None:
        self.crossing = crossing
        self.slot = slot
        self.parts = parts
        self.names = names
        self.nonce: str | None = None
        self.policy = crossing.question.policy.piece(parts)
        self.specification = self.policy.specification(0)


class LastStep(Question):
    """What the last slot is asked: as if it were the whole question, but for what the others answered before."""

    __slots__ = ("crossing", "remaining")

    def __init__(self, crossing: Crossing, policy: LimitPolicy, names: list[str]) -> None:
        question = crossing.question
        super().__init__(
            policy,
            names,
            question.nonce,
            question.nonce_seconds,
            question.on_failure,
            question.signed_write,
        )
        self.crossing = crossing
        self.remaining = _UNTOLD

    def set(self, value: Decision) -> None:
        if not self.done:
            super().set(value)
            self.crossing.decided(value, self.remaining)


class Taken(Charge):
    """A call that was counted by the limits of one slot. It is given back on the very connection that counted it: another
    one may lead to a replica that was promoted and has never seen it."""

    __slots__ = ("connection",)

    def __init__(self, step: Step, taken_us: int, connection: RedisConnection, skipped: Sequence[int]) -> None:
        super().__init__(step.policy, step.names, taken_us, alone=False, skipped=skipped)
        self.connection = connection

    def give_back(self, *, charged: bool) -> None:
        """As a call that turned out to cost nothing. `charged`: but to limits that charge refused calls."""
        if not self.connection.is_open:
            return
        self.difference = -self.policy.cost
        if not self.difference:
            return
        self.crossing = True
        if charged:
            self.skipped = [*self.skipped, *self.policy.charged()]
        arguments = script.arguments([], "", b"", [self])

        def replied(reply: object) -> None:
            # Only after SCRIPT FLUSH. Any other refusal (the slot has moved) leaves the call counted until its time is over.
            if str(reply).startswith("NOSCRIPT"):
                self.connection.send(("EVAL", script.DECIDE, *arguments), _nothing)

        self.connection.send((b"EVALSHA", script.DECIDE_SHA, *arguments), replied)


class Way(Protocol):
    """What a crossing needs of the cluster and its limiter."""

    def ask_step(self, step: Step) -> bool:
        """Sends a step to its slot; whether there was anybody to send it to."""

    def ask_last(self, slot: int, question: Question) -> None:
        """Sends the last step, which is decided in any case."""

    def decide_alone(self, question: Question) -> Decision:
        """Without Redis."""

    def tell_decision(self, question: Question, decision: Decision) -> None:
        """Hands the decision to the question."""

    def settle(self, charge: Charge) -> None: ...

    def release(self, lease: object) -> None: ...

    def would_refuse(self, policy: LimitPolicy, places: Sequence[int]) -> tuple[str, ...]:
        """As Shadows.would_refuse."""


_OUTCOMES: Final = {
    script.RATE_LIMITED: Outcome.RATE_LIMITED,
    script.QUOTA_EXCEEDED: Outcome.QUOTA_EXCEEDED,
    script.CROWDED: Outcome.TOO_MANY_CONCURRENT,
}


class Crossing:
    """One question on its way over the slots."""

    __slots__ = (
        "_charges_alone",
        "_ends_at",
        "_fewest",
        "_headers",
        "_last",
        "_leases",
        "_overage",
        "_skipped",
        "_steps",
        "_taken",
        "_unanswered",
        "_way",
        "question",
    )

    def __init__(self, question: Question, grouped: Groups, *, deadline_seconds: float, way: Way) -> None:
        self.question = question
        self._way = way
        # Each step has a deadline of its own; no step is begun after that of the first has passed. So a question takes at
        # most twice the deadline, however many slots it has.
        self._ends_at = time.monotonic() + deadline_seconds
        self._steps = [Step(self, slot, tuple(grouped.parts[slot]), grouped.names[slot]) for slot in grouped.slots[:-1]]
        self._steps.reverse()
        last = grouped.slots[-1]
        policy = question.policy.piece(tuple(grouped.parts[last]))
        self._last = last, LastStep(self, policy, grouped.names[last])
        self._taken: list[Taken] = []
        self._charges_alone: list[Charge] = []
        self._leases: list[object] = []
        self._skipped: list[tuple[LimitPolicy, Sequence[int]]] = []  # limits in shadow that would have refused
        self._overage = False
        self._unanswered: list[int] = []
        self._headers = b""
        self._fewest = _UNTOLD

    def go_on(self) -> None:
        """Asks the next slot that can be asked."""
        closed = self.question.on_failure is StoreFailure.CLOSED
        while self._steps and not (closed and self._unanswered):
            step = self._steps.pop()
            if time.monotonic() < self._ends_at and self._way.ask_step(step):
                return
            self._unanswered += step.parts
        if self._unanswered and (refusal := self._without_redis()) is not None:
            self._refuse(refusal)
            return
        self._way.ask_last(*self._last)

    def answered(
        self,
        step: Step,
        connection: RedisConnection,
        clock_us: int,
        answer: tuple[int, int, int, int],
        lease: object | None,
        skipped: Sequence[int],
    ) -> None:
        """`lease` is what the step took, `skipped` the places of limits in shadow that would have refused."""
        code, index, remaining, reset = answer
        if code not in (script.ALLOWED, script.OVERAGE):
            label = step.policy.labels[index]
            headers = label.headers(remaining, reset)
            self._refuse(Decision(_OUTCOMES[code], headers, reset, False, None, label.kind))
            return
        self._taken.append(Taken(step, clock_us, connection, skipped))
        self._overage = self._overage or code == script.OVERAGE
        if lease is not None:
            self._leases.append(lease)
        if skipped:
            self._skipped.append((step.policy, skipped))
        if index != script.NO_LIMIT and remaining < self._fewest:
            self._fewest = remaining
            self._headers = step.policy.labels[index].headers(remaining, reset)
        self.go_on()

    def unanswered(self, step: Step) -> None:
        """It may have been counted there or not; it stays so. Its limits are decided without Redis."""
        self._unanswered += step.parts
        self.go_on()

    def decided(self, decision: Decision, remaining: int) -> None:
        """By the last slot, or without it: that is the decision about the question."""
        if decision.outcome is not Outcome.ALLOWED:
            self._give_back(charged=decision.outcome in _OUTCOMES.values())
        else:
            self._complete(decision, remaining)
        self.question.set(decision)

    def _complete(self, decision: Decision, remaining: int) -> None:
        """What the slots before the last have said of a call that was let in."""
        if not decision.headers or self._fewest < remaining < _UNTOLD:
            decision.headers = self._headers or decision.headers
        decision.overage = decision.overage or self._overage
        if self._leases:
            decision.lease = self._leases if decision.lease is None else [*self._leases, decision.lease]
        for policy, places in self._skipped:
            decision.would_refuse += self._way.would_refuse(policy, places)
        if self.question.policy.settles:
            self._charge(decision)

    def _charge(self, decision: Decision) -> None:
        """What is settled is settled in every slot."""
        charges = [*self._taken, *self._charges_alone]
        if decision.charge is not None:
            charges.append(decision.charge)
        decision.charge = charges.pop() if charges else None
        if decision.charge is not None:
            decision.charge.others += charges

    def _without_redis(self) -> Decision | None:
        """The refusal of the limits whose masters did not answer, decided as the route chose; None if they let it in."""
        question = self.question
        places = sorted(self._unanswered)
        policy = question.policy.piece(tuple(places))
        of_parts = question.policy.names_by_part(question.names)
        names = [name for place in places for name in of_parts[place]]
        part = Question(policy, names, None, 0, question.on_failure, False)
        decision = self._way.decide_alone(part)
        if decision.outcome is not Outcome.ALLOWED:
            return decision
        if decision.charge is not None:
            self._charges_alone.append(decision.charge)
        if decision.lease is not None:
            self._leases.append(decision.lease)
        return None

    def _refuse(self, decision: Decision) -> None:
        """Before the last slot was asked."""
        charged = decision.outcome in _OUTCOMES.values()
        self._give_back(charged=charged)
        if charged:
            for step in self._steps:
                self._charge_refused(step.policy, step.names)
            self._charge_refused(self._last[1].policy, self._last[1].names)
        self._way.tell_decision(self.question, decision)

    def _charge_refused(self, policy: LimitPolicy, names: list[str]) -> None:
        """A slot that was not asked, and would have charged the refused call to some of its limits."""
        charged = policy.charged()
        if not charged or not policy.cost:
            return
        free = [place for place in range(policy.limits_n) if place not in charged]
        charge = Charge(policy, names, 0, alone=False, skipped=free)
        charge.difference, charge.crossing = policy.cost, True
        self._way.settle(charge)

    def _give_back(self, *, charged: bool) -> None:
        for taken in self._taken:
            taken.give_back(charged=charged)
        for lease in self._leases:
            self._way.release(lease)
        self._taken, self._leases = [], []


def _nothing(reply: object) -> None:
    """Of what nobody waits for."""
