"""Where Redis is: one URL, a list of them for a Redis Cluster, or the Sentinels that know the master."""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qs, urlsplit

from ostiary.core.config.addresses import StoreUrl
from ostiary.core.config.document import Sequence
from ostiary.core.config.fields import Kind, ListOf, NameOrRecord, Record, Schema, Values, optional, required
from ostiary.core.config.kinds import TextKind
from ostiary.core.config.reading import Place, Reading, Refused
from ostiary.core.config.words import store_url
from ostiary.core.model import RedisLocation, RedisSentinels

# A few are enough to learn of the others from; all of the largest cluster would be no use.
_ADDRESSES_MAX: Final = 100


class OneOrCluster(Kind[RedisLocation]):
    """A URL is one Redis; a list, of one URL too, is a cluster."""

    def __init__(self) -> None:
        self._one = StoreUrl(("redis", "rediss"))
        self._nodes = ListOf(_NodeUrl(("redis", "rediss")), low=1, high=_ADDRESSES_MAX)

    def read(self, place: Place, reading: Reading) -> RedisLocation | Refused:
        return (self._nodes if isinstance(place.node, Sequence) else self._one).read(place, reading)

    def schema(self) -> Schema:
        return {"anyOf": [self._one.schema(), self._nodes.schema()]}

    @property
    def words(self) -> str:
        return f"{self._one.words}, or a list of them for a Redis Cluster"


class _NodeUrl(StoreUrl):
    def read(self, place: Place, reading: Reading) -> str | Refused:
        url = super().read(place, reading)
        if isinstance(url, Refused):
            return url
        parts = urlsplit(url)
        named = parts.path.strip("/") or parse_qs(parts.query).get("db", [""])[0]
        if named not in ("", "0"):
            return reading.problem(place, "a Redis Cluster has no databases but 0", "end the URL with the port")
        return url


_SENTINELS = required(
    "sentinels",
    ListOf(StoreUrl(("redis", "rediss")), low=1, high=_ADDRESSES_MAX),
    "Their URLs, all of them, each with its own user and password if it wants any. Their port is usually 26379.",
)
_SERVICE = required(
    "service",
    TextKind(
        r"[A-Za-z0-9._-]{1,200}", "the name that the Sentinels monitor the master under: letters, digits, `.`, `-`, `_`"
    ),
    "The name under which they know the master, as in `sentinel monitor mymaster …`.",
)
_URL = optional(
    "url",
    StoreUrl(("redis", "rediss")),
    "How the master is spoken to: scheme, user, password, database and TLS options of `redis://user:password@mymaster/0`. "
    "Its host and port mean nothing: the Sentinels name them. Without it: no TLS, no password, database 0.",
)


def _sentinels(values: Values) -> RedisSentinels:
    service = values[_SERVICE]
    return RedisSentinels(sentinels=values[_SENTINELS], service=service, url=values[_URL] or f"redis://{service}/0")


SENTINELS: Record[RedisLocation] = Record(
    "Redis Sentinels",
    "A master that is found, and found again after a failover, by asking Sentinels.",
    (_SENTINELS, _SERVICE, _URL),
    _sentinels,
)

REDIS: Final[Kind[RedisLocation]] = NameOrRecord(OneOrCluster(), SENTINELS)


def place_words(location: RedisLocation | None) -> str:
    """Where Redis is: without users, passwords and queries, for each may hold a secret."""
    if location is None:
        return "none"
    if isinstance(location, str):
        return store_url(location)
    if isinstance(location, RedisSentinels):
        return f"{location.service} of the Sentinels {', '.join(store_url(url) for url in location.sentinels)}"
    return f"a cluster: {', '.join(store_url(url) for url in location)}"
