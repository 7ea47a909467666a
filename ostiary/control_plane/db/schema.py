"""Schema migrations: `migrations/NNNN_name.sql`, applied in order, each in one transaction.

Safe to run twice, and by two at once: every migration takes one advisory lock *inside its own transaction* and looks again
whether it is still to be done. (A lock held by the session would outlive a crash behind a pooling proxy.) The SHA-256 of
each applied file is kept: an applied file that was edited later is an error, because no database would ever get the edit.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path

import asyncpg

from ostiary.control_plane.db.pool import CONNECT_ERRORS, CONNECT_SECONDS, Connection, unavailable

DIRECTORY = Path(__file__).resolve().parent / "migrations"
FILE_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")

# Any fixed number will do, as long as nothing else in this database takes it: the first 8 bytes of "ostiarym".
ADVISORY_LOCK = int.from_bytes(b"ostiarym", "big")
# How long to wait for another process that is migrating, or for a table that is in use: then it is better to say so.
LOCK_WAIT = "60s"


class MigrationError(Exception):
    """The schema can't be brought up to date; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file: its name without `.sql`, its text, and the SHA-256 of the text in hex."""

    name: str
    sql: str
    sha256: str


class MigrationState(StrEnum):
    APPLIED = "applied"
    PENDING = "pending"
    CHANGED = "changed"  # applied, and the file was edited afterwards
    UNKNOWN = "unknown"  # applied by a newer Ostiary than this one


@dataclass(frozen=True, slots=True)
class MigrationStatus:
    name: str
    state: MigrationState
    applied_at: datetime | None


@dataclass(frozen=True, slots=True)
class _Applied:
    sha256: str
    applied_at: datetime


def read_migrations(directory: Path = DIRECTORY) -> tuple[Migration, ...]:
    """The migrations of this version, in order. Raises MigrationError for a misnamed file or a number used twice."""
    migrations: list[Migration] = []
    seen: dict[str, str] = {}
    for path in sorted(directory.glob("*.sql")):
        match = FILE_NAME.fullmatch(path.name)
        if match is None:
            raise MigrationError(f"{path.name} is not named NNNN_words.sql (lower case, digits and underscores)")
        if (other := seen.setdefault(match[1], path.name)) != path.name:
            raise MigrationError(f"{path.name} and {other} have the same number; renumber the later one")
        sql = path.read_text(encoding="utf-8")
        migrations.append(Migration(path.stem, sql, hashlib.sha256(sql.encode()).hexdigest()))
    return tuple(migrations)


async def migrate(url: str, *, migrations: Sequence[Migration] | None = None) -> list[str]:
    """Brings the schema of the database `url` up to date; returns the names of the migrations it applied.

    Either a migration is applied whole or not at all; those before a failing one stay. Raises DatabaseUnavailable, and
    MigrationError when a migration fails, was edited after it was applied, or the database is newer than this program."""
    migrations = read_migrations() if migrations is None else migrations
    async with connected(url) as connection:
        await _prepare(connection)
        _refuse_drift(_compare(migrations, await _applied(connection)))
        return [migration.name for migration in migrations if await _apply(connection, migration)]


async def migration_status(url: str) -> tuple[MigrationStatus, ...]:
    """The state of every migration, in order; changes nothing. Raises DatabaseUnavailable, and MigrationError when the
    ledger can't be read."""
    async with connected(url) as connection:
        return _compare(read_migrations(), await _applied(connection))


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Connection]:
    settings = {"application_name": "ostiary-migrate", "lock_timeout": LOCK_WAIT}
    try:
        connection = await asyncpg.connect(url, timeout=CONNECT_SECONDS, server_settings=settings)
    except CONNECT_ERRORS as error:
        raise unavailable(url, error) from error
    try:
        yield connection
    except asyncpg.PostgresConnectionError as error:
        raise unavailable(url, error) from error
    except asyncpg.PostgresError as error:
        raise MigrationError(f"the database refused: {error}; see the rights of the user in stores.postgres") from error
    finally:
        await connection.close()


async def _lock(connection: Connection) -> None:
    # Guarantees that one process at a time changes the schema; ends with the transaction, whatever happens.
    try:
        await connection.execute("SELECT pg_advisory_xact_lock($1)", ADVISORY_LOCK)
    except asyncpg.LockNotAvailableError as error:
        raise MigrationError(
            f"another process has been migrating for over {LOCK_WAIT}; see pg_stat_activity"
        ) from error


async def _prepare(connection: Connection) -> None:
    async with connection.transaction():
        await _lock(connection)
        await connection.execute(
            """
            -- Guarantees that the ledger of migrations exists; one row per applied file, written with the change itself.
            CREATE TABLE IF NOT EXISTS schema_migrations (
                name        text PRIMARY KEY,
                sha256      text NOT NULL,
                applied_at  timestamptz NOT NULL DEFAULT now()
            )
            """
        )


async def _applied(connection: Connection) -> dict[str, _Applied]:
    # Guarantees an answer on an empty database too, where the ledger does not exist yet.
    if await connection.fetchval("SELECT to_regclass('schema_migrations')") is None:
        return {}
    # Guarantees every applied migration, as it was when it was applied.
    rows = await connection.fetch("SELECT name, sha256, applied_at FROM schema_migrations ORDER BY name")
    return {row["name"]: _Applied(row["sha256"], row["applied_at"]) for row in rows}


async def _apply(connection: Connection, migration: Migration) -> bool:
    try:
        async with connection.transaction():
            await _lock(connection)
            # Guarantees that a migration is done once: another process may have done it while this one waited.
            known = await connection.fetchval("SELECT sha256 FROM schema_migrations WHERE name = $1", migration.name)
            if known is not None:
                return False
            await connection.execute(migration.sql)
            # Guarantees that the ledger says so exactly when the change is there: both are in this transaction.
            await connection.execute(
                "INSERT INTO schema_migrations (name, sha256) VALUES ($1, $2)", migration.name, migration.sha256
            )
            return True
    except asyncpg.PostgresError as error:
        raise MigrationError(
            f"{migration.name} failed and was undone: {error}; the migrations before it are in place"
        ) from error


def _compare(migrations: Sequence[Migration], applied: Mapping[str, _Applied]) -> tuple[MigrationStatus, ...]:
    known = {migration.name for migration in migrations}
    statuses = [_state_of(migration, applied.get(migration.name)) for migration in migrations]
    statuses += [
        MigrationStatus(name, MigrationState.UNKNOWN, record.applied_at)
        for name, record in applied.items()
        if name not in known
    ]
    return tuple(statuses)


def _state_of(migration: Migration, record: _Applied | None) -> MigrationStatus:
    if record is None:
        return MigrationStatus(migration.name, MigrationState.PENDING, None)
    state = MigrationState.APPLIED if record.sha256 == migration.sha256 else MigrationState.CHANGED
    return MigrationStatus(migration.name, state, record.applied_at)


def _refuse_drift(statuses: Sequence[MigrationStatus]) -> None:
    changed = [status.name for status in statuses if status.state is MigrationState.CHANGED]
    if changed:
        raise MigrationError(
            f"{', '.join(changed)}: edited after it was applied; put the applied text back and write a new migration"
        )
    unknown = [status.name for status in statuses if status.state is MigrationState.UNKNOWN]
    if unknown:
        raise MigrationError(
            f"the database has {', '.join(unknown)}, which this version does not know; upgrade Ostiary"
        )
