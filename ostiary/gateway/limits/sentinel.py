"""The link to a master that Redis Sentinels name, and the next one after a failover.

The Sentinels are asked at every connect, so a link that fails leads to the new master; and every WATCH_SECONDS while
connected, because a master that was cut off, and replaced, does not know it and goes on taking writes.
https://redis.io/docs/latest/develop/reference/sentinel-clients/"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

from ostiary.core.model import RedisSentinels
from ostiary.gateway.limits.connection import Address, RedisConnection, ReplyRefused
from ostiary.gateway.limits.decision import LimiterObserver
from ostiary.gateway.limits.link import Link

# Half of the 2 s within which a new master must be in use; the rest is for connecting to it.
WATCH_SECONDS = 1.0

# All Sentinels are asked at once, and one that hangs must leave time to connect (see link.CONNECT_SECONDS).
ANSWER_SECONDS = 0.25

# Refusals of a Redis that is no master any more, or not yet: no need to fail three times.
_NO_MASTER = ("READONLY", "LOADING", "MASTERDOWN")


@dataclass(frozen=True, slots=True)
class Named:
    """What one Sentinel says: the master, and in which configuration; of two, the higher epoch is the later one. The
    Sentinel that leads a failover names the promoted replica before the next configuration begins: `promoted`."""

    epoch: int
    promoted: bool
    host: str
    port: int


class Sentinel:
    """One Sentinel and the connection to it, kept open between questions."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.answers = False
        self._connection: RedisConnection | None = None

    async def master(self, service: str) -> Named:
        """Raises OSError and ReplyRefused, within ANSWER_SECONDS."""
        self.answers = False
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                if self._connection is None or not self._connection.is_open:
                    self._connection = await RedisConnection.open(self.address, self._lost)
                ask = self._connection.ask
                named = _named(
                    *await asyncio.gather(
                        ask(("SENTINEL", "MASTER", service)), ask(("SENTINEL", "GET-MASTER-ADDR-BY-NAME", service))
                    )
                )
        except ReplyRefused:
            self.answers = True
            raise
        except BaseException:
            self.close()
            raise
        self.answers = True
        return named

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()

    def _lost(self, connection: RedisConnection) -> None:
        if connection is self._connection:
            self._connection = None
            self.answers = False


class SentinelLink(Link):
    """`address` is the master in use, or the last one."""

    # Who is asked anew is a Sentinel, which has time, and the answer may change at any moment.
    backoff_max_seconds = 0.2

    def __init__(
        self, location: RedisSentinels, *, deadline_seconds: float, worker: str, observe: LimiterObserver
    ) -> None:
        """Raises ValueError for a URL that can't be used."""
        master = Address.of(location.url)
        super().__init__(master, deadline_seconds=deadline_seconds, worker=worker, observe=observe)
        self._service = location.service
        self._sentinels = [Sentinel(Address.of(url)) for url in location.sentinels]
        self._watcher: asyncio.Task[None] | None = None

    def begin(self) -> None:
        super().begin()
        self._watcher = asyncio.get_running_loop().create_task(self._watch())

    async def close(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
        await super().close()
        for sentinel in self._sentinels:
            sentinel.close()

    def status(self) -> dict[str, object]:
        sentinels = [{"address": str(s.address), "answers": s.answers} for s in self._sentinels]
        return {**super().status(), "service": self._service, "sentinels": sentinels}

    def failed(self, kind: str, reason: str) -> None:
        super().failed(kind, reason)
        if reason.startswith(_NO_MASTER):
            self._drop()

    async def _open(self) -> RedisConnection:
        """To what is a master, and says so itself: a Sentinel may not have heard yet. Raises OSError, ReplyRefused."""
        named = await self._named()
        self.address = replace(self.address, host=named.host, port=named.port)
        connection = await super()._open()
        try:
            role = await connection.ask(("ROLE",))
            if not isinstance(role, list) or role[:1] != [b"master"]:
                raise ReplyRefused(f"NOTMASTER {self.address} was named as the master of {self._service}, and is none")
        except BaseException:
            connection.abort()
            raise
        return connection

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            if self.connection is None:
                continue
            try:
                named = await self._named()
            except (OSError, ReplyRefused):
                continue  # the master answers; that no Sentinel does is in `status`
            if (named.host, named.port) != (self.address.host, self.address.port):
                self._note("lost", f"the Sentinels name {named.host}:{named.port} as the master now")
                self._drop()

    async def _named(self) -> Named:
        """The latest of what the Sentinels say: one that was cut off during a failover has an older epoch. Raises OSError,
        ReplyRefused when none names a master."""
        asked = [sentinel.master(self._service) for sentinel in self._sentinels]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        named = [answer for answer in answers if isinstance(answer, Named)]
        if named:
            return max(named, key=lambda one: (one.epoch, one.promoted))
        reason = ""
        for sentinel, answer in zip(self._sentinels, answers, strict=True):
            if isinstance(
                answer, ReplyRefused
            ):  # it knows no such master, or does not let us in: what an operator can mend
                raise ReplyRefused(f"{answer} (Sentinel {sentinel.address})")
            if isinstance(answer, BaseException) and not isinstance(answer, OSError):
                raise answer
            reason = f"{sentinel.address}: {str(answer) or type(answer).__name__}"
        raise ConnectionError(f"no Sentinel answers; {reason}")


def _named(reply: object, address: object) -> Named:
    """Of the replies to SENTINEL MASTER (names and values in turn) and GET-MASTER-ADDR-BY-NAME. Raises ReplyRefused for
    anything else."""
    try:
        fields = dict(zip(reply[::2], reply[1::2], strict=True))  # type: ignore[index]  # whatever it is, errors are caught
        host, port = (bytes(part) for part in address)  # type: ignore[attr-defined]  # as above
        promoted = (host, port) != (fields[b"ip"], fields[b"port"])
        return Named(int(fields[b"config-epoch"]), promoted, host.decode(), int(port))
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise ReplyRefused("PROTOCOL not what a Sentinel says") from error
