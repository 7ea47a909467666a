"""The limiter of one worker: all requests of one loop tick are decided by one command to Redis.

`decide` collects; the end of the tick sends (`_flush`); the reply sets the signals (`_replied`). A batch that gets no answer
in time, or an error, is decided without Redis, each request as its route chose. Nothing is ever sent twice, but for a
script that Redis did not know: a batch that was lost may have been counted, and its nonces are used up.

The breaker is the connection itself: after FAILURES_MAX failures in a row it is dropped, without one no request waits, and
making a new one (`_keep_connected`) is the probe, which includes a write that must come back within the deadline."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections import deque
from functools import partial
from weakref import WeakSet

from ostiary.core import keyspace
from ostiary.core.model import StoreFailure
from ostiary.gateway.limits import script
from ostiary.gateway.limits.connection import Address, Command, ConnectionLost, RedisConnection, ReplyRefused
from ostiary.gateway.limits.decision import Decision, LimiterObserver, Outcome
from ostiary.gateway.limits.local import LocalLease, LocalLimits
from ostiary.gateway.limits.nonces import NonceMemory
from ostiary.gateway.limits.policy import LimitPolicy
from ostiary.gateway.signal import Signal

log = logging.getLogger("ostiary.gateway.limits")

# Redis does nothing else while it decides a batch: 256 take it about 1.5 ms, well within every deadline.
BATCH_MAX = 256

# One slow moment of Redis (a fork, a page fault) must not open the breaker; three deadlines without one answer are no moment.
FAILURES_MAX = 3

# Making a connection and probing it. Long enough for TLS over a slow network, short enough to be back within two seconds.
CONNECT_SECONDS = 0.8
BACKOFF_FIRST_SECONDS = 0.05
BACKOFF_MAX_SECONDS = 0.8

# A connection that lived this long was a good one: the next is tried at once.
STEADY_SECONDS = 5.0

# After a busy spell of the loop a timer can run before a reply that has long arrived is read. One more turn reads it.
SECOND_LOOK_SECONDS = 0.001

# Two memories of two generations take 25 MB at most; without Redis a worker can serve this many signed writes in each life
# of a nonce (10 minutes), and refuses those beyond.
NONCES_GENERATION_MAX = 25_000

LEASES_PER_RENEWAL = 1000

_OUTCOMES = (
    Outcome.ALLOWED,
    Outcome.RATE_LIMITED,
    Outcome.QUOTA_EXCEEDED,
    Outcome.TOO_MANY_CONCURRENT,
    Outcome.NONCE_REPLAYED,
)
_OUTCOME_OF_KIND = {
    "rate": Outcome.RATE_LIMITED,
    "window": Outcome.RATE_LIMITED,
    "quota": Outcome.QUOTA_EXCEEDED,
    "concurrency": Outcome.TOO_MANY_CONCURRENT,
}


class Question(Signal[Decision]):
    """A request that waits for its decision."""

    __slots__ = ("names", "nonce", "nonce_seconds", "on_failure", "policy", "signed_write", "specification")

    def __init__(
        self,
        policy: LimitPolicy,
        names: list[str],
        nonce: str | None,
        nonce_seconds: int,
        on_failure: StoreFailure,
        signed_write: bool,
    ) -> None:
        super().__init__()
        self.policy = policy
        self.names = names
        self.nonce = nonce
        self.nonce_seconds = nonce_seconds
        self.on_failure = on_failure
        self.signed_write = signed_write
        self.specification = policy.specification(nonce_seconds)


class Batch:
    """Requests that went to Redis in one command. `settled`: they have their decisions, whatever still comes."""

    __slots__ = ("arguments", "due_at", "looked_twice", "name", "questions", "resent", "sent_at", "settled")

    def __init__(
        self,
        questions: list[Question],
        name: str,
        arguments: Command,
        sent_at: float,
        due_at: float,
    ) -> None:
        self.questions = questions
        self.name = name
        self.arguments = arguments
        self.sent_at = sent_at
        self.due_at = due_at
        self.settled = False
        self.looked_twice = False
        self.resent = False


class RedisLease:
    """A call under way, counted in Redis. While it is alive it is renewed; forgotten, it ends by itself."""

    __slots__ = ("__weakref__", "member", "name", "released")

    def __init__(self, name: str, member: str) -> None:
        self.name = name
        self.member = member
        self.released = False


class Limiter:
    """Decides for one worker of `workers`. `url` None means no Redis: this worker's share in its own memory, always.

    Raises ValueError for a URL that can't be used. All methods belong to the event loop that called `start`."""

    def __init__(self, *, url: str | None, deadline_seconds: float, workers: int, observe: LimiterObserver) -> None:
        self._address = Address.of(url) if url is not None else None
        self._deadline_seconds = deadline_seconds
        self._observe = observe
        self._local = LocalLimits(workers=workers)
        self._worker = secrets.token_hex(6)
        # Nonces that Redis accepted for this worker (it holds the truth, so the oldest may be forgotten), and nonces that
        # were accepted without it (nobody else knows them, so signed writes are refused when there is no room).
        self._nonces_seen = NonceMemory(NONCES_GENERATION_MAX)
        self._nonces_alone = NonceMemory(NONCES_GENERATION_MAX)

        self._loop: asyncio.AbstractEventLoop
        self._connection: RedisConnection | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._gone = asyncio.Event()
        self._attempted = asyncio.Event()
        self._failures_in_a_row = 0
        self._script_is_loading = False

        self._questions: list[Question] = []
        self._releases: list[RedisLease] = []
        self._flush_is_due = False
        self._in_flight: deque[Batch] = deque()
        self._deadline: asyncio.TimerHandle | None = None
        self._leases: WeakSet[RedisLease] = WeakSet()
        self._renewal: asyncio.TimerHandle | None = None

        self._batches = 0
        self._failures = 0
        self._last_failure: str | None = None
        self._decided_alone = 0
        self._state_since = time.monotonic()
        self.store_time_us = 0
        """Redis's clock, as of the reply whose decisions are being handed out."""

        self._nothing_to_decide: Signal[Decision] = Signal()
        self._nothing_to_decide.set(Decision(Outcome.ALLOWED, b"", 0, False, None, "none"))

    # --- life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connects, and stays connected, in the background. Returns after the first attempt, which takes CONNECT_SECONDS at
        most; a Redis that is away is no error."""
        self._loop = asyncio.get_running_loop()
        if self._address is not None:
            self._keeper = self._loop.create_task(self._keep_connected())
            await self._attempted.wait()

    async def close(self) -> None:
        """Whoever still waits is answered as if Redis were away."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
            self._keeper = None
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()
        self._flush()
        for batch in self._in_flight:
            self._settle_alone(batch)
        for timer in (self._deadline, self._renewal):
            if timer is not None:
                timer.cancel()
        self._deadline = self._renewal = None

    def status(self) -> dict[str, object]:
        """state: connected; away (decided as each route chose); local (no Redis is configured)."""
        state = "local" if self._address is None else "away" if self._connection is None else "connected"
        return {
            "state": state,
            "state_seconds": round(time.monotonic() - self._state_since, 3),
            "address": None if self._address is None else str(self._address),
            "batches": self._batches,
            "failures": self._failures,
            "last_failure": self._last_failure,
            "decided_without_store": self._decided_alone,
        }

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
        """Counts one request, or refuses it and counts nothing. Never raises; answers within the deadline (and a
        millisecond), at once when there is nothing to decide or Redis is away.

        `nonce` is None for a request without one; `signed_write` means that replaying it would change something."""
        if nonce is None:
            if policy.empty:
                return self._nothing_to_decide
            question = Question(policy, policy.names(key_id, app_id, organization_id, ip), None, 0, on_failure, False)
        else:
            nonce = keyspace.nonce(key_id or ip, nonce)
            names = policy.names(key_id, app_id, organization_id, ip)
            question = Question(policy, names, nonce, nonce_ttl_seconds, on_failure, signed_write)
            if self._nonces_seen.holds(nonce, time.monotonic()):
                self._hand_out(question, Decision(Outcome.NONCE_REPLAYED, b"", 0, False, None, "nonce"))
                return question
        if self._connection is None:
            self._hand_out(question, self._decide_alone(question))
            return question
        self._questions.append(question)
        if not self._flush_is_due:
            self._flush_is_due = True
            self._loop.call_soon(self._flush)
        return question

    def release(self, lease: object) -> None:
        """Ends a call under way. A second time, or with a lease of an earlier connection, it does nothing harmful."""
        if isinstance(lease, LocalLease):
            lease.release()
        elif isinstance(lease, RedisLease) and not lease.released:
            lease.released = True
            self._leases.discard(lease)
            self._release_soon(lease)

    def _release_soon(self, lease: RedisLease) -> None:
        if self._connection is None:
            return  # it ends by itself
        self._releases.append(lease)
        if not self._flush_is_due:
            self._flush_is_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_is_due = False
        questions, self._questions = self._questions, []
        releases, self._releases = self._releases, []
        connection = self._connection
        if connection is None:
            for question in questions:
                self._hand_out(question, self._decide_alone(question))
            return
        for lease in releases:
            connection.send(("ZREM", lease.name, lease.member), _ignore)
        if len(questions) <= BATCH_MAX:
            if questions:
                self._send(connection, questions)
            return
        for first in range(0, len(questions), BATCH_MAX):
            self._send(connection, questions[first : first + BATCH_MAX])

    def _send(self, connection: RedisConnection, questions: list[Question]) -> None:
        self._batches += 1
        name = f"{self._worker}:{self._batches}"
        now = time.monotonic()
        arguments = script.arguments(questions, name)
        batch = Batch(questions, name, arguments, now, now + self._deadline_seconds)
        self._in_flight.append(batch)
        connection.send((b"EVALSHA", script.DECIDE_SHA, *arguments), partial(self._replied, batch))
        if self._deadline is None:
            self._deadline = self._loop.call_later(self._deadline_seconds, self._check_deadline)

    # --- answering ----------------------------------------------------------------------------------------------------

    def _replied(self, batch: Batch, reply: object) -> None:
        if not isinstance(reply, bytes) or not script.is_reply(reply, len(batch.questions)):
            self._refused(batch, reply)
            return
        if batch.settled:
            self._too_late(batch, reply)
            return
        self._settled(batch)
        self._failures_in_a_row = 0
        now = time.monotonic()
        self._observe.round_trip(now - batch.sent_at)
        self.store_time_us = script.clock_us(reply)
        answers = script.answers(reply)
        for number, question in enumerate(batch.questions, start=1):
            code, index, remaining, reset = next(answers)
            label = question.policy.labels[index] if index != script.NO_LIMIT else None
            headers = b"" if label is None else label.template % (remaining, reset, remaining, reset)
            if code == script.ALLOWED or code == script.OVERAGE:
                if question.nonce is not None:
                    self._nonces_seen.remember(question.nonce, now, question.nonce_seconds)
                lease = self._leased(question, script.lease_id(batch.name, number)) if question.policy.leased else None
                self._hand_out(question, Decision(Outcome.ALLOWED, headers, 0, code == script.OVERAGE, lease, "none"))
            elif label is None:
                self._hand_out(question, Decision(Outcome.NONCE_REPLAYED, b"", 0, False, None, "nonce"))
            else:
                self._hand_out(question, Decision(_OUTCOMES[code], headers, reset, False, None, label.kind))

    def _hand_out(self, question: Question, decision: Decision) -> None:
        self._observe.decided(decision.limit, decision.outcome.value)
        try:
            question.set(decision)
        except Exception:  # the request's own fault; those behind it in the batch must still get their decisions
            log.exception("a request failed when it got its decision")

    def _leased(self, question: Question, member: str) -> RedisLease:
        lease = RedisLease(_lease_name(question), member)
        self._leases.add(lease)
        if self._renewal is None:
            self._renewal = self._loop.call_later(keyspace.LEASE_RENEWAL_SECONDS, self._renew)
        return lease

    def _too_late(self, batch: Batch, reply: bytes) -> None:
        """The requests went on without this answer. What it counted stays counted, which errs on the safe side; calls that
        it holds to be under way are not."""
        answers = script.answers(reply)
        for number, question in enumerate(batch.questions, start=1):
            code = next(answers)[0]
            if question.policy.leased and code in (script.ALLOWED, script.OVERAGE):
                self._release_soon(RedisLease(_lease_name(question), script.lease_id(batch.name, number)))

    def _refused(self, batch: Batch, error: object) -> None:
        if batch.settled:
            return
        if isinstance(error, ConnectionLost):
            self._settle_alone(batch)
            return
        if str(error).startswith("NOSCRIPT") and not batch.resent and self._connection is not None:
            # Nothing has been counted, so the batch may be sent again; its deadline stays.
            batch.resent = True
            if not self._script_is_loading:
                self._script_is_loading = True
                self._connection.send(("SCRIPT", "LOAD", script.DECIDE), self._script_loaded)
            self._connection.send((b"EVALSHA", script.DECIDE_SHA, *batch.arguments), partial(self._replied, batch))
            return
        self._failed("refused", str(error))
        self._settle_alone(batch)

    def _script_loaded(self, reply: object) -> None:
        self._script_is_loading = False

    def _settled(self, batch: Batch) -> None:
        batch.settled = True
        in_flight = self._in_flight
        while in_flight and in_flight[0].settled:
            in_flight.popleft()

    def _check_deadline(self) -> None:
        self._deadline = None
        if not self._in_flight:
            return
        now = time.monotonic()
        oldest = self._in_flight[0]
        wait_seconds = oldest.due_at - now
        if wait_seconds <= 0 and not oldest.looked_twice:
            oldest.looked_twice = True
            wait_seconds = SECOND_LOOK_SECONDS
        if wait_seconds > 0:
            self._deadline = self._loop.call_later(wait_seconds, self._check_deadline)
            return
        # All that are due now are one failure: a pause of Redis delays many batches, and is one pause.
        due = [batch for batch in self._in_flight if batch.due_at <= now]
        self._failed("timeout", f"no answer within {self._deadline_seconds * 1000:g} ms")
        for batch in due:
            self._settle_alone(batch)
        if self._in_flight and self._deadline is None:
            self._deadline = self._loop.call_later(max(0.0, self._in_flight[0].due_at - now), self._check_deadline)

    # --- without Redis ------------------------------------------------------------------------------------------------

    def _settle_alone(self, batch: Batch) -> None:
        if batch.settled:
            return
        self._settled(batch)
        for question in batch.questions:
            self._hand_out(question, self._decide_alone(question))

    def _decide_alone(self, question: Question) -> Decision:
        """As the route chose. Nonces are checked against this worker's memory in every mode that lets a request in."""
        self._decided_alone += 1
        policy, nonce = question.policy, question.nonce
        on_failure = question.on_failure if self._address is not None else StoreFailure.LOCAL
        unavailable = Decision(Outcome.UNAVAILABLE, b"", 1, False, None, "none")
        if on_failure is StoreFailure.CLOSED and (question.signed_write or not policy.empty):
            return unavailable
        now = time.monotonic()
        if nonce is not None:
            if self._nonces_alone.holds(nonce, now) or self._nonces_seen.holds(nonce, now):
                return Decision(Outcome.NONCE_REPLAYED, b"", 0, False, None, "nonce")
            if question.signed_write and self._nonces_alone.is_full(now):
                return unavailable
        decision = Decision(Outcome.ALLOWED, b"", 0, False, None, "none")
        if on_failure is StoreFailure.LOCAL and not policy.empty:
            decision = self._decide_locally(question)
        if nonce is not None and decision.outcome is Outcome.ALLOWED:
            self._nonces_alone.remember(nonce, now, question.nonce_seconds)
        return decision

    def _decide_locally(self, question: Question) -> Decision:
        policy = question.policy
        local = self._local.question(policy, question.names, time.time_ns() // 1000)
        standing = local.standing
        lease: LocalLease | None = None
        if standing.refused and standing.index is not None:
            label = policy.labels[standing.index]
        elif local.crowded:
            label = policy.labels[-1]
        else:
            standing, lease = local.take()
            headers = b""
            if standing.index is not None:
                left, reset = standing.remaining, standing.reset_seconds
                headers = policy.labels[standing.index].template % (left, reset, left, reset)
            return Decision(Outcome.ALLOWED, headers, 0, standing.overage, lease, "none")
        reset = standing.reset_seconds if standing.refused else 1
        headers = label.template % (0, reset, 0, reset)
        return Decision(_OUTCOME_OF_KIND[label.kind], headers, reset, False, None, label.kind)

    # --- the connection -----------------------------------------------------------------------------------------------

    def _failed(self, kind: str, reason: str) -> None:
        """Counts a failure of the connection that is in use, and drops it when there were too many in a row."""
        self._note_failure(kind, reason)
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= FAILURES_MAX and self._connection is not None:
            connection = self._connection
            connection.abort()
            self._connection_ended(connection)

    def _note_failure(self, kind: str, reason: str) -> None:
        self._failures += 1
        self._last_failure = f"{kind}: {reason}"
        self._observe.store_failed(kind)

    def _connection_ended(self, connection: RedisConnection) -> None:
        if connection is not self._connection:
            return  # it never got into use, or was dropped for its failures
        self._connection = None
        self._state_since = time.monotonic()
        if self._failures_in_a_row < FAILURES_MAX:
            self._note_failure("lost", "the connection ended")
        log.warning("Redis is away, limits are decided as each route chose: %s", self._last_failure)
        self._gone.set()

    async def _keep_connected(self) -> None:
        backoff_seconds = BACKOFF_FIRST_SECONDS
        while True:
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    connection = await self._connect()
            except (OSError, TimeoutError, ReplyRefused) as error:
                reason = str(error) or type(error).__name__
                self._note_failure("connect", reason)
                if not self._attempted.is_set():
                    log.warning(
                        "Redis at %s is away, limits are decided as each route chose: %s", self._address, reason
                    )
            else:
                self._connection = connection
                self._failures_in_a_row = 0
                self._script_is_loading = False
                self._gone.clear()
                connected_at = self._state_since = time.monotonic()
                self._attempted.set()
                log.info("connected to Redis at %s", self._address)
                await self._gone.wait()
                if time.monotonic() - connected_at > STEADY_SECONDS:
                    backoff_seconds = BACKOFF_FIRST_SECONDS
            self._attempted.set()
            # Jitter, so that the workers of all nodes do not come back in the same moment.
            await asyncio.sleep(backoff_seconds * random.uniform(0.5, 1.0))  # noqa: S311  no secret
            backoff_seconds = min(backoff_seconds * 2, BACKOFF_MAX_SECONDS)

    async def _connect(self) -> RedisConnection:
        """A connection whose Redis knows the script, takes writes, and answers within the deadline.

        Raises OSError and ReplyRefused."""
        assert self._address is not None  # noqa: S101  no keeper without an address
        connection = await RedisConnection.open(self._address, self._connection_ended)
        try:
            await connection.ask(("SCRIPT", "LOAD", script.DECIDE))
            for attempt in (1, 2):  # the first is slow where memory was swapped out or a TLS session is new
                asked_at = time.monotonic()
                life_ms = str(keyspace.PROBE_NONCE_MS)
                await connection.ask(("SET", keyspace.probe(self._worker), "", "PX", life_ms))
                if time.monotonic() - asked_at <= self._deadline_seconds:
                    break
                if attempt == 2:
                    raise TimeoutError(f"a write took longer than {self._deadline_seconds * 1000:g} ms")
            if not connection.is_open:
                raise ConnectionLost
        except BaseException:
            connection.abort()
            raise
        return connection

    # --- calls under way ----------------------------------------------------------------------------------------------

    def _renew(self) -> None:
        self._renewal = None
        leases = list(self._leases)
        if not leases:
            return
        self._renewal = self._loop.call_later(keyspace.LEASE_RENEWAL_SECONDS, self._renew)
        if self._connection is None:
            return
        for first in range(0, len(leases), LEASES_PER_RENEWAL):
            some = leases[first : first + LEASES_PER_RENEWAL]
            names = (lease.name for lease in some)
            members = (lease.member for lease in some)
            life_us = keyspace.LEASE_SECONDS * 1_000_000
            self._connection.send(("EVAL", script.RENEW, len(some), *names, life_us, *members), _ignore)


def _lease_name(question: Question) -> str:
    """The plan is the first part, and its leases stand after its state."""
    return question.names[1 if question.policy.parts[0].limits else 0]


def _ignore(reply: object) -> None:
    """Of a command whose failure needs no answer: what it would have done happens in time by itself."""
