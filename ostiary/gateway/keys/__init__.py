"""Which keys there are, as the request path asks: those of the configuration file and those of Postgres.

`ring` is what the request path talks to; `cache` is what this process knows, bounded; `lookup` asks Postgres for what it
does not know, many questions in one query; `feed` follows changes, so that a revocation holds within a second; `store`
has all the SQL."""

from ostiary.gateway.keys.cache import KnownKey
from ostiary.gateway.keys.ring import KeyRing

__all__ = ["KeyRing", "KnownKey"]
