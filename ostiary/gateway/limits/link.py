"""The link of one worker to Redis: made in the background, probed, dropped when it fails, made again.

The link is the breaker too. Closed is to have a connection, open is to have none (no request waits then), and the attempt to
make one is the probe: it includes a write that must come back within the deadline of a decision."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from functools import partial

from ostiary.core import keyspace
from ostiary.gateway.limits import script
from ostiary.gateway.limits.connection import Address, Command, ConnectionLost, RedisConnection, ReplyRefused
from ostiary.gateway.limits.decision import LimiterObserver

log = logging.getLogger("ostiary.gateway.limits")

# One slow moment of Redis (a fork, a page fault) must not open the breaker; three deadlines in a row are no moment.
FAILURES_MAX = 3

# Making a connection and probing it: long enough for TLS over a slow network. With the longest backoff, a Redis that has
# come back is in use within 1.6 s, and the bound is 2 s.
CONNECT_SECONDS = 0.8
BACKOFF_FIRST_SECONDS = 0.05
BACKOFF_MAX_SECONDS = 0.8

# After a connection that lived this long the backoff begins anew; one that keeps failing is tried more and more slowly.
STEADY_SECONDS = 5.0


class Link:
    """`connection` is None while Redis is away."""

    backoff_max_seconds = BACKOFF_MAX_SECONDS

    def __init__(self, address: Address, *, deadline_seconds: float, worker: str, observe: LimiterObserver) -> None:
        self.address = address
        self.connection: RedisConnection | None = None
        self._deadline_seconds = deadline_seconds
        self._worker = worker
        self._observe = observe
        self._keeper: asyncio.Task[None] | None = None
        self._attempted = asyncio.Event()
        self._ended = asyncio.Event()
        self.failures = 0
        self._failures_in_a_row = 0
        self._last_failure: str | None = None
        self._since = time.monotonic()

    async def start(self) -> None:
        """Returns after the first attempt, whatever came of it: at most CONNECT_SECONDS."""
        self.begin()
        await self.attempted()

    def begin(self) -> None:
        self._keeper = asyncio.get_running_loop().create_task(self._keep())

    async def attempted(self) -> None:
        await self._attempted.wait()

    async def close(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
            self._keeper = None
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.abort()

    def status(self) -> dict[str, object]:
        return {
            "state": "away" if self.connection is None else "connected",
            "state_seconds": round(time.monotonic() - self._since, 3),
            "address": str(self.address),
            "failures": self.failures,
            "last_failure": self._last_failure,
        }

    # --- for leases and nodes (see leases.LeaseStore, nodes.NodesStore) -------------------------------------------------

    def tell(self, name: str, command: Command, not_done: Callable[[], None] | None = None) -> None:
        if self.connection is not None:
            self.connection.send(command, _nothing if not_done is None else partial(_told, not_done))
        elif not_done is not None:
            not_done()

    def place_of(self, name: str) -> int:
        """One Redis holds all names."""
        return 0

    def connection_at(self, name: str) -> RedisConnection | None:
        return self.connection

    # --- for keepsakes (see keepsakes.KeepsakeStore) --------------------------------------------------------------------

    keepsake = keyspace.keepsake(0)

    @property
    def place(self) -> str:
        return str(self.address)

    def keepers(self) -> Sequence[Link]:
        return (self,)

    # --- the breaker --------------------------------------------------------------------------------------------------

    def succeeded(self) -> None:
        self._failures_in_a_row = 0

    def failed(self, kind: str, reason: str) -> None:
        """A batch failed on this connection; after FAILURES_MAX in a row the connection is dropped."""
        self._note(kind, reason)
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= FAILURES_MAX:
            self._drop()

    def _drop(self) -> None:
        if (connection := self.connection) is not None:
            self._leave()
            connection.abort()

    def _note(self, kind: str, reason: str) -> None:
        self.failures += 1
        self._last_failure = f"{kind}: {reason}"
        self._observe.store_failed(kind)

    def _lost(self, connection: RedisConnection) -> None:
        if connection is self.connection:  # else it never came into use, or was dropped
            self._note("lost", "the connection ended")
            self._leave()

    def _leave(self) -> None:
        self.connection = None
        self._since = time.monotonic()
        self._tell_away()
        self._ended.set()

    def _tell_away(self) -> None:
        """Limits are decided as each route chose from now on."""
        fields = {"address": str(self.address), "reason": self._last_failure}
        log.warning("redis_away", extra={"fields": fields})

    async def _keep(self) -> None:
        backoff_seconds = BACKOFF_FIRST_SECONDS
        while True:
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    connection = await self._connect()
            except (OSError, ReplyRefused) as error:  # TimeoutError is an OSError
                self._note("connect", str(error) or type(error).__name__)
                if not self._attempted.is_set():
                    self._tell_away()
                    self._attempted.set()
            else:
                self.connection = connection
                self._failures_in_a_row = 0
                self._ended.clear()
                self._since = connected_at = time.monotonic()
                self._attempted.set()
                log.info("redis_connected", extra={"fields": {"address": str(self.address)}})
                await self._ended.wait()
                if time.monotonic() - connected_at > STEADY_SECONDS:
                    backoff_seconds = BACKOFF_FIRST_SECONDS
            # Jitter, so that the workers of all nodes do not come back in the same moment.
            await asyncio.sleep(backoff_seconds * random.uniform(0.5, 1.0))  # noqa: S311  no secret
            backoff_seconds = min(backoff_seconds * 2, self.backoff_max_seconds)

    async def _connect(self) -> RedisConnection:
        """A connection whose Redis knows the script, takes writes, and answers within the deadline.

        Raises OSError and ReplyRefused."""
        connection = await self._open()
        try:
            await self._load(connection)
            if not await self._writes_in_time(connection) and not await self._writes_in_time(connection):
                raise TimeoutError(f"a write took longer than {self._deadline_seconds * 1000:g} ms, twice")
            if not connection.is_open:
                raise ConnectionLost
        except BaseException:
            connection.abort()
            raise
        return connection

    async def _open(self) -> RedisConnection:
        return await RedisConnection.open(self.address, self._lost)

    async def _load(self, connection: RedisConnection) -> None:
        await connection.ask(("SCRIPT", "LOAD", script.DECIDE))

    async def _writes_in_time(self, connection: RedisConnection) -> bool:
        asked_at = time.monotonic()
        await connection.ask(("SET", self._probe(), "", "PX", str(keyspace.PROBE_NONCE_MS)))
        return time.monotonic() - asked_at <= self._deadline_seconds

    def _probe(self) -> str:
        return keyspace.probe(self._worker)


def _told(not_done: Callable[[], None], reply: object) -> None:
    if isinstance(reply, Exception):
        not_done()


def _nothing(reply: object) -> None:
    """Of what nobody waits for."""
