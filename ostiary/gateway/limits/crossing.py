"""One question about names that lie in several slots of a Redis Cluster: asked slot by slot, and still all or nothing.

No script sees two slots, so the slots are asked one after the other. When one refuses, those before it give the call back,
as one that cost nothing. The slot of the plan, with the nonce, the bucket, the quotas and the leases, comes last, and so is
never given back; the others hold sliding windows, which can be, exactly. docs/decisions/0015-redis-topologies.md has the
reasons.

Never above a limit: what is admitted has been counted everywhere. A refused call costs nothing in the end; until it has been
given back, others may be refused in its place."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

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
_FIRST: Final = {"ip": 0, "key": 1, "app": 2, "organization": 3, "route": 4}
_PLAN: Final = 9
_NONCE: Final = 10

# How many calls left stands for "not told".
_UNTOLD: Final = 1 << 62


class Groups:
    """The parts of a policy by the slot of their names. `slots` in the order in which they are asked."""

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
    at = 0
    for place, part in enumerate(question.policy.parts):
        count = part.names_n
        mine = question.names[at : at + count]
        at += count
        slot = slot_of(mine[0])
        parts.setdefault(slot, []).append(place)
        names.setdefault(slot, []).extend(mine)
        order = _PLAN if part.plan is not None else _FIRST.get(part.by.value, 5)
        rank[slot] = max(rank.get(slot, 0), order)
    if question.nonce is not None:
        slot = slot_of(question.nonce)
        parts.setdefault(slot, [])
        names.setdefault(slot, [])
        rank[slot] = _NONCE
    return Groups(sorted(rank, key=lambda slot: rank[slot]), parts, names)


class Step:
    """What one slot but the last is asked: windows, and nothing else."""

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
    """A call that was counted in the windows of one slot. It is given back on the very connection that counted it: another
    one may lead to a replica that was promoted and has never seen it."""

    __slots__ = ("connection",)

    def __init__(self, step: Step, taken_us: int, connection: RedisConnection) -> None:
        super().__init__(step.policy, step.names, taken_us, alone=False)
        self.connection = connection

    def give_back(self) -> None:
        """As a call that turned out to cost nothing."""
        if not self.connection.is_open:
            return
        self.difference = -self.policy.cost
        arguments = script.arguments([], "", b"", [self])

        def replied(reply: object) -> None:
            # Only after SCRIPT FLUSH. Any other refusal (the slot has moved) leaves the call counted until its time is over.
            if str(reply).startswith("NOSCRIPT"):
                self.connection.send(("EVAL", script.DECIDE, *arguments), _nothing)

        self.connection.send((b"EVALSHA", script.DECIDE_SHA, *arguments), replied)


class Crossing:
    """`ask` sends a step to its slot, and says whether there was anybody to send it to; `ask_last` does so with the last one,
    which is decided in any case; `alone` decides without Redis; `tell` hands the decision to the question."""

    __slots__ = (
        "_alone",
        "_ask",
        "_ask_last",
        "_charges_alone",
        "_ends_at",
        "_fewest",
        "_headers",
        "_last",
        "_steps",
        "_taken",
        "_tell",
        "_unanswered",
        "question",
    )

    def __init__(
        self,
        question: Question,
        grouped: Groups,
        *,
        deadline_seconds: float,
        ask: Callable[[Step], bool],
        ask_last: Callable[[int, LastStep], None],
        alone: Callable[[Question], Decision],
        tell: Callable[[Question, Decision], None],
    ) -> None:
        self.question = question
        self._ask = ask
        self._ask_last = ask_last
        self._alone = alone
        self._tell = tell
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
        self._unanswered: list[int] = []
        self._headers = b""
        self._fewest = _UNTOLD

    def go_on(self) -> None:
        """Asks the next slot that can be asked."""
        closed = self.question.on_failure is StoreFailure.CLOSED
        while self._steps and not (closed and self._unanswered):
            step = self._steps.pop()
            if time.monotonic() < self._ends_at and self._ask(step):
                return
            self._unanswered += step.parts
        if self._unanswered and (refusal := self._without_redis()) is not None:
            self._refuse(refusal)
            return
        self._ask_last(*self._last)

    def answered(
        self, step: Step, connection: RedisConnection, clock_us: int, answer: tuple[int, int, int, int]
    ) -> None:
        code, index, remaining, reset = answer
        label = step.policy.labels[index]
        if code != script.ALLOWED:
            headers = label.headers(remaining, reset)
            self._refuse(Decision(Outcome.RATE_LIMITED, headers, reset, False, None, label.kind))
            return
        self._taken.append(Taken(step, clock_us, connection))
        if remaining < self._fewest:
            self._fewest = remaining
            self._headers = label.headers(remaining, reset)
        self.go_on()

    def unanswered(self, step: Step) -> None:
        """It may have been counted there or not; it stays so. Its limits are decided without Redis."""
        self._unanswered += step.parts
        self.go_on()

    def decided(self, decision: Decision, remaining: int) -> None:
        """By the last slot, or without it: that is the decision about the question."""
        if decision.outcome is not Outcome.ALLOWED:
            self._give_back()
        elif not decision.headers or self._fewest < remaining < _UNTOLD:
            decision.headers = self._headers
        if decision.outcome is Outcome.ALLOWED and self.question.policy.settles:
            self._charge(decision)
        self.question.set(decision)

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
        policy = question.policy.piece(tuple(sorted(self._unanswered)))
        names = [self._name_of(place) for place in sorted(self._unanswered)]
        part = Question(policy, names, None, 0, question.on_failure, False)
        decision = self._alone(part)
        if decision.charge is not None:
            self._charges_alone.append(decision.charge)
        return None if decision.outcome is Outcome.ALLOWED else decision

    def _name_of(self, place: int) -> str:
        """The name of the state of a part that is not the plan's; the plan's names, one or two, stand first."""
        parts = self.question.policy.parts
        return self.question.names[place - len(parts)]

    def _refuse(self, decision: Decision) -> None:
        self._give_back()
        self._tell(self.question, decision)

    def _give_back(self) -> None:
        for taken in self._taken:
            taken.give_back()
        self._taken = []


def _nothing(reply: object) -> None:
    """Of what nobody waits for."""
