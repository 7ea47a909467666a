"""Secrets whose data key a service has to unwrap: asked for when a signed call first needs one, kept for a bounded time.

One call to a service is under way at a time, with as many data keys as wait for it. A key in use is opened anew, in the
background, when half of its time is over: a call waits for a key's first opening and for none after it, and a service that
goes away is not missed for at least half of that time. At its end the secret is no longer used, and forgotten."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import OrderedDict
from collections.abc import Callable

from ostiary.core.encryption import EncryptionError, KeyServiceUnavailable, RemoteKeyWrapper, Wrapped, open_sealed
from ostiary.core.errors import ErrorCode, GatewayError
from ostiary.core.signing import Signer
from ostiary.gateway.keys.cache import KeyCache, KnownKey, SealedSecret
from ostiary.gateway.signal import Signal
from ostiary.key_encryption import BoundedCalls

# Of one call: what the service takes at once.
BATCH_MAX = 100
# Callers that wait at once for one service; beyond it they are refused at once.
WAITING_MAX = 4_096
# After a failure nobody waits, and nobody asks, for so long.
RETRY_SECONDS = 1.0
# What a service says can't be opened is not asked for again for so long: it was altered, or its KEK is gone.
HOPELESS_SECONDS = 30.0
# A call that found its key usable may still read its body: the secret stays so much longer than it may be picked up.
UNDER_WAY_SECONDS = 300.0
_SWEEP_SECONDS = 5.0
_RENEW_TOKEN_SECONDS = 30.0

_log = logging.getLogger(__name__)

Answer = Signal[KnownKey | None]


class Openings:
    """What one process has opened, and waits to open, by one service, which is called in a thread. `look_up` sets an answer
    to what Postgres now says of a key id, with its secrets open.

    Secrets outlive the entry of their key in the cache, so that a key that is read again
    because its limits changed need not be opened again."""

    def __init__(
        self,
        wrapper: RemoteKeyWrapper,
        *,
        cache: KeyCache,
        look_up: Callable[[str, Answer], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.wrapper = wrapper
        self._cache = cache
        self._look_up = look_up
        self._cache_seconds = wrapper.cache_seconds
        self._calls = BoundedCalls(at_once=1, deadline_seconds=wrapper.deadline_seconds)
        self._clock = clock
        self._kept: OrderedDict[bytes, SealedSecret] = OrderedDict()  # by wrapped data key; the first was opened first
        self._waiting: dict[SealedSecret, list[tuple[KnownKey, Answer]]] = {}
        self._asked: dict[SealedSecret, list[tuple[KnownKey, Answer]]] = {}
        self._task: asyncio.Task[None] | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._renewer: asyncio.Task[None] | None = None
        self._retry_at = 0.0
        self._failing: str | None = None
        self._closed = False
        self.waiting = 0
        self.calls = 0
        self.failures = 0
        self.refused = 0

    def start(self) -> None:
        self._renewer = asyncio.get_running_loop().create_task(self._renew_token())

    async def close(self) -> None:
        """Whoever still waits is refused."""
        self._closed = True
        for task in (self._task, self._renewer):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._refuse_all("this process is ending")
        self._calls.close()

    def secret(self, key_id: str, sealed: bytes, wrapped: bytes) -> SealedSecret:
        """The secret of a row; opened, if it was and is still good."""
        kept = self._kept.get(wrapped)
        if kept is not None and kept.sealed == sealed and kept.key_id == key_id:
            return kept
        return SealedSecret(key_id, sealed, wrapped, self)

    def ask(self, known: KnownKey, secret: SealedSecret) -> KnownKey | Answer:
        """For a secret whose time to be asked for has come (`ask_at`): the key, when it can be used all the same, else a
        signal of it. That fails with KEYS_UNAVAILABLE while the service can't be asked."""
        now = self._clock()
        if now < secret.good_until:
            if secret in self._waiting or secret in self._asked:
                return known
            if now >= self._retry_at and not self._closed:
                self._waiting[secret] = []
                self._begin()
            secret.ask_at = min(secret.good_until, now + RETRY_SECONDS)
            return known
        answer: Answer = Signal()
        self.wait(known, secret, answer)
        return answer

    def wait(self, known: KnownKey, secret: SealedSecret, answer: Answer) -> None:
        """For a secret that is closed: sets `answer` once it, and every other of the key, is open; or fails it."""
        now = self._clock()
        if self._closed or now < self._retry_at:
            self._refuse(answer, self._failing or "this process is ending")
        elif self.waiting >= WAITING_MAX:
            self._refuse(answer, f"{WAITING_MAX} calls wait for the service that opens keys")
        else:
            self.waiting += 1
            asked = self._asked.get(secret)
            (self._waiting.setdefault(secret, []) if asked is None else asked).append((known, answer))
            self._begin()

    def is_closed(self, secret: SealedSecret) -> bool:
        """It has to be opened before it can be used."""
        return self._clock() >= secret.good_until

    def status(self) -> dict[str, object]:
        return {
            "opened": len(self._kept),
            "waiting": self.waiting,
            "calls": self.calls,
            "failures": self.failures,
            "refused": self.refused,
            "failing": self._failing,
        }

    # --- within -------------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._work())

    async def _work(self) -> None:
        try:
            while self._waiting:
                for secret in list(self._waiting)[:BATCH_MAX]:
                    self._asked[secret] = self._waiting.pop(secret)
                try:
                    await self._open_batch(list(self._asked))
                except Exception as error:  # whatever it is, these callers must not wait for ever
                    self._failed(error)
        finally:
            self._task = None

    async def _open_batch(self, secrets: list[SealedSecret]) -> None:
        self.calls += 1
        wrapped = [Wrapped(secret.wrapped, secret.key_id.encode()) for secret in secrets]
        began = self._clock()
        data_keys = await self._calls.run(lambda: self.wrapper.unwrap_all(wrapped))
        if self._failing is not None:
            _log.warning("key_openings_work_again", extra={"fields": {"key_encryption_key": self.wrapper.name}})
            self._failing = None
        for secret, data_key in zip(secrets, data_keys, strict=True):
            self._opened(secret, data_key, began)
        asked, self._asked = self._asked, {}
        for secret, callers in asked.items():
            self.waiting -= len(callers)
            for known, answer in callers:
                self._give(known, secret, answer)

    def _opened(self, secret: SealedSecret, data_key: bytes | EncryptionError, began: float) -> None:
        try:
            if isinstance(data_key, EncryptionError):
                raise data_key
            secret.signer = Signer(open_sealed(secret.sealed, data_key, key_id=secret.key_id))
        except EncryptionError as error:
            # Also when it was open: a KEK that is taken away there is taken away here.
            fields = {"key_id": secret.key_id, "key_encryption_key": self.wrapper.name, "reason": str(error)}
            _log.error("key_cannot_sign", extra={"fields": fields})
            secret.signer = None
            secret.good_until = secret.ask_at = began + HOPELESS_SECONDS
            self._kept.pop(secret.wrapped, None)
            return
        secret.good_until = began + self._cache_seconds
        # Spread, so that what was opened together is not asked for together again.
        secret.ask_at = began + self._cache_seconds * random.uniform(0.4, 0.5)  # noqa: S311  no secret
        self._kept[secret.wrapped] = secret
        self._kept.move_to_end(secret.wrapped)
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(_SWEEP_SECONDS, self._sweep)

    def _give(self, known: KnownKey, secret: SealedSecret, answer: Answer) -> None:
        present = self._cache.known.get(known.key.id)
        try:
            if present is None or secret not in present.sealed_secrets():
                # It changed meanwhile, was revoked perhaps: what was found before must not count after it.
                self._look_up(known.key.id, answer)
            else:
                give_opened(present, answer)
        except Exception:  # the request's own fault; the others must still get their answers
            _log.exception("a request failed while it was given its key")

    def _failed(self, error: Exception) -> None:
        # Another error than those that are meant to be read may quote what it was given.
        reason = str(error) if isinstance(error, KeyServiceUnavailable) else type(error).__name__
        if self._failing is None:
            fields = {"key_encryption_key": self.wrapper.name, "reason": reason}
            _log.error("key_openings_fail", extra={"fields": fields})
        self._failing = reason
        self.failures += 1
        self._retry_at = float("inf")  # refusing thousands takes a while, and some of them ask again
        self._refuse_all(reason)
        self._retry_at = self._clock() + RETRY_SECONDS

    def _refuse_all(self, reason: str) -> None:
        refused = [
            answer for batch in (self._asked, self._waiting) for callers in batch.values() for _, answer in callers
        ]
        self._asked, self._waiting = {}, {}
        self.waiting -= len(refused)
        for answer in refused:
            self._refuse(answer, reason)

    def _refuse(self, answer: Answer, reason: str) -> None:
        self.refused += 1
        try:
            answer.fail(_unavailable(reason))
        except Exception:
            _log.exception("a request failed while it was given its key")

    def _sweep(self) -> None:
        """Forgets what is no longer good, so that it is not in memory either."""
        now = self._clock()
        while self._kept:
            wrapped, secret = next(iter(self._kept.items()))
            if now < secret.good_until + UNDER_WAY_SECONDS:
                break
            del self._kept[wrapped]
            secret.signer = None
        loop = asyncio.get_running_loop()
        self._sweeper = loop.call_later(_SWEEP_SECONDS, self._sweep) if self._kept else None

    async def _renew_token(self) -> None:
        """What proves us to the service must not end between two openings, which may be far apart."""
        while True:
            try:
                await self._calls.run(self.wrapper.renew_if_due)
            except EncryptionError as error:
                fields = {"key_encryption_key": self.wrapper.name, "reason": str(error)}
                _log.info("key_service_token_not_renewed", extra={"fields": fields})
            await asyncio.sleep(_RENEW_TOKEN_SECONDS)


def give_opened(known: KnownKey, answer: Answer) -> None:
    """Sets `answer` once every secret of `known` is open, or fails it."""
    for secret in known.sealed_secrets():
        if secret.openings.is_closed(secret):
            secret.openings.wait(known, secret, answer)
            return
    answer.set(known)


def _unavailable(reason: str) -> GatewayError:
    return GatewayError(
        ErrorCode.KEYS_UNAVAILABLE, f"the key's secret can't be opened now: {reason}", headers=(("Retry-After", "1"),)
    )
