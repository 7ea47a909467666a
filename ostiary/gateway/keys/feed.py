"""Follows changes of keys in Postgres, so that a revocation holds in every process within a second.

Three means, each for what the one before can miss:

1. NOTIFY. Postgres delivers every committed change to a connection that listens, at once. It says nothing of what happened
   while the connection was down, so after each connect everything known is compared with Postgres.
2. Polling by revision, each second on the same connection, for notifications that do not arrive (a proxy between that does
   not carry them). It also proves the connection alive. Revisions come from a sequence and commit out of order: a slow
   transaction may commit a lower revision than one already seen. So each poll looks back to the highest revision
   that was seen OVERLAP_SECONDS ago.
3. A sweep: each poll also compares a slice of what is known, in turn. It finds deleted rows, which have no revision any
   more, and transactions that took longer than OVERLAP_SECONDS."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable

import asyncpg

from ostiary.gateway.keys import store
from ostiary.gateway.keys.cache import KeyCache

POLL_SECONDS = 1.0
# A poll that takes longer than this finds Postgres away.
DEADLINE_SECONDS = 2.0
OVERLAP_SECONDS = 10.0
# More changes than this within OVERLAP_SECONDS (an import): compare what is known instead of listing them.
POLL_ROWS_MAX = 10_000
# One slice of the sweep: about 2 ms for Postgres.
SWEEP_KEYS = 1_000
# Of the comparison after a connect, which is in more of a hurry.
COMPARE_KEYS = 5_000
_BACKOFF_FIRST_SECONDS = 0.1
# With jitter at most 2 s: what was revoked while nothing was heard holds within five seconds of Postgres's return.
_BACKOFF_MAX_SECONDS = 1.5

_log = logging.getLogger(__name__)


class ChangeFeed:
    """Tells `cache` what changed. After `stale_seconds` without Postgres it makes the cache forget everything; less than
    three seconds count as three, since a poll that is merely slow may take that long."""

    def __init__(
        self, *, postgres_url: str, cache: KeyCache, stale_seconds: float, connected: Callable[[], None]
    ) -> None:
        self._connected = connected  # Postgres is there: called each time it is found so
        self._postgres_url = postgres_url
        self._cache = cache
        self._stale_seconds = max(stale_seconds, POLL_SECONDS + DEADLINE_SECONDS)
        self._task: asyncio.Task[None] | None = None
        self._stale_timer: asyncio.TimerHandle | None = None
        self._heard_at = 0.0
        self._revisions: SeenRevisions | None = None  # of the connection before, until there is another
        self._sweep: list[str] = []  # ids still to be compared in this round
        self.following = False
        self.connects = 0
        self.failure: str | None = None

    def start(self) -> None:
        """Returns at once: whether Postgres is there shows in `following`."""
        self._heard()
        self._watch_staleness()
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        if self._stale_timer is not None:
            self._stale_timer.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @property
    def silent_seconds(self) -> float:
        """How long ago Postgres was last heard of (the start, if never)."""
        return asyncio.get_running_loop().time() - self._heard_at

    async def _run(self) -> None:
        backoff = _BACKOFF_FIRST_SECONDS
        while True:
            connects = self.connects
            try:
                await self._follow()
            except Exception as error:  # the feed must outlive whatever ended this connection
                reason = store.describe(error)
                if self.failure is None:
                    _log.error("key_changes_not_followed", extra={"fields": {"reason": reason}})
                self.failure = reason
            if self.connects > connects:
                backoff = _BACKOFF_FIRST_SECONDS
            # Jitter, so that the processes of many gateways do not come back in step.
            await asyncio.sleep(backoff * random.uniform(0.7, 1.3))  # noqa: S311  no secret
            backoff = min(backoff * 2, _BACKOFF_MAX_SECONDS)

    async def _follow(self) -> None:
        """One connection, from its start to its loss. Always ends with an exception."""
        connection = await store.connect(self._postgres_url, purpose="key changes", deadline_seconds=DEADLINE_SECONDS)
        try:
            lost = asyncio.Event()
            connection.add_termination_listener(lambda _: lost.set())
            await connection.add_listener(store.CHANNEL, self._announced)
            self._cache.following(True)
            self._heard()
            if self._revisions is not None:
                # Comparing a million keys takes seconds; what changed by revision is found before that.
                await self._list_changes(connection, self._revisions)
            revisions = self._revisions = SeenRevisions(await store.highest_revision(connection))
            await self._compare_all(connection)
            self.connects += 1
            self.following = True
            self._connected()
            if self.failure is not None:
                _log.warning("key_changes_followed_again")
                self.failure = None
            while not lost.is_set():
                self._heard()
                try:
                    async with asyncio.timeout(POLL_SECONDS):
                        await lost.wait()
                except TimeoutError:
                    await self._poll(connection, revisions)
            raise ConnectionResetError
        finally:
            self.following = False
            self._cache.following(False)
            connection.terminate()

    def _announced(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        self._cache.forget(str(payload))

    async def _poll(self, connection: asyncpg.Connection, revisions: SeenRevisions) -> None:
        if not await self._list_changes(connection, revisions):
            revisions.restart(await store.highest_revision(connection))
            self._cache.forget_absent()
            await self._compare_all(connection)
            return
        if not self._sweep:
            self._sweep = list(self._cache.known)
        part = self._sweep[-SWEEP_KEYS:]
        del self._sweep[-SWEEP_KEYS:]
        await self._compare(connection, part)

    async def _list_changes(self, connection: asyncpg.Connection, revisions: SeenRevisions) -> bool:
        """False if there are more changes than a poll lists."""
        now = asyncio.get_running_loop().time()
        rows = await store.changed_since(connection, revisions.floor(now), rows_max=POLL_ROWS_MAX)
        for key_id, revision in revisions.fresh(rows, now):
            known = self._cache.known.get(key_id)
            if known is None or known.revision != revision:
                self._cache.forget(key_id)
        return len(rows) < POLL_ROWS_MAX

    async def _compare_all(self, connection: asyncpg.Connection) -> None:
        ids = list(self._cache.known)
        for start in range(0, len(ids), COMPARE_KEYS):
            await self._compare(connection, ids[start : start + COMPARE_KEYS])
            self._heard()

    async def _compare(self, connection: asyncpg.Connection, ids: list[str]) -> None:
        known = self._cache.known
        if keys := [known[key_id] for key_id in ids if key_id in known]:
            for key_id in await store.changed_among(connection, keys):
                self._cache.forget(key_id)

    def _heard(self) -> None:
        self._heard_at = asyncio.get_running_loop().time()

    def _watch_staleness(self) -> None:
        """By a timer of its own, so that it is punctual whatever the connection does."""
        loop = asyncio.get_running_loop()
        due = self._heard_at + self._stale_seconds
        if loop.time() >= due:
            if not self._cache.expired:
                # Its keys are refused until Postgres is heard of.
                _log.error("keys_stale", extra={"fields": {"silent_seconds": self._stale_seconds}})
            self._cache.expire()
            due = loop.time() + self._stale_seconds
        self._stale_timer = loop.call_at(due, self._watch_staleness)


class SeenRevisions:
    """Where a poll has to begin so that a transaction of up to OVERLAP_SECONDS is not missed, and what it saw before."""

    def __init__(self, highest: int) -> None:
        self.restart(highest)

    def restart(self, highest: int) -> None:
        self._floor = highest
        self._highest = highest
        self._seen: set[tuple[str, int]] = set()
        self._history: deque[tuple[float, int]] = deque()  # (when, highest seen by then), one a poll

    def floor(self, now: float) -> int:
        """The highest revision that was seen OVERLAP_SECONDS ago."""
        while self._history and self._history[0][0] <= now - OVERLAP_SECONDS:
            self._floor = self._history.popleft()[1]
        return self._floor

    def fresh(self, rows: list[tuple[str, int]], now: float) -> list[tuple[str, int]]:
        """Those of `rows` that the poll before did not show."""
        fresh = [row for row in rows if row not in self._seen]
        self._seen = set(rows)
        self._highest = max((self._highest, *(revision for _, revision in rows)))
        self._history.append((now, self._highest))
        return fresh
