"""The limiter of one worker: all requests of one loop tick are decided by one command to Redis.

`decide` collects, the end of the tick sends (`_flush`), the reply sets the signals (`_replied`). A batch that gets no answer
in time, or an error, is decided without Redis, each request as its route chose. Nothing is sent twice, but for a script that
Redis did not know: a batch that was lost may have been counted, and its nonces used up by itself."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Final

from ostiary.core import keyspace
from ostiary.core.model import RedisLocation, RedisSentinels, StoreFailure
from ostiary.gateway.limits import script
from ostiary.gateway.limits.alone import Alone, replayed
from ostiary.gateway.limits.batch import Batch, InFlight, Question
from ostiary.gateway.limits.cluster import Cluster
from ostiary.gateway.limits.connection import Address, ConnectionLost, RedisConnection
from ostiary.gateway.limits.decision import Decision, LimiterObserver, Outcome
from ostiary.gateway.limits.keepsakes import Keepsakes
from ostiary.gateway.limits.leases import Leases, RedisLease
from ostiary.gateway.limits.link import Link
from ostiary.gateway.limits.local import LocalLease
from ostiary.gateway.limits.nodes import Heartbeat
from ostiary.gateway.limits.nonces import NodeNonces
from ostiary.gateway.limits.policy import LimitPolicy
from ostiary.gateway.limits.quota_events import QuotaEvents
from ostiary.gateway.limits.returning import give_back
from ostiary.gateway.limits.sentinel import SentinelLink
from ostiary.gateway.limits.settling import Charge
from ostiary.gateway.limits.shadows import Shadows
from ostiary.gateway.limits.slices import SWEEP_SECONDS, Returned, SliceCharge, SliceRequest, Slices
from ostiary.gateway.limits.slots import one_slot
from ostiary.gateway.limits.unsettled import Unsettled
from ostiary.gateway.node import BUCKETS_ALONE, NodeMemory
from ostiary.gateway.signal import Signal

log = logging.getLogger("ostiary.gateway.limits")

# Redis does nothing else while it decides a batch; 256 take it a few milliseconds, well within the deadline.
BATCH_MAX = 256

_ALLOWED: Final = Outcome.ALLOWED  # a look-up for each call otherwise
_OUTCOMES = {
    script.RATE_LIMITED: Outcome.RATE_LIMITED,
    script.QUOTA_EXCEEDED: Outcome.QUOTA_EXCEEDED,
    script.CROWDED: Outcome.TOO_MANY_CONCURRENT,
}


class Limiter:
    """Decides for one worker of `workers`. `url` is where Redis is: one URL, several for a cluster, or the Sentinels of a
    master. None means no Redis: this worker's share in its own memory, always. `node` is what it shares with the other
    workers; without one it shares with nobody.

    Raises ValueError for a URL that can't be used. All methods belong to the event loop that called `start`."""

    def __init__(
        self,
        *,
        url: RedisLocation | None,
        deadline_seconds: float,
        workers: int,
        observe: LimiterObserver,
        node: NodeMemory | None = None,
        skew_seconds: int = 0,
    ) -> None:
        self._observe = observe
        self._worker = secrets.token_hex(6)
        self._node = NodeMemory.create(buckets=BUCKETS_ALONE) if node is None else node
        # What is known to be used is refused without asking, also after Redis has lost its memory.
        self._nonces = NodeNonces(self._node)
        self._shadows = Shadows(observe)
        self.quota_events = QuotaEvents()
        self._alone = Alone(workers=workers, node=self._node, nonces=self._nonces, shadows=self._shadows)
        self._in_flight = InFlight(deadline_seconds=deadline_seconds, overdue=self._overdue)
        self._link: Link | None = None
        self._cluster: Cluster | None = None
        self._leases: Leases | None = None
        self._heartbeat: Heartbeat | None = None
        self._keepsakes: Keepsakes | None = None
        self._slices: Slices | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        if isinstance(url, str):
            address = Address.of(url)
            self._link = Link(address, deadline_seconds=deadline_seconds, worker=self._worker, observe=observe)
        elif isinstance(url, RedisSentinels):
            self._link = SentinelLink(url, deadline_seconds=deadline_seconds, worker=self._worker, observe=observe)
        elif url is not None:
            self._cluster = Cluster(
                [Address.of(one) for one in url],
                deadline_seconds=deadline_seconds,
                worker=self._worker,
                observe=observe,
                in_flight=self._in_flight,
                settle=self._settle,
                settle_alone=self._settle_alone,
                came_too_late=self._came_too_late,
                hand_out=self._hand_out,
                alone=self._decide_alone,
                lost=self._lose,
                keep=self._keep_unsettled,
                untold=self._end_untold_leases,
                no_slices=self._miss_slices,
                lease=self._grant,
                release=self.release,
                shadows=self._shadows,
                quota_events=self.quota_events,
            )
        store = self._cluster if self._link is None else self._link
        self._unsettled = Unsettled(send=self._settle_in_redis, away=self._is_away, lost=self._lose)
        if store is not None:
            self._leases = Leases(store)
            self._heartbeat = Heartbeat(store=store, node=self._node, skew_seconds=skew_seconds)
            self._keepsakes = Keepsakes(store=store, node=self._node, observe=observe)
            self._slices = Slices(
                sharers=self._alone.sharers,
                place_of=_one_place if self._cluster is None else one_slot,
                flush_soon=self._flush_soon,
                wake=self._sweep_later,
                observe=observe,
            )
        self._questions: list[Question] = []
        self._settlements: list[Charge] = []
        self._batches = 0
        self._script_is_loading = False
        self._nothing_to_decide: Signal[Decision] = Signal()
        self._nothing_to_decide.set(Decision(Outcome.ALLOWED, b"", 0, False, None, "none"))
        self._loop: asyncio.AbstractEventLoop
        self.store_time_us = 0
        """Redis's clock, as of the reply whose decisions are being handed out."""

    # --- life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connects, and stays connected, in the background. Returns after the first attempt, at most 0.8 s (1.6 s for a
        cluster), and when Redis has told what other nodes judge by, at most 0.5 s more; a Redis that is away is no error."""
        self._loop = asyncio.get_running_loop()
        if self._link is not None:
            await self._link.start()
        elif self._cluster is not None:
            await self._cluster.start()
        if self._heartbeat is not None:
            await self._heartbeat.start()
        if self._keepsakes is not None:
            self._keepsakes.start()

    async def close(self) -> None:
        """Whoever still waits is answered as if Redis were away. What is left of slices is given back: at most a deadline."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        if self._slices is not None:
            self._slices.give_back_all()
            await give_back(self._slices.take_returned(), within_seconds=self._in_flight.deadline_seconds)
        if self._heartbeat is not None:
            self._heartbeat.close()
        if self._keepsakes is not None:
            await self._keepsakes.close()
        if self._link is not None:
            await self._link.close()
        if self._cluster is not None:
            await self._cluster.close()
        if self._leases is not None:
            self._leases.close()
        self._flush()
        self._unsettled.close()
        if self._cluster is not None:
            self._cluster.end(self._in_flight.end())
        for batch in self._in_flight.end():
            self._settle_alone(batch)

    def status(self) -> dict[str, object]:
        """state: connected; partly (some masters of a cluster are away); away (decided as each route chose); local (no Redis
        is configured)."""
        store: dict[str, object] = {"state": "local", "failures": 0}
        batches = self._batches
        if self._link is not None:
            store = self._link.status()
        elif self._cluster is not None:
            store, batches = self._cluster.status(), self._cluster.batches
        sliced = 0 if self._slices is None else self._slices.spent
        counts = {"batches": batches, "decided_without_store": self._alone.decided, "decided_from_slices": sliced}
        shares = {"nodes": self.nodes, "sharers": self._alone.sharers()}
        memory = {} if self._keepsakes is None else {"memory": self._keepsakes.status()}
        return {**store, **counts, **shares, **memory, "would_refuse": self._shadows.status()}

    @property
    def away(self) -> bool:
        """Redis is configured, and does not decide: no master of a cluster does."""
        if self._cluster is not None:
            return self._cluster.away
        return self._link is not None and self._link.connection is None

    @property
    def nodes(self) -> int:
        """How many nodes there were when Redis was last asked."""
        return self._node.nodes

    @property
    def smaller_skews(self) -> list[tuple[int, int]]:
        """What was heard of calls that were taken by a smaller skew than that of `judge_by`: by how many seconds, and before
        which time (Unix seconds) they are dated. Empty while nothing was heard."""
        return [] if self._heartbeat is None else self._heartbeat.smaller_skews

    def judge_by(self, skew_seconds: int) -> None:
        """How far the timestamps of signed calls may be off here, from now on."""
        if self._heartbeat is not None:
            self._heartbeat.judge_by(skew_seconds)

    def ask_time(self, told: Callable[[object], None]) -> bool:
        """Asks Redis for its time; `told` gets the reply. False while it is away, or there is none."""
        store = self._cluster if self._link is None else self._link
        connection = None if store is None else store.connection_at(keyspace.nodes())
        if connection is None:
            return False
        connection.send(("TIME",), told)
        return True

    # --- asking -------------------------------------------------------------------------------------------------------

    def decide(
        self,
        policy: LimitPolicy,
        *,
        on_failure: StoreFailure,
        key_id: str | None,
        app_id: str | None,
        organization_id: str | None,
        ip: str,
        nonce: str | None,
        nonce_ttl_seconds: int,
        signed_write: bool,
        headers: Mapping[bytes, bytes] | None = None,
        names: list[str] | None = None,
    ) -> Signal[Decision]:
        """Counts one request, or refuses it and counts nothing. Never raises; answers within the deadline and some
        milliseconds, at once when there is nothing to decide or Redis is away.

        `nonce` is None for a request without one; `signed_write` means that replaying it would change something; `headers`
        has those of `policy.headers` that it came with; `names` is what `policy.names` gives, for a caller who keeps it."""
        if nonce is None:
            if policy.empty:
                return self._nothing_to_decide
            nonce_ttl_seconds = 0
        else:
            nonce = keyspace.nonce(key_id or ip, nonce)
        if names is None:
            names = policy.names(key_id, app_id, organization_id, ip, headers)
        if policy.slicing is not None and nonce is None and self._slices is not None:
            decision = self._slices.spend(policy, policy.slicing, names, time.monotonic())
            if decision is not None:
                self._observe.decided("none", "allowed")
                decided: Signal[Decision] = Signal()
                decided.set(decision)
                return decided
        question = Question(policy, names, nonce, nonce_ttl_seconds, on_failure, signed_write)
        if nonce is not None and self._nonces.holds(nonce, time.monotonic()):
            self._hand_out(question, replayed())
        elif self._link is None or self._link.connection is None:
            if self._cluster is not None:
                self._cluster.ask(question)
            else:
                self._hand_out(question, self._decide_alone(question))
        else:
            self._questions.append(question)
            if len(self._questions) == 1:
                self._loop.call_soon(self._flush)
        return question

    def release(self, lease: object) -> None:
        """Ends a call under way. A second time it does nothing."""
        if isinstance(lease, LocalLease):
            lease.release()
        elif isinstance(lease, RedisLease) and self._leases is not None:
            self._leases.release(lease)
        elif isinstance(lease, list):  # of several slots of a cluster
            for each in lease:
                self.release(each)

    def settle(self, charge: Charge, cost: int | None) -> None:
        """A call that was charged turned out to cost this; None if what its upstream said is no cost. Never refuses, and
        never raises. What can't be told to Redis is lost: what was charged stays."""
        difference = 0 if cost is None else cost - charge.policy.cost
        if difference == 0:
            self._observe.settled("invalid" if cost is None else "same")
            return
        self._observe.settled("more" if difference > 0 else "less")
        for each in (charge, *charge.others):
            each.difference = difference
            if each.alone:
                self._alone.settle(each)
            elif (
                isinstance(each, SliceCharge)
                and self._slices is not None
                and self._slices.settle(each, time.monotonic())
            ):
                continue
            else:
                self._settle_in_redis(each)

    def _settle_in_redis(self, charge: Charge) -> None:
        if self._cluster is not None:
            self._cluster.settle(charge)
        else:
            self._settlements.append(charge)
            if not self._questions and len(self._settlements) == 1:
                self._loop.call_soon(self._flush)

    def _flush_soon(self) -> None:
        self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        questions, self._questions = self._questions, []
        settlements: list[Charge] = []
        if self._settlements:
            settlements, self._settlements = self._settlements, []
        connection = None if self._link is None else self._link.connection
        slices: list[SliceRequest] = []
        returned: list[Returned] = []
        if self._slices is not None and (self._slices.wanted or self._slices.returned):
            slices, returned = self._slices.take_wanted(), self._slices.take_returned()
            if self._cluster is not None:
                self._cluster.exchange_slices(slices, returned)
                return
            returned = [each for each in returned if each.connection is connection]
        if connection is None:
            self._miss_slices(slices)
            for question in questions:
                self._hand_out(question, self._decide_alone(question))
            self._keep_unsettled(settlements)
            return
        if slices or returned:
            if len(questions) + len(settlements) + len(slices) + len(returned) <= BATCH_MAX:
                self._send_batch(connection, questions, settlements, slices, returned)
                return
            for first in range(0, max(len(slices), len(returned)), BATCH_MAX // 2):
                last = first + BATCH_MAX // 2
                self._send_batch(connection, [], [], slices[first:last], returned[first:last])
        if len(questions) + len(settlements) > BATCH_MAX:
            for first in range(0, len(settlements), BATCH_MAX):
                self._send_batch(connection, [], settlements[first : first + BATCH_MAX])
            settlements = []
        for first in range(0, len(questions) or len(settlements), BATCH_MAX):
            self._send_batch(connection, questions[first : first + BATCH_MAX], settlements)

    def _send_batch(
        self,
        connection: RedisConnection,
        questions: list[Question],
        settlements: list[Charge],
        slices: Sequence[SliceRequest] = (),
        returned: Sequence[Returned] = (),
    ) -> None:
        self._batches += 1
        name = f"{self._worker}:{self._batches}"
        if slices or returned:
            arguments = script.arguments([*questions, *slices], name, b"", [*settlements, *returned])
        else:
            arguments = script.arguments(questions, name, b"", settlements)
        batch = Batch(questions, name, arguments, settlements, slices, len(returned))
        self._in_flight.add(batch)
        self._send(connection, batch)

    def _send(self, connection: RedisConnection, batch: Batch) -> None:
        batch.connection = connection
        connection.send((b"EVALSHA", script.DECIDE_SHA, *batch.arguments), partial(self._replied, batch))

    # --- answering ----------------------------------------------------------------------------------------------------

    def _replied(self, batch: Batch, reply: object) -> None:
        if not isinstance(reply, bytes) or not script.is_reply(reply, batch.asked_n):
            if isinstance(reply, ConnectionLost):
                self._end_untold_leases(batch)
            self._refused(batch, reply)
        elif batch.settled:
            self._came_too_late(batch, reply)
        else:
            self._settle(batch, reply)

    def _settle(self, batch: Batch, reply: bytes) -> None:
        self._in_flight.settle(batch)
        if self._link is not None:
            self._link.succeeded()
        now = time.monotonic()
        self._observe.round_trip(now - batch.sent_at)
        self.store_time_us = script.clock_us(reply)
        answers = script.answers(reply, batch.asked_n)
        # `skipped` are the places of limits in shadow that would have refused; nearly always there are none in a batch.
        all_skipped = self._noted(batch, reply)
        skipped: Sequence[int] = ()
        for number, question in enumerate(batch.questions, start=1):
            code, index, remaining, reset = next(answers)
            policy = question.policy
            if policy.slicing is not None and self._slices is not None and index != script.NO_LIMIT:
                self._slices.told(policy.slicing, question.names, index, remaining, reset)
            if code == script.ALLOWED or code == script.OVERAGE:
                if all_skipped is not None:
                    skipped = all_skipped.get(number, ())
                lease: RedisLease | None = None
                if policy.leased:
                    lease = self._grant(policy, question.names, batch.name, number, skipped)
                if question.nonce is not None and not self._nonces.accepted(
                    question.nonce, now, question.nonce_seconds
                ):
                    # The limits stay charged with it, which errs on the safe side.
                    if lease is not None:
                        self.release(lease)
                    self._hand_out(question, replayed())
                    continue
                headers = b"" if index == script.NO_LIMIT else policy.labels[index].headers(remaining, reset)
                decision = Decision(_ALLOWED, headers, 0, code == script.OVERAGE, lease, "none")
                if policy.settles:
                    decision.charge = Charge(policy, question.names, self.store_time_us, alone=False, skipped=skipped)
                if skipped:
                    decision.would_refuse = self._shadows.would_refuse(policy, skipped)
                self._hand_out(question, decision)
            elif code == script.NONCE_USED:
                self._hand_out(question, replayed())
            else:
                label = policy.labels[index]
                headers = label.headers(remaining, reset)
                if code == script.QUOTA_EXCEEDED and remaining == 0:
                    self.quota_events.used_up(policy, question.names, index, self.store_time_us)
                self._hand_out(question, Decision(_OUTCOMES[code], headers, reset, False, None, label.kind))
        if batch.slices:
            self._take_slices(batch, answers)

    def _take_slices(self, batch: Batch, answers: Iterator[tuple[int, int, int, int]]) -> None:
        if self._slices is not None:
            now = time.monotonic()
            for request in batch.slices:
                self._slices.answered(
                    request,
                    next(answers),
                    taken_us=self.store_time_us,
                    sent_at=batch.sent_at,
                    now=now,
                    connection=batch.connection,
                )

    def _sweep_later(self) -> None:
        self._sweeper = self._loop.call_later(SWEEP_SECONDS, self._sweep)

    def _sweep(self) -> None:
        if self._slices is not None:
            self._slices.sweep(time.monotonic())

    def _grant(
        self, policy: LimitPolicy, names: list[str], batch_name: str, number: int, skipped: Sequence[int]
    ) -> RedisLease | None:
        """What a question that was let in holds in Redis: a place in each set of calls under way, but where a bound in shadow
        would have refused it."""
        leases = policy.lease_names(names)
        if skipped:
            leases = [name for at, name in enumerate(leases) if policy.limits_n + at not in skipped]
        if not leases or self._leases is None:
            return None
        return self._leases.grant(leases, script.lease_id(batch_name, number))

    def _noted(self, batch: Batch, reply: bytes) -> dict[int, list[int]] | None:
        """The places of limits in shadow that would have refused, by the number of the question (from 1). What was told of
        quotas is kept for the next record."""
        notes = script.notes(reply, batch.asked_n)
        if not notes:
            return None
        skipped: dict[int, list[int]] = {}
        for whose, what, place, percent, ends_us in notes:
            number = whose - len(batch.settlements) - batch.returned_n
            if what == script.WOULD_REFUSE:
                skipped.setdefault(number + 1, []).append(place)
                continue
            told: Charge | Question | SliceRequest
            if number < 0:
                told = batch.settlements[whose]
            elif number < len(batch.questions):
                told = batch.questions[number]
            else:
                told = batch.slices[number - len(batch.questions)]
            self.quota_events.reached(told.policy, told.names, place, percent, ends_us)
        return skipped

    def _hand_out(self, question: Question, decision: Decision) -> None:
        # `_value_`: the descriptor behind `value` costs 0.2 µs, and this is every call's way.
        self._observe.decided(decision.limit, decision.outcome._value_)
        try:
            question.set(decision)
        except Exception:  # the request's own fault; those behind it in the batch must still get their decisions
            log.exception("a request failed on its decision")

    def _came_too_late(self, batch: Batch, reply: bytes) -> None:
        """The requests went on without this answer. What it counted stays counted, which errs on the safe side; the leases
        that it gave are held by nobody."""
        self._noted(batch, reply)
        answers = script.answers(reply, batch.asked_n)
        for number, question in enumerate(batch.questions, start=1):
            code = next(answers)[0]
            if question.policy.leased and code in (script.ALLOWED, script.OVERAGE):
                self.release(self._grant(question.policy, question.names, batch.name, number, ()))
        if batch.slices:  # a slice waits for nobody: its end goes by when it was asked for
            self.store_time_us = script.clock_us(reply)
            self._take_slices(batch, answers)

    def _end_untold_leases(self, batch: Batch) -> None:
        """The answer is lost with its connection. What leases it told of, if any, nobody holds."""
        for number, question in enumerate(batch.questions, start=1):
            if question.policy.leased:
                self.release(self._grant(question.policy, question.names, batch.name, number, ()))

    # --- failing ------------------------------------------------------------------------------------------------------

    def _refused(self, batch: Batch, reply: object) -> None:
        connection = None if self._link is None else self._link.connection
        if batch.settled:
            return
        if str(reply).startswith("NOSCRIPT") and not batch.resent and connection is not None:
            # Nothing has been counted, so the batch may be sent again. Its deadline stays.
            batch.resent = True
            if not self._script_is_loading:
                self._script_is_loading = True
                connection.send(("SCRIPT", "LOAD", script.DECIDE), self._script_loaded)
            self._send(connection, batch)
            return
        if self._link is not None and not isinstance(reply, ConnectionLost):
            self._link.failed("refused", str(reply)[:200])
        if batch.settlements and str(reply).startswith(script.NOTHING_COUNTED):
            self._keep_unsettled(batch.settlements)
            batch.settlements = ()
        self._settle_alone(batch)

    def _script_loaded(self, reply: object) -> None:
        self._script_is_loading = False

    def _overdue(self, batches: list[Batch]) -> None:
        # One failure, however many batches: a pause of Redis delays them all, and is one pause.
        if self._cluster is not None:
            self._cluster.overdue(batches)
            return
        if self._link is not None:
            self._link.failed("timeout", f"no answer within {self._in_flight.deadline_seconds * 1000:g} ms")
        for batch in batches:
            self._settle_alone(batch)

    def _settle_alone(self, batch: Batch) -> None:
        if batch.settled:
            return
        self._in_flight.settle(batch)
        for question in batch.questions:
            self._hand_out(question, self._decide_alone(question))
        self._miss_slices(batch.slices)
        self._lose(len(batch.settlements))

    def _miss_slices(self, requests: Sequence[SliceRequest]) -> None:
        if requests and self._slices is not None:
            self._slices.unanswered(requests, time.monotonic())

    def _keep_unsettled(self, charges: Sequence[Charge]) -> None:
        """Nothing of them was counted."""
        if charges:
            self._unsettled.keep(charges)

    def _is_away(self) -> bool:
        return self.away

    def _lose(self, settlements_n: int) -> None:
        for _ in range(settlements_n):
            self._observe.settled("lost")

    def _decide_alone(self, question: Question) -> Decision:
        without_store = self._link is None and self._cluster is None
        return self._alone.decide(question, StoreFailure.LOCAL if without_store else question.on_failure)


def _one_place(names: Sequence[str]) -> int:
    """One Redis holds all names."""
    return 0
