"""Requests on their way to Redis and back, and the deadline they are under."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence

from ostiary.core.model import StoreFailure
from ostiary.gateway.limits.connection import Command, RedisConnection
from ostiary.gateway.limits.decision import Decision
from ostiary.gateway.limits.policy import LimitPolicy
from ostiary.gateway.limits.settling import Charge
from ostiary.gateway.limits.slices import SliceRequest
from ostiary.gateway.signal import Signal

# After a busy spell of the loop a timer can run before a reply that has long arrived is read. One more turn reads it.
SECOND_LOOK_SECONDS = 0.001


class Question(Signal[Decision]):
    """A request that waits for its decision. `names` and `nonce` are names in Redis."""

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
    """Requests that went to Redis in one command, the settlements and `returned_n` slices given back before them, and the
    `slices` asked for behind. `connection` is the one it was sent on last. `settled`: the requests have their decisions,
    whatever still comes."""

    __slots__ = (
        "arguments",
        "connection",
        "due_at",
        "looked_twice",
        "name",
        "questions",
        "resent",
        "returned_n",
        "sent_at",
        "settled",
        "settlements",
        "slices",
    )

    def __init__(
        self,
        questions: list[Question],
        name: str,
        arguments: Command,
        settlements: Sequence[Charge] = (),
        slices: Sequence[SliceRequest] = (),
        returned_n: int = 0,
    ) -> None:
        self.questions = questions
        self.settlements = settlements
        self.slices = slices
        self.returned_n = returned_n
        self.name = name
        self.arguments = arguments
        self.connection: RedisConnection | None = None
        self.sent_at = time.monotonic()
        self.due_at = 0.0
        self.settled = False
        self.looked_twice = False
        self.resent = False

    @property
    def asked_n(self) -> int:
        """How many answers its reply has."""
        return len(self.questions) + len(self.slices)


class InFlight:
    """The batches that wait for a reply, oldest first, under one timer: it stands for the oldest, so it is set at most once
    a deadline and not once a batch. `overdue` gets those whose time is over, and settles them."""

    def __init__(self, *, deadline_seconds: float, overdue: Callable[[list[Batch]], None]) -> None:
        self.deadline_seconds = deadline_seconds
        self._overdue = overdue
        self._batches: deque[Batch] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, batch: Batch) -> None:
        batch.due_at = batch.sent_at + self.deadline_seconds
        self._batches.append(batch)
        if self._timer is None:
            self._set_timer(self.deadline_seconds)

    def settle(self, batch: Batch) -> None:
        batch.settled = True
        batches = self._batches
        while batches and batches[0].settled:
            batches.popleft()

    def end(self) -> list[Batch]:
        """What still waits; no timer runs any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return list(self._batches)

    def _set_timer(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._check)

    def _check(self) -> None:
        self._timer = None
        if not self._batches:
            return
        now = time.monotonic()
        oldest = self._batches[0]
        if oldest.due_at > now:
            self._set_timer(oldest.due_at - now)
        elif not oldest.looked_twice:
            oldest.looked_twice = True
            self._set_timer(SECOND_LOOK_SECONDS)
        else:
            self._overdue([batch for batch in self._batches if batch.due_at <= now and not batch.settled])
            if self._batches and self._timer is None:
                self._set_timer(max(0.0, self._batches[0].due_at - now))
