"""The limiter of one worker: all requests of one loop tick are decided by one command to Redis.

`decide` collects, the end of the tick sends (`_flush`), the reply sets the signals (`_replied`). A batch that gets no answer
in time, or an error, is decided without Redis, each request as its route chose. Nothing is sent twice, but for a script that
Redis did not know: a batch that was lost may have been counted, and its nonces used up by itself."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from functools import partial

from ostiary.core import keyspace
from ostiary.core.model import StoreFailure
from ostiary.gateway.limits import script
from ostiary.gateway.limits.alone import Alone, replayed
from ostiary.gateway.limits.batch import Batch, InFlight, Question
from ostiary.gateway.limits.connection import Address, ConnectionLost, RedisConnection
from ostiary.gateway.limits.decision import Decision, LimiterObserver, Outcome
from ostiary.gateway.limits.leases import Leases, RedisLease
from ostiary.gateway.limits.link import Link
from ostiary.gateway.limits.local import LocalLease
from ostiary.gateway.limits.nodes import Heartbeat
from ostiary.gateway.limits.nonces import NodeNonces
from ostiary.gateway.limits.policy import LimitPolicy
from ostiary.gateway.node import BUCKETS_ALONE, NodeMemory
from ostiary.gateway.signal import Signal

log = logging.getLogger("ostiary.gateway.limits")

# Redis does nothing else while it decides a batch; 256 take it a few milliseconds, well within the deadline.
BATCH_MAX = 256

_OUTCOMES = {
    script.RATE_LIMITED: Outcome.RATE_LIMITED,
    script.QUOTA_EXCEEDED: Outcome.QUOTA_EXCEEDED,
    script.CROWDED: Outcome.TOO_MANY_CONCURRENT,
}


class Limiter:
    """Decides for one worker of `workers`. `url` None means no Redis: this worker's share in its own memory, always. `node`
    is what it shares with the other workers; without one it shares with nobody.

    Raises ValueError for a URL that can't be used. All methods belong to the event loop that called `start`."""

    def __init__(
        self,
        *,
        url: str | None,
        deadline_seconds: float,
        workers: int,
        observe: LimiterObserver,
        node: NodeMemory | None = None,
    ) -> None:
        self._observe = observe
        self._worker = secrets.token_hex(6)
        self._node = NodeMemory.create(buckets=BUCKETS_ALONE) if node is None else node
        # What is known to be used is refused without asking, also after Redis has lost its memory.
        self._nonces = NodeNonces(self._node)
        self._alone = Alone(workers=workers, node=self._node, nonces=self._nonces)
        self._link: Link | None = None
        self._leases: Leases | None = None
        self._heartbeat: Heartbeat | None = None
        if url is not None:
            address = Address.of(url)
            self._link = Link(address, deadline_seconds=deadline_seconds, worker=self._worker, observe=observe)
            self._leases = Leases(self._link)
            self._heartbeat = Heartbeat(link=self._link, node=self._node)
        self._in_flight = InFlight(deadline_seconds=deadline_seconds, overdue=self._overdue)
        self._questions: list[Question] = []
        self._batches = 0
        self._script_is_loading = False
        self._nothing_to_decide: Signal[Decision] = Signal()
        self._nothing_to_decide.set(Decision(Outcome.ALLOWED, b"", 0, False, None, "none"))
        self._loop: asyncio.AbstractEventLoop
        self.store_time_us = 0
        """Redis's clock, as of the reply whose decisions are being handed out."""

    # --- life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connects, and stays connected, in the background. Returns after the first attempt, at most 0.8 s; a Redis that is
        away is no error."""
        self._loop = asyncio.get_running_loop()
        if self._link is not None:
            await self._link.start()
        if self._heartbeat is not None:
            self._heartbeat.start()

    async def close(self) -> None:
        """Whoever still waits is answered as if Redis were away."""
        if self._heartbeat is not None:
            self._heartbeat.close()
        if self._link is not None:
            await self._link.close()
        if self._leases is not None:
            self._leases.close()
        self._flush()
        for batch in self._in_flight.end():
            self._settle_alone(batch)

    def status(self) -> dict[str, object]:
        """state: connected; away (decided as each route chose); local (no Redis is configured)."""
        link = {"state": "local", "failures": 0} if self._link is None else self._link.status()
        counts = {"batches": self._batches, "decided_without_store": self._alone.decided}
        return {**link, **counts, "nodes": self.nodes, "sharers": self._alone.sharers()}

    @property
    def away(self) -> bool:
        """Redis is configured, and does not decide."""
        return self._link is not None and self._link.connection is None

    @property
    def nodes(self) -> int:
        """How many nodes there were when Redis was last asked."""
        return self._node.nodes

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
    ) -> Signal[Decision]:
        """Counts one request, or refuses it and counts nothing. Never raises; answers within the deadline and some
        milliseconds, at once when there is nothing to decide or Redis is away.

        `nonce` is None for a request without one; `signed_write` means that replaying it would change something."""
        if nonce is None:
            if policy.empty:
                return self._nothing_to_decide
            nonce_ttl_seconds = 0
        else:
            nonce = keyspace.nonce(key_id or ip, nonce)
        names = policy.names(key_id, app_id, organization_id, ip)
        question = Question(policy, names, nonce, nonce_ttl_seconds, on_failure, signed_write)
        if nonce is not None and self._nonces.holds(nonce, time.monotonic()):
            self._hand_out(question, replayed())
        elif self._link is None or self._link.connection is None:
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

    def _flush(self) -> None:
        questions, self._questions = self._questions, []
        connection = None if self._link is None else self._link.connection
        if connection is None:
            for question in questions:
                self._hand_out(question, self._decide_alone(question))
            return
        for first in range(0, len(questions), BATCH_MAX):
            self._batches += 1
            some = questions[first : first + BATCH_MAX]
            name = f"{self._worker}:{self._batches}"
            batch = Batch(some, name, script.arguments(some, name))
            self._in_flight.add(batch)
            self._send(connection, batch)

    def _send(self, connection: RedisConnection, batch: Batch) -> None:
        connection.send((b"EVALSHA", script.DECIDE_SHA, *batch.arguments), partial(self._replied, batch))

    # --- answering ----------------------------------------------------------------------------------------------------

    def _replied(self, batch: Batch, reply: object) -> None:
        if not isinstance(reply, bytes) or not script.is_reply(reply, len(batch.questions)):
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
        answers = script.answers(reply)
        for number, question in enumerate(batch.questions, start=1):
            code, index, remaining, reset = next(answers)
            policy = question.policy
            if code == script.ALLOWED or code == script.OVERAGE:
                lease: RedisLease | None = None
                if policy.leased and self._leases is not None:
                    lease = self._leases.grant(_lease_name(question), script.lease_id(batch.name, number))
                if question.nonce is not None and not self._nonces.accepted(
                    question.nonce, now, question.nonce_seconds
                ):
                    # The limits stay charged with it, which errs on the safe side.
                    if lease is not None:
                        self.release(lease)
                    self._hand_out(question, replayed())
                    continue
                headers = b"" if index == script.NO_LIMIT else policy.labels[index].headers(remaining, reset)
                self._hand_out(question, Decision(Outcome.ALLOWED, headers, 0, code == script.OVERAGE, lease, "none"))
            elif code == script.NONCE_USED:
                self._hand_out(question, replayed())
            else:
                label = policy.labels[index]
                headers = label.headers(remaining, reset)
                self._hand_out(question, Decision(_OUTCOMES[code], headers, reset, False, None, label.kind))

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
        answers = script.answers(reply)
        for number, question in enumerate(batch.questions, start=1):
            code = next(answers)[0]
            if question.policy.leased and self._leases is not None and code in (script.ALLOWED, script.OVERAGE):
                self._leases.release(RedisLease(_lease_name(question), script.lease_id(batch.name, number)))

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
        self._settle_alone(batch)

    def _script_loaded(self, reply: object) -> None:
        self._script_is_loading = False

    def _overdue(self, batches: list[Batch]) -> None:
        # One failure, however many batches: a pause of Redis delays them all, and is one pause.
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

    def _decide_alone(self, question: Question) -> Decision:
        on_failure = StoreFailure.LOCAL if self._link is None else question.on_failure
        return self._alone.decide(question, on_failure)


def _lease_name(question: Question) -> str:
    """The plan is the first part of a policy, and its leases stand after its state."""
    return question.names[1 if question.policy.parts[0].limits else 0]
