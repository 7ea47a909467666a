"""What a URL of Redis says, as redis-py reads it: `redis://[[user]:password@]host[:port][/database]`, `rediss://` for TLS,
and `unix://[[user]:password@]/path?db=0`; options stand in the query.

redis-py has a function for it, whose import takes each worker 8 MB of memory. The tests hold this one against it."""

from __future__ import annotations

from typing import Final, NamedTuple
from urllib.parse import parse_qs, unquote, urlparse

_SCHEMES: Final = ("redis", "rediss", "unix")


class RedisUrl(NamedTuple):
    """The parts, decoded. `options` are those of the query; `path` is that of a socket, None where there is a host."""

    host: str
    port: int
    path: str | None
    username: str | None
    password: str | None
    database: int
    tls: bool
    options: dict[str, str]


def read_redis_url(url: str) -> RedisUrl:
    """Raises ValueError for a URL that is not Redis's; the message does not repeat it, for there may be a password in it."""
    parsed = urlparse(url)
    if parsed.scheme not in _SCHEMES:
        raise ValueError("a URL of Redis begins with redis://, rediss:// or unix://")
    options = {name: values[0] for name, values in parse_qs(parsed.query).items()}
    is_socket = parsed.scheme == "unix"
    database = options.pop("db", None)
    if database is None and not is_socket:
        database = unquote(parsed.path).replace("/", "")
        database = database if database.isdecimal() else None
    try:
        number = int(database or 0)
    except ValueError:
        raise ValueError("the database in a URL of Redis (?db=) must be a number") from None
    return RedisUrl(
        host=unquote(parsed.hostname) if parsed.hostname and not is_socket else "localhost",
        port=(parsed.port or 6379) if not is_socket else 6379,
        path=(unquote(parsed.path) or None) if is_socket else None,
        username=unquote(parsed.username) if parsed.username else None,
        password=unquote(parsed.password) if parsed.password else None,
        database=number,
        tls=parsed.scheme == "rediss",
        options=options,
    )
