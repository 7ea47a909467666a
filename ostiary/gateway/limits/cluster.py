"""Asking a Redis Cluster: a tick's questions in one command for each slot, on one connection for each master.

A script may touch names of one slot only, so a batch is what a tick asks of a slot; what it asks of one master goes out in
one write all the same. A refusal that says "nothing was counted, ask there" or "ask again" is followed within the
deadline of the batch. Anything else is decided without Redis, for the questions of that batch alone. Questions over several
slots are the matter of `crossing`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from ostiary.core.model import StoreFailure
from ostiary.gateway.limits import script
from ostiary.gateway.limits.batch import Batch, InFlight, Question
from ostiary.gateway.limits.connection import Address, Command, ConnectionLost, RedisConnection
from ostiary.gateway.limits.crossing import Crossing, LastStep, Step, groups, single_slot
from ostiary.gateway.limits.decision import Decision, LimiterObserver
from ostiary.gateway.limits.masters import MasterLink, Masters
from ostiary.gateway.limits.policy import LimitPolicy
from ostiary.gateway.limits.quota_events import QuotaEvents
from ostiary.gateway.limits.returning import commands
from ostiary.gateway.limits.settling import Charge
from ostiary.gateway.limits.shadows import Shadows
from ostiary.gateway.limits.slices import Returned, SliceRequest
from ostiary.gateway.limits.slots import Redirection, redirection, slot_of

log = logging.getLogger("ostiary.gateway.limits")

# All of a slot's questions in one command; see limiter.BATCH_MAX.
BATCH_MAX: Final = 256

# A slot that moves is refused once by its old master. More in a row are nodes that disagree; the deadline would end it too.
REDIRECTIONS_MAX: Final = 5

# While a slot moves, names of one command may be on both sides; moving a slot takes milliseconds.
TRY_AGAIN_SECONDS: Final = 0.002

# Refusals of a master that is none any more, or not yet: the map says soon who is.
_ANOTHER_MASTER: Final = ("CLUSTERDOWN", "READONLY", "LOADING", "MASTERDOWN")


class SlotBatch(Batch):
    """Questions, or steps of crossings, of one slot. `link` is where it was sent to last; `is_between`: its names were
    on both sides of a move when somebody answered."""

    __slots__ = ("is_between", "link", "redirections", "slot", "steps")

    def __init__(
        self,
        slot: int,
        link: MasterLink,
        questions: list[Question],
        steps: list[Step],
        name: str,
        arguments: Command,
        slices: Sequence[SliceRequest],
    ) -> None:
        super().__init__(questions, name, arguments, (), slices)
        self.slot = slot
        self.link = link
        self.steps = steps
        self.redirections = 0
        self.is_between = False

    @property
    def size(self) -> int:
        return len(self.questions) + len(self.steps) + len(self.slices)


class Cluster:
    """The limiter's way to a cluster. It hands out what it learns through the limiter's own `settle`, `settle_alone`,
    `came_too_late` (of a batch of questions), `hand_out` and `alone` (of one question), `lost` (settlements), `lease` (what a
    question holds in Redis) and `release`, `no_slices` (which were asked for in vain)."""

    def __init__(
        self,
        addresses: Sequence[Address],
        *,
        deadline_seconds: float,
        worker: str,
        observe: LimiterObserver,
        in_flight: InFlight,
        settle: Callable[[Batch, bytes], None],
        settle_alone: Callable[[Batch], None],
        came_too_late: Callable[[Batch, bytes], None],
        hand_out: Callable[[Question, Decision], None],
        alone: Callable[[Question], Decision],
        lost: Callable[[int], None],
        no_slices: Callable[[Sequence[SliceRequest]], None],
        lease: Callable[[LimitPolicy, list[str], str, int, Sequence[int]], object | None],
        release: Callable[[object], None],
        shadows: Shadows,
        quota_events: QuotaEvents,
    ) -> None:
        self._masters = Masters(addresses, deadline_seconds=deadline_seconds, worker=worker, observe=observe)
        self._deadline_seconds = deadline_seconds
        self._worker = worker
        self._in_flight = in_flight
        self._settle = settle
        self._settle_questions_alone = settle_alone
        self._came_too_late = came_too_late
        self._hand_out = hand_out
        self._alone = alone
        self._lost = lost
        self._no_slices = no_slices
        self._lease = lease
        self._release = release
        self._shadows = shadows
        self._quota_events = quota_events
        self._charges: dict[int, list[Charge]] = {}
        self._questions: dict[int, list[Question]] = {}
        self._steps: dict[int, list[Step]] = {}
        self._slices: dict[int, list[SliceRequest]] = {}
        self._is_flushing = False
        self.batches = 0

    async def start(self) -> None:
        """At most 1.6 s; a cluster that is away is no error."""
        await self._masters.start()

    async def close(self) -> None:
        await self._masters.close()

    def status(self) -> dict[str, object]:
        return self._masters.status()

    @property
    def away(self) -> bool:
        """No master answers."""
        return self._masters.served() == 0

    # --- asking -------------------------------------------------------------------------------------------------------

    def ask(self, question: Question) -> None:
        """Decided at once where the masters of all its slots, or the one it has, are away."""
        slot = single_slot(question)
        if slot >= 0:
            self.ask_last(slot, question)
            return
        grouped = groups(question)
        away = sum(self._connection(slot) is None for slot in grouped.slots)
        if away == len(grouped.slots) or (away and question.on_failure is StoreFailure.CLOSED):
            self._hand_out(question, self._alone(question))
            return
        Crossing(
            question,
            grouped,
            deadline_seconds=self._deadline_seconds,
            way=self,
        ).go_on()

    # --- for crossings (see crossing.Way) -----------------------------------------------------------------------------

    def decide_alone(self, question: Question) -> Decision:
        return self._alone(question)

    def tell_decision(self, question: Question, decision: Decision) -> None:
        self._hand_out(question, decision)

    def release(self, lease: object) -> None:
        self._release(lease)

    def would_refuse(self, policy: LimitPolicy, places: Sequence[int]) -> tuple[str, ...]:
        return self._shadows.would_refuse(policy, places)

    def ask_last(self, slot: int, question: Question) -> None:
        if self._connection(slot) is None:
            self._hand_out(question, self._alone(question))
            return
        self._questions.setdefault(slot, []).append(question)
        self._flush_soon()

    def ask_step(self, step: Step) -> bool:
        if self._connection(step.slot) is None:
            return False
        self._steps.setdefault(step.slot, []).append(step)
        self._flush_soon()
        return True

    def settle(self, charge: Charge) -> None:
        """Tells the slot of a charge what the call turned out to cost."""
        self._charges.setdefault(slot_of(charge.names[0]), []).append(charge)
        self._flush_soon()

    def exchange_slices(self, wanted: Sequence[SliceRequest], returned: Sequence[Returned]) -> None:
        for request in wanted:
            self._slices.setdefault(request.slice.place, []).append(request)
        for connection, command in commands(returned):
            connection.send(command, _nothing)
        self._flush_soon()

    def _connection(self, slot: int) -> RedisConnection | None:
        link = self._masters.at[slot]
        return None if link is None else link.connection

    def _flush_soon(self) -> None:
        if not self._is_flushing:
            self._is_flushing = True
            asyncio.get_running_loop().call_soon(self.flush)

    def flush(self) -> None:
        self._is_flushing = False
        if self._charges:
            charges, self._charges = self._charges, {}
            for slot, settled in charges.items():
                for first in range(0, len(settled), BATCH_MAX):
                    self._send_charges(slot, settled[first : first + BATCH_MAX])
        questions, self._questions = self._questions, {}
        if self._slices:
            wanted, self._slices = self._slices, {}
            for slot, slices in wanted.items():
                with_them = questions.pop(slot, [])
                if len(with_them) + len(slices) > BATCH_MAX:
                    questions[slot], with_them = with_them, []
                for first in range(0, len(slices), BATCH_MAX):
                    self._send_batch(slot, with_them, [], slices[first : first + BATCH_MAX])
        for slot, asked in questions.items():
            for first in range(0, len(asked), BATCH_MAX):
                self._send_batch(slot, asked[first : first + BATCH_MAX], [])
        steps, self._steps = self._steps, {}
        for slot, begun in steps.items():
            for first in range(0, len(begun), BATCH_MAX):
                self._send_batch(slot, [], begun[first : first + BATCH_MAX])

    def _send_batch(
        self, slot: int, questions: list[Question], steps: list[Step], slices: Sequence[SliceRequest] = ()
    ) -> None:
        link = self._masters.at[slot]
        if link is None or link.connection is None:
            for question in questions:
                self._hand_out(question, self._alone(question))
            for step in steps:
                step.crossing.unanswered(step)
            self._no_slices(slices)
            return
        self.batches += 1
        name = f"{self._worker}:{self.batches}"
        arguments = script.arguments(steps or [*questions, *slices], name)
        batch = SlotBatch(slot, link, questions, steps, name, arguments, slices)
        self._in_flight.add(batch)
        self._send(batch, link, link.connection)

    def _send_charges(self, slot: int, charges: list[Charge]) -> None:
        """Nobody waits for these: what is not taken is lost, but for a slot that has moved, where nothing was counted."""
        link = self._masters.at[slot]
        if link is None or link.connection is None:
            self._lost(len(charges))
            return
        command: Command = (b"EVALSHA", script.DECIDE_SHA, *script.arguments([], "", b"", charges))
        link.connection.send(command, partial(self._settled, link, command, charges))

    def _settled(self, link: MasterLink, command: Command, charges: list[Charge], reply: object) -> None:
        if isinstance(reply, bytes):
            for whose, what, place, percent, ends_us in script.notes(reply, 0):
                if what == script.QUOTA_REACHED:
                    charge = charges[whose]
                    self._quota_events.reached(charge.policy, charge.names, place, percent, ends_us)
            return
        elsewhere = redirection(str(reply)) if isinstance(reply, Exception) else None
        target = self._follow(elsewhere, link) if elsewhere is not None else None
        if target is None or target.connection is None:
            self._lost(len(charges))
        else:
            target.connection.send(command, _nothing)

    def _send(self, batch: SlotBatch, link: MasterLink, connection: RedisConnection) -> None:
        batch.link = link
        batch.connection = connection
        connection.send(
            (b"EVALSHA", script.DECIDE_SHA, *batch.arguments), partial(self._replied, batch, link, connection)
        )

    # --- answering ----------------------------------------------------------------------------------------------------

    def _replied(self, batch: SlotBatch, link: MasterLink, connection: RedisConnection, reply: object) -> None:
        if not isinstance(reply, bytes) or not script.is_reply(reply, batch.size):
            if not batch.settled:
                self._refused(batch, link, connection, reply)
            return
        if batch.settled:
            if not batch.steps:
                self._came_too_late(batch, reply)
            else:
                self._steps_came_too_late(batch, reply)
            return
        link.succeeded()
        if batch.steps:
            self._in_flight.settle(batch)
            clock_us = script.clock_us(reply)
            skipped = self._noted(batch, reply)
            answers = script.answers(reply, batch.size)
            for number, (step, answer) in enumerate(zip(batch.steps, answers, strict=True), start=1):
                mine: Sequence[int] = skipped.get(number, ())
                lease = self._lease_of(batch, number, answer[0], mine)
                step.crossing.answered(step, connection, clock_us, answer, lease, mine)
            return
        # Slices stand behind the questions.
        for question, answer in zip(batch.questions, script.answers(reply, batch.size), strict=False):
            if isinstance(question, LastStep):
                question.remaining = answer[2]
        self._settle(batch, reply)

    def _noted(self, batch: SlotBatch, reply: bytes) -> dict[int, list[int]]:
        """The places of limits in shadow that would have refused, by the number of the step (from 1)."""
        skipped: dict[int, list[int]] = {}
        for whose, what, place, percent, ends_us in script.notes(reply, batch.size):
            if what == script.WOULD_REFUSE:
                skipped.setdefault(whose + 1, []).append(place)
            else:
                step = batch.steps[whose]
                self._quota_events.reached(step.policy, step.names, place, percent, ends_us)
        return skipped

    def _lease_of(self, batch: SlotBatch, number: int, code: int, skipped: Sequence[int]) -> object | None:
        """What a step that was let in holds in Redis."""
        step = batch.steps[number - 1]
        if not step.policy.leased or code not in (script.ALLOWED, script.OVERAGE):
            return None
        return self._lease(step.policy, step.names, batch.name, number, skipped)

    def _steps_came_too_late(self, batch: SlotBatch, reply: bytes) -> None:
        """What they counted stays counted; the leases that they took are held by nobody."""
        for number, answer in enumerate(script.answers(reply, batch.size), start=1):
            if (lease := self._lease_of(batch, number, answer[0], ())) is not None:
                self._release(lease)

    # --- failing ------------------------------------------------------------------------------------------------------

    def _refused(self, batch: SlotBatch, link: MasterLink, connection: RedisConnection, reply: object) -> None:
        """Sent again where the refusal says that nothing was counted; its deadline stays."""
        refusal = str(reply)
        elsewhere = redirection(refusal)
        if elsewhere is not None:
            batch.redirections += 1
            target = self._follow(elsewhere, link)
            if target.connection is not None and batch.redirections <= REDIRECTIONS_MAX:
                self._send(batch, target, target.connection)
                return
        elif refusal.startswith("NOSCRIPT") and not batch.resent:
            batch.resent = True
            link.load_again(connection)
            self._send(batch, link, connection)
            return
        elif refusal.startswith("TRYAGAIN"):
            batch.redirections = 0
            batch.is_between = True
            asyncio.get_running_loop().call_later(TRY_AGAIN_SECONDS, self._try_again, batch)
            return
        elif not isinstance(reply, ConnectionLost):
            link.failed("refused", refusal[:200])
            if refusal.startswith(_ANOTHER_MASTER):
                self._masters.refresh()
        self._settle_alone(batch)

    def _follow(self, elsewhere: Redirection, asked: MasterLink) -> MasterLink:
        """The master that the next command is for."""
        host = elsewhere.host or asked.address.host
        if elsewhere.moved:
            return self._masters.moved(elsewhere.slot, host, elsewhere.port)
        target = self._masters.referred(host, elsewhere.port)
        if target.connection is not None:
            target.connection.send(("ASKING",), _nothing)  # holds for the next command only
        return target

    def _try_again(self, batch: SlotBatch) -> None:
        if batch.settled:
            return
        link = self._masters.at[batch.slot]
        if link is None or link.connection is None:
            self._settle_alone(batch)
        else:
            self._send(batch, link, link.connection)

    def overdue(self, batches: Sequence[Batch]) -> None:
        """One failure of each master that let any pass its deadline, however many batches."""
        links: dict[int, MasterLink] = {}
        for batch in batches:
            if isinstance(batch, SlotBatch) and not batch.is_between:
                links[id(batch.link)] = batch.link
        for link in links.values():
            link.failed("timeout", f"no answer within {self._deadline_seconds * 1000:g} ms")
        for batch in batches:
            self._settle_alone(batch)

    def _settle_alone(self, batch: Batch) -> None:
        if isinstance(batch, SlotBatch) and batch.steps:
            if not batch.settled:
                self._in_flight.settle(batch)
                for step in batch.steps:
                    step.crossing.unanswered(step)
        else:
            self._settle_questions_alone(batch)

    def end(self, batches: Sequence[Batch]) -> None:
        """Whoever still waits is answered as if the cluster were away."""
        self.flush()
        for batch in batches:
            self._settle_alone(batch)

    # --- for leases and nodes (see leases.LeaseStore, nodes.NodesStore) -------------------------------------------------

    def connection_at(self, name: str) -> RedisConnection | None:
        return self._connection(slot_of(name))

    def place_of(self, name: str) -> int:
        return slot_of(name)

    def tell(self, name: str, command: Command) -> None:
        link = self._masters.at[slot_of(name)]
        if link is not None and link.connection is not None:
            link.connection.send(command, partial(self._told, link, command))

    def _told(self, link: MasterLink, command: Command, reply: object) -> None:
        """The end of a lease (ZREM) follows its slot, once: doing it twice does no harm. A renewal does not: the next one
        comes in time, and this one could come after the end of its lease."""
        elsewhere = redirection(str(reply)) if isinstance(reply, Exception) else None
        if elsewhere is None or not (elsewhere.moved or command[0] == "ZREM"):
            return
        target = self._follow(elsewhere, link)
        if command[0] == "ZREM" and target.connection is not None:
            target.connection.send(command, _nothing)


def _nothing(reply: object) -> None:
    """Of what nobody waits for."""
