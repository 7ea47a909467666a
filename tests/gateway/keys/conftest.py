"""Keys in a real Postgres, made as the control plane makes them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import pytest

import ostiary.control_plane.db.migrations as _migrations_folder  # namespace package: the folder of SQL files
from ostiary.core.credentials import generate_key_id, generate_secret, secret_sha256
from ostiary.core.encryption import Envelope
from ostiary.core.errors import GatewayError
from ostiary.core.model import Environment
from ostiary.gateway.keys import KeyRing, KnownKey
from ostiary.gateway.signal import Drive, Signal

MIGRATIONS = sorted(Path(next(iter(_migrations_folder.__path__))).glob("*.sql"))


@dataclass(frozen=True)
class MadeKey:
    id: str
    secret: bytes


class KeyDatabase:
    """A migrated database with one organization and one app."""

    def __init__(self, url: str, connection: asyncpg.Connection) -> None:
        self.url = url
        self.connection = connection
        self.envelope = Envelope(os.urandom(32))
        self.app_id = ""
        self.organization_id = ""

    async def migrate(self) -> None:
        for script in MIGRATIONS:
            await self.connection.execute(script.read_text(encoding="utf-8"))
        await self.begin()

    async def begin(self) -> None:
        """One organization with one app, for keys to belong to."""
        self.organization_id = await self.connection.fetchval(
            "INSERT INTO organizations (name) VALUES ('Molam') RETURNING id::text"
        )
        self.app_id = await self.connection.fetchval(
            "INSERT INTO apps (organization_id, name) VALUES ($1::text::uuid, 'shop') RETURNING id::text",
            self.organization_id,
        )

    async def add(self, key: MadeKey | None = None, **columns: object) -> MadeKey:
        """One key, in force; `columns` set others of `api_keys`."""
        made = key or make_key()
        sealed, wrapped = self.envelope.seal(made.secret, key_id=made.id)
        values: dict[str, object] = {
            "id": made.id,
            "name": "a key",
            "environment": "test",
            "secret_sha256": secret_sha256(made.secret),
            "secret_sealed": sealed,
            "data_key_wrapped": wrapped,
            "secret_hint": made.secret[-4:].decode(),
            **columns,
        }
        places = ", ".join(f"${number}" for number in range(2, len(values) + 2))
        await self.connection.execute(
            f"INSERT INTO api_keys (app_id, {', '.join(values)}) VALUES ($1::text::uuid, {places})",  # noqa: S608
            self.app_id,
            *values.values(),
        )
        return made

    async def revoke(self, key: MadeKey) -> None:
        await self.connection.execute("UPDATE api_keys SET revoked_at = now() WHERE id = $1", key.id)

    async def rotate(self, key: MadeKey, *, ends_at: datetime) -> MadeKey:
        """The key with another secret; the one at hand works until `ends_at`."""
        made = MadeKey(key.id, make_key().secret)
        sealed, wrapped = self.envelope.seal(made.secret, key_id=key.id)
        await self.connection.execute(
            """
            UPDATE api_keys SET generation = generation + 1, previous_secret_sha256 = secret_sha256,
                previous_secret_sealed = secret_sealed, previous_data_key_wrapped = data_key_wrapped,
                previous_secret_hint = secret_hint, previous_secret_created_at = created_at, previous_ends_at = $6,
                secret_sha256 = $2, secret_sealed = $3, data_key_wrapped = $4, secret_hint = $5
            WHERE id = $1
            """,
            key.id,
            secret_sha256(made.secret),
            sealed,
            wrapped,
            made.secret[-4:].decode(),
            ends_at,
        )
        return made

    async def silence(self) -> None:
        """Changes are no longer announced, as behind a proxy that carries no notifications."""
        await self.connection.execute("ALTER TABLE api_keys DISABLE TRIGGER api_keys_announce")


def make_key() -> MadeKey:
    return MadeKey(generate_key_id(Environment.TEST), generate_secret(Environment.TEST).encode())


@pytest.fixture
async def database(migrated_database: str) -> AsyncIterator[KeyDatabase]:
    connection = await asyncpg.connect(migrated_database)
    try:
        database = KeyDatabase(migrated_database, connection)
        await database.begin()
        yield database
    finally:
        await connection.close()


RingMaker = Callable[..., KeyRing]


@pytest.fixture
async def ring_of() -> AsyncIterator[RingMaker]:
    """Makes rings, not started yet, and closes them."""
    rings: list[KeyRing] = []

    def make(url: str | None, envelope: Envelope | None = None, **settings: object) -> KeyRing:
        ring = KeyRing(
            **{"file_keys": {}, "postgres_url": url, "envelope": envelope, "stale_seconds": 3600.0, **settings}  # type: ignore[arg-type]
        )
        rings.append(ring)
        return ring

    yield make
    for ring in rings:
        await ring.close()


T = TypeVar("T")


async def answer(found: KnownKey | Signal[KnownKey | None] | None) -> KnownKey | None:
    """What a find comes to, waited for as the request path waits. Raises GatewayError as it would there."""
    return await driven(_signalled(found)) if isinstance(found, Signal) else found


async def _signalled(found: Signal[T]) -> T:
    return await found


async def driven(work: Coroutine[Any, Any, T]) -> T:
    """What a coroutine of the request path returns: it waits for signals, which a task can't. Raises GatewayError as it
    would there."""
    future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    async def wait() -> None:
        try:
            future.set_result(await work)
        except GatewayError as error:
            future.set_exception(error)

    Drive(wait(), future.set_exception)
    async with asyncio.timeout(20):
        return await future


async def until(condition: Callable[[], bool], *, within_seconds: float = 10.0) -> None:
    """Returns when `condition` holds; fails when it does not come to within the deadline."""
    async with asyncio.timeout(within_seconds):
        while not condition():  # noqa: ASYNC110  what is waited for happens in another process
            await asyncio.sleep(0.005)


async def follow(ring: KeyRing) -> None:
    """Starts the ring, and waits until it follows changes."""
    await ring.start()
    await until(lambda: ring.status()["following_changes"] is True)
