"""The limiter's own counters, read from Redis: what they say is what the next call is held to.

The control plane needs no Redis, and is not to wait for one that is away: a read takes READ_SECONDS at most, and after one
that failed nobody asks for AWAY_SECONDS."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, cast
from urllib.parse import urlsplit

import redis.asyncio
from redis.asyncio.connection import parse_url
from redis.asyncio.sentinel import Sentinel
from redis.exceptions import RedisClusterException, RedisError

from ostiary.core.model import RedisLocation, RedisSentinels

# A look at some hundred names takes a few ms; a new connection, with TLS and to a cluster, some tens.
READ_SECONDS: Final = 0.5
AWAY_SECONDS: Final = 2.0
# Every question is one read; more at once wait for a connection, within READ_SECONDS.
CONNECTIONS_MAX: Final = 4

_log = logging.getLogger("ostiary.control_plane.usage")


class Counters:
    """Of the Redis at `location`; None for none."""

    def __init__(self, location: RedisLocation | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._location = location
        self._clock = clock
        self._client: Any = None
        self._connecting = asyncio.Lock()
        self._away_until = 0.0

    @property
    def configured(self) -> bool:
        return self._location is not None

    async def read(self, names: Sequence[str]) -> Sequence[bytes | None] | None:
        """What stands under each of these names, in their order; None if Redis can't be asked now."""
        if self._location is None or self._clock() < self._away_until:
            return None
        if not names:
            return ()
        try:
            async with asyncio.timeout(READ_SECONDS):
                async with self._connecting:
                    if self._client is None:
                        self._client = await _client(self._location)
                return await _read(self._client, names)
        # Not only RedisError comes out of redis-py (RedisClusterException is none, and an option of the URL that it does not
        # know is a TypeError); whatever it is, there is another answer.
        except Exception as error:
            self._away_until = self._clock() + AWAY_SECONDS
            _log.warning("quota_counters_unreadable", extra={"fields": {"error": type(error).__name__}})
            await self.close()  # a failover, or another cluster map, is found by connecting anew
            return None

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is None:
            return
        try:
            async with asyncio.timeout(READ_SECONDS):
                await client.aclose()
        except Exception as error:  # it was of no use any more
            _log.debug("quota_counters_close", extra={"fields": {"error": type(error).__name__}})


async def _client(location: RedisLocation) -> Any:
    options: dict[str, Any] = {
        "socket_timeout": READ_SECONDS,
        "socket_connect_timeout": READ_SECONDS,
        "max_connections": CONNECTIONS_MAX,
    }
    if isinstance(location, str):
        return redis.asyncio.Redis.from_url(location, **options, **_tls(location))
    if isinstance(location, RedisSentinels):
        sentinel: Any = cast("Any", Sentinel)([])
        sentinel.sentinels = [redis.asyncio.Redis.from_url(url, **options, **_tls(url)) for url in location.sentinels]
        spoken: dict[str, Any] = {
            name: value
            for name, value in parse_url(location.url).items()
            if name not in ("host", "port", "connection_class")
        }
        tls = _tls(location.url)
        return sentinel.master_for(location.service, ssl=bool(tls), **spoken, **options, **tls)
    return await _cluster(location, options)


def _tls(url: str) -> dict[str, Any]:
    """As `ostiary.tls.towards_servers`; redis-py makes its contexts itself. Empty for a URL without TLS."""
    if urlsplit(url).scheme != "rediss":
        return {}
    return {"ssl_exclude_verify_flags": [ssl.VERIFY_X509_STRICT, ssl.VERIFY_X509_PARTIAL_CHAIN]}


async def _cluster(urls: Sequence[str], options: dict[str, Any]) -> Any:
    """By the first of its nodes that answers."""
    for url in urls:
        client = redis.asyncio.RedisCluster.from_url(url, **options, **_tls(url))
        try:
            return await client.initialize()
        except (RedisError, RedisClusterException, OSError):
            await client.aclose()
    raise ConnectionError("no node of the cluster answers")


async def _read(client: Any, names: Sequence[str]) -> Sequence[bytes | None]:
    if isinstance(client, redis.asyncio.RedisCluster):
        return cast("Sequence[bytes | None]", await client.mget_nonatomic(list(names)))
    return cast("Sequence[bytes | None]", await client.mget(list(names)))
