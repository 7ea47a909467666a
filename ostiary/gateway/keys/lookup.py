"""Asks Postgres for keys that this process does not know: one connection, one query at a time, many questions in each.

Whoever asks while a query is under way waits for the next one, so that a thousand cold keys at once are four queries,
not a thousand, and a flood of made-up keys can't take Postgres's connections."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable

import asyncpg

from ostiary.core.errors import ErrorCode, GatewayError
from ostiary.gateway.keys import store
from ostiary.gateway.keys.cache import KeyCache, KnownKey, Question
from ostiary.gateway.keys.opening import give_opened
from ostiary.gateway.signal import Signal

# Questions in one query: some 3 ms for Postgres, so that a cold key never waits long behind others.
BATCH_MAX = 256
# Callers that wait at once; beyond it they are refused with 503 at once, which costs nothing and leaves nothing behind.
WAITING_MAX = 4_096
# For connecting, and for one query. Long enough for a busy Postgres, shorter than what clients wait for.
DEADLINE_SECONDS = 2.0
# After a failure nobody waits until Postgres is tried again: without it every unknown key would wait for the deadline.
RETRY_SECONDS = 0.25

_log = logging.getLogger(__name__)

# Setting a signal runs the request that waits for it, whose errors must not cost the others their answers.
_WAITER_FAILED = "a request failed while it was given its key"

Answer = Signal[KnownKey | None]


class Lookup:
    """Answers questions by Postgres and remembers the answers in `cache`.

    An answer is a key in force, or None. It fails with GatewayError KEYS_UNAVAILABLE when Postgres does not answer within
    DEADLINE_SECONDS, has failed within the last RETRY_SECONDS, or WAITING_MAX callers are waiting."""

    def __init__(
        self,
        *,
        postgres_url: str,
        loader: store.KeyLoader,
        cache: KeyCache,
        clock: Callable[[], float],
        epoch: Callable[[], int],
    ) -> None:
        self._postgres_url = postgres_url
        self._loader = loader
        self._cache = cache
        self._clock = clock
        self._epoch = epoch
        self._connection: asyncpg.Connection | None = None
        self._task: asyncio.Task[None] | None = None
        self._waiting: dict[Question, list[Answer]] = {}  # for the next queries
        self._asked: dict[Question, list[Answer]] = {}  # in the query under way
        self._asked_again: set[Question] = set()
        self._retry_at = 0.0
        self._failing: str | None = None
        self._closed = False
        self.waiting = 0
        self.queries = 0
        self.failures = 0
        self.refused = 0

    def ask(self, question: Question) -> Answer:
        """The signal is this caller's own. Callers with one question share one place in one query."""
        answer: Answer = Signal()
        self.ask_for(question, answer)
        return answer

    def ask_for(self, question: Question, answer: Answer) -> None:
        """Sets or fails `answer`, a signal that somebody may be waiting for."""
        if self._closed or time.monotonic() < self._retry_at:
            self.refused += 1
            answer.fail(_unavailable(self._failing or "this process is ending"))
            return
        if self.waiting >= WAITING_MAX:
            self.refused += 1
            answer.fail(_unavailable(f"{WAITING_MAX} look-ups are waiting"))
            return
        self.waiting += 1
        if (answers := self._asked.get(question)) is not None:
            answers.append(answer)
        else:
            self._waiting.setdefault(question, []).append(answer)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._work())

    def try_at_once(self) -> None:
        """Postgres was seen to be there: the pause after a failure is over."""
        if self._retry_at != math.inf:
            self._retry_at = 0.0

    async def close(self) -> None:
        """Whoever still waits is refused."""
        self._closed = True
        if (task := self._task) is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self._refuse_all("this process is ending")
        self._disconnect()

    async def _work(self) -> None:
        """Queries until nobody waits."""
        try:
            while self._waiting:
                for question in list(self._waiting)[:BATCH_MAX]:
                    self._asked[question] = self._waiting.pop(question)
                try:
                    await self._answer_batch()
                except Exception as error:  # whatever it is, these callers must not wait for ever
                    self._failed(error)
        finally:
            self._task = None

    async def _answer_batch(self) -> None:
        changes = self._cache.watch()
        keys = await self._load()
        if self._failing is not None:
            _log.warning("key_look_ups_work_again")
            self._failing = None
        found: dict[Question, KnownKey] = {}
        for known in keys:
            found[known.key.id] = found[known.key.secret_sha256] = known
            if known.previous is not None:
                found[known.previous.key.secret_sha256] = known.previous
            if not changes.everything and known.key.id not in changes.ids:
                self._cache.remember(known)
        asked, self._asked = self._asked, {}
        for question, answers in asked.items():
            answer = found.get(question)
            if answer is not None and answer.key.id in changes.ids and question not in self._asked_again:
                # Revoked, perhaps, after the query saw it: ask once more rather than let an old answer count.
                self._asked_again.add(question)
                self._waiting.setdefault(question, []).extend(answers)
                continue
            self._asked_again.discard(question)
            if answer is None and not changes:
                self._cache.remember_absent(question)
            self._give(answers, answer, signs=isinstance(question, str))

    async def _load(self) -> list[KnownKey]:
        """One try more on a new connection, if the one at hand turns out to be dead (Postgres was restarted)."""
        kept = self._connection is not None
        try:
            return await self._query()
        except Exception as error:
            self._disconnect()
            if not kept or isinstance(error, TimeoutError):
                raise
        return await self._query()

    async def _query(self) -> list[KnownKey]:
        if self._connection is None or self._connection.is_closed():
            self._disconnect()
            self._connection = await store.connect(
                self._postgres_url, purpose="key look-up", deadline_seconds=DEADLINE_SECONDS
            )
        self.queries += 1
        return await self._loader.load(
            self._connection,
            ids=[question for question in self._asked if isinstance(question, str)],
            secrets_sha256=[question for question in self._asked if isinstance(question, bytes)],
            epoch=self._epoch(),
        )

    def _give(self, answers: list[Answer], known: KnownKey | None, *, signs: bool) -> None:
        """A key that is asked for by its id `signs`, and is no use before its secret is open."""
        if known is not None and known.expires_at <= self._clock():
            known = None
        self.waiting -= len(answers)
        for answer in answers:
            try:
                if signs and known is not None:
                    give_opened(known, answer)
                else:
                    answer.set(known)
            except Exception:
                _log.exception(_WAITER_FAILED)

    def _failed(self, error: Exception) -> None:
        reason = store.describe(error)
        if self._failing is None:
            _log.error("key_look_ups_fail", extra={"fields": {"reason": reason}})
        self._failing = reason
        self.failures += 1
        self._disconnect()
        self._retry_at = math.inf  # refusing thousands takes a while, and some of them ask again
        self._refuse_all(reason)
        self._retry_at = time.monotonic() + RETRY_SECONDS

    def _refuse_all(self, reason: str) -> None:
        refused = [answer for batch in (self._asked, self._waiting) for answers in batch.values() for answer in answers]
        self._asked, self._waiting = {}, {}
        self._asked_again.clear()
        self.waiting -= len(refused)
        for answer in refused:
            try:
                answer.fail(_unavailable(reason))
            except Exception:
                _log.exception(_WAITER_FAILED)

    def _disconnect(self) -> None:
        """At once: a polite goodbye would wait for a server that may be hanging."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()


def _unavailable(reason: str) -> GatewayError:
    return GatewayError(ErrorCode.KEYS_UNAVAILABLE, f"unknown key, and {reason}", headers=(("Retry-After", "1"),))
