"""Follows the versions of the routes, so that one that is applied holds in every worker of this node within a second, and
tells Postgres which one this node runs.

Versions are announced (NOTIFY), and asked for each second on the same connection, for an announcement that does not arrive.
One connection a node. Whatever happens to it, what is in force stays in force."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from typing import Final

import asyncpg

from ostiary import __version__
from ostiary.core.published import CHANNEL, RouteVersion
from ostiary.gateway.children import Children
from ostiary.gateway.in_force import InForce
from ostiary.gateway.published import store
from ostiary.gateway.published.last_good import LastGood
from ostiary.gateway.published.store import Report
from ostiary.gateway.telemetry import Metrics

log = logging.getLogger("ostiary.gateway.supervisor")

POLL_SECONDS: Final = 1.0
# The control plane counts a node as silent after three of these.
REPORT_SECONDS: Final = 5.0
# A poll that takes longer than this finds Postgres away; a document of 2 MiB takes some 20 ms.
DEADLINE_SECONDS: Final = 5.0
_BACKOFF_FIRST_SECONDS: Final = 0.1
_BACKOFF_MAX_SECONDS: Final = 1.5
_FORGET_SECONDS: Final = 1.0
_PROBLEMS_TOLD_MAX: Final = 20
_PROBLEM_LENGTH_MAX: Final = 1000


class Follower:
    """`node` is how this node is known to the others."""

    def __init__(
        self,
        *,
        postgres_url: str,
        node: str,
        in_force: InForce,
        children: Children,
        last_good: LastGood,
        metrics: Metrics,
    ) -> None:
        self._postgres_url = postgres_url
        self._node = node
        self._host = socket.gethostname()[:255]
        self._in_force = in_force
        self._children = children
        self._last_good = last_good
        self._values = metrics.values
        self._silent = metrics.gauge("config_routes_silent_seconds")
        self._wake = asyncio.Event()
        self._heard_at = asyncio.get_running_loop().time()
        self._reported: Report | None = None
        self._reported_at = 0.0
        self._report_failure: str | None = None
        self.following = False
        self.failure: str | None = None

    async def run(self) -> None:
        """Until cancelled."""
        staleness = asyncio.create_task(self._tell_staleness())
        try:
            await self._keep_following()
        finally:
            staleness.cancel()

    async def _keep_following(self) -> None:
        backoff = _BACKOFF_FIRST_SECONDS
        while True:
            try:
                await self._follow()
            except Exception as error:  # this must outlive whatever ended the connection
                reason = store.describe(error)
                if self.failure is None:
                    log.error("routes_not_followed", extra={"fields": {"reason": reason}})
                self.failure = reason
            if self.following:
                backoff = _BACKOFF_FIRST_SECONDS
            self.following = False
            # Jitter, so that many gateways do not come back in step.
            await asyncio.sleep(backoff * random.uniform(0.7, 1.3))  # noqa: S311  no secret
            backoff = min(backoff * 2, _BACKOFF_MAX_SECONDS)

    async def _follow(self) -> None:
        """One connection, from its start to its loss. Always ends with an exception."""
        connection = await store.connect(self._postgres_url, deadline_seconds=DEADLINE_SECONDS)
        try:
            lost = asyncio.Event()

            def on_lost(_: object) -> None:
                lost.set()
                self._wake.set()

            connection.add_termination_listener(on_lost)
            await connection.add_listener(CHANNEL, self._announced)
            while not lost.is_set():
                self._wake.clear()
                await self._catch_up(connection)
                self._heard()
                await self._keep_last_good()
                await self._report(connection)
                try:
                    async with asyncio.timeout(POLL_SECONDS):
                        await self._wake.wait()
                except TimeoutError:
                    pass
            raise ConnectionResetError
        finally:
            connection.terminate()

    def _announced(self, _connection: object, _pid: int, _channel: str, _payload: object) -> None:
        self._wake.set()

    async def _catch_up(self, connection: asyncpg.Connection) -> None:
        """A version that was refused is not tried again before the host's own files change, which `in_force` follows."""
        newest, refused = await store.newest(connection), self._in_force.refused
        if newest is None or newest in (_identity(self._in_force.version), refused and _identity(refused.version)):
            return
        version = await store.version(connection)
        if version is not None:
            await self._in_force.take(version, self._children)

    async def _keep_last_good(self) -> None:
        """What serves in all workers is good."""
        version = self._in_force.version
        if version is None or _identity(version) == self._last_good.kept:
            return
        if self._children.ready < len(self._children.workers):
            return
        try:
            await asyncio.to_thread(self._last_good.write, version)
        except OSError as error:
            problem = f"can't be written: {error.strerror}"
            if problem != self._last_good.problem:
                fields = {"file": str(self._last_good.path), "problem": problem}
                log.error("last_good_routes_not_kept", extra={"fields": fields})
            self._last_good.problem = problem
        else:
            self._last_good.problem = None

    async def _report(self, connection: asyncpg.Connection) -> None:
        said = self._said()
        now = asyncio.get_running_loop().time()
        if said == self._reported and now - self._reported_at < REPORT_SECONDS:
            return
        try:
            await store.report(connection, said)
            await store.forget(connection, "")
        except asyncpg.PostgresError as error:  # a role that may not write still follows
            reason = store.describe(error)
            if reason != self._report_failure:
                log.error("routes_not_reported", extra={"fields": {"reason": reason}})
            self._report_failure = reason
        else:
            self._report_failure = None
        self._reported, self._reported_at = said, now

    def _said(self) -> Report:
        version, refused = self._in_force.version, self._in_force.refused
        problems = (
            [] if refused is None else [each[:_PROBLEM_LENGTH_MAX] for each in refused.problems[:_PROBLEMS_TOLD_MAX]]
        )
        return Report(
            self._node,
            self._host,
            __version__,
            None if version is None else version.number,
            None if version is None else version.sha256,
            None if refused is None else refused.version.number,
            tuple(problems),
        )

    async def forget(self) -> None:
        """Takes this node from the list, as it ends; without Postgres it is soon seen to be silent."""
        try:
            async with asyncio.timeout(_FORGET_SECONDS):
                connection = await store.connect(self._postgres_url, deadline_seconds=_FORGET_SECONDS)
                try:
                    await store.forget(connection, self._node)
                finally:
                    connection.terminate()
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            pass

    def _heard(self) -> None:
        self._heard_at = asyncio.get_running_loop().time()
        self.following = True
        if self.failure is not None:
            log.warning("routes_followed_again")
            self.failure = None

    async def _tell_staleness(self) -> None:
        while True:
            self._values[self._silent] = self.silent_seconds
            await asyncio.sleep(POLL_SECONDS)

    @property
    def silent_seconds(self) -> float:
        """How long ago Postgres was last heard of (the start, if never)."""
        return asyncio.get_running_loop().time() - self._heard_at

    def status(self) -> dict[str, object]:
        return {
            "following": self.following,
            "failure": self.failure,
            "silent_seconds": round(self.silent_seconds, 1),
            "last_good": {
                "file": None if self._last_good.path is None else str(self._last_good.path),
                "version": None if self._last_good.kept is None else self._last_good.kept[0],
                "problem": self._last_good.problem,
            },
        }


def _identity(version: RouteVersion | None) -> tuple[int, str] | None:
    return None if version is None else (version.number, version.sha256)
