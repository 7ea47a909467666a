"""A real Postgres and a real Valkey, started from wheels, for the demo and the tests.

Each ends with the process that started it, even if that one is killed. Nothing listens beyond this machine: Postgres on a
unix socket that its own account alone can reach, Valkey on 127.0.0.1. Why these wheels:
`docs/decisions/0002-embedded-stores.md`."""

from ostiary.demo.postgres import EmbeddedPostgres
from ostiary.demo.server_process import MissingWheels, StoreFailed
from ostiary.demo.valkey import EmbeddedValkey

__all__ = ["EmbeddedPostgres", "EmbeddedValkey", "MissingWheels", "StoreFailed"]
