"""All SQL about keys. Only `insert` touches the columns of the secret; nothing here ever reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import ip_network

from asyncpg import Record

from ostiary.control_plane.db import Connection
from ostiary.control_plane.http import Position
from ostiary.control_plane.keys.model import Key, KeyState, NewKey


@dataclass(frozen=True, slots=True)
class StoredSecret:
    """What is kept of a secret: its hash, and itself sealed. Not one of these is shown."""

    sha256: bytes = field(repr=False)
    sealed: bytes = field(repr=False)
    data_key_wrapped: bytes = field(repr=False)
    hint: str


# The columns of an answer. `k` is the key, `a` its app.
_COLUMNS = """k.id, k.app_id, a.organization_id, k.name, k.environment, k.secret_hint, k.plan, k.scopes, k.allowed_networks,
    k.allowed_origins, k.expires_at, k.revoked_at, k.revoked_reason, k.created_at, k.expires_at <= now() AS expired"""

KEYS_OF_APP_PAGE = f"""
    -- Guarantees the app's next keys in one total order (time, then id), none twice and none left out; read along the index
    -- of the app from the position on, or from the end of time.
    SELECT {_COLUMNS} FROM api_keys k JOIN apps a ON a.id = k.app_id
    WHERE k.app_id = $1 AND (k.created_at, k.id) < (coalesce($2::timestamptz, 'infinity'), coalesce($3::text, ''))
    ORDER BY k.created_at DESC, k.id DESC LIMIT $4
"""  # noqa: S608  a constant of this file


async def insert(
    connection: Connection, *, app_id: str, key_id: str, new: NewKey, expires_at: datetime | None, secret: StoredSecret
) -> Key:
    """Raises asyncpg.ForeignKeyViolationError when there is no such app."""
    row = await connection.fetchrow(
        f"""
        -- Guarantees that the key's app exists, that no other key has its id or secret, and (by the table's trigger) that
        -- gateways hear of it when this commits.
        WITH k AS (
            INSERT INTO api_keys (id, app_id, name, environment, secret_sha256, secret_sealed, data_key_wrapped,
                secret_hint, plan, scopes, allowed_networks, allowed_origins, expires_at)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
            RETURNING *
        )
        SELECT {_COLUMNS} FROM k LEFT JOIN apps a ON a.id = k.app_id
        """,  # noqa: S608  a constant of this file
        key_id,
        app_id,
        new.name,
        new.environment,
        secret.sha256,
        secret.sealed,
        secret.data_key_wrapped,
        secret.hint,
        new.plan,
        list(new.scopes),
        [ip_network(network) for network in new.allowed_ips],
        list(new.allowed_origins),
        expires_at,
    )
    assert row is not None  # noqa: S101  INSERT .. RETURNING without ON CONFLICT gives its row or raises
    return _key(row)


async def key(connection: Connection, key_id: str) -> Key | None:
    row = await connection.fetchrow(
        f"""
        -- Guarantees the key, or nothing.
        SELECT {_COLUMNS} FROM api_keys k JOIN apps a ON a.id = k.app_id WHERE k.id = $1
        """,  # noqa: S608  a constant of this file
        key_id,
    )
    return None if row is None else _key(row)


async def app_exists(connection: Connection, app_id: str) -> bool:
    # Guarantees to tell an app without keys from no app.
    return bool(await connection.fetchval("SELECT EXISTS (SELECT FROM apps WHERE id = $1)", app_id))


async def keys_of(
    connection: Connection, app_id: str, *, after: Position | None, limit: int
) -> tuple[Sequence[Key], int]:
    """Up to `limit` keys of an app, newest first, after a position; and how many it has in all."""
    rows = await connection.fetch(KEYS_OF_APP_PAGE, app_id, after and after.created_at, after and after.id, limit)
    # Guarantees the number of the same moment: the transaction reads one snapshot.
    total = await connection.fetchval("SELECT count(*) FROM api_keys WHERE app_id = $1", app_id)
    return [_key(row) for row in rows], total


async def revoke(connection: Connection, key_id: str, reason: str) -> None:
    await connection.execute(
        """
        -- Guarantees that a key is revoked once: the first reason and time stay. Gateways hear of it at the commit, by the
        -- table's trigger.
        UPDATE api_keys SET revoked_at = now(), revoked_reason = $2 WHERE id = $1 AND revoked_at IS NULL
        """,
        key_id,
        reason,
    )


def _key(row: Record) -> Key:
    return Key(
        key_id=row["id"],
        app_id=str(row["app_id"]),
        organization_id=str(row["organization_id"]),
        name=row["name"],
        environment=row["environment"],
        state=_state(row),
        secret_hint=row["secret_hint"],
        plan=row["plan"],
        scopes=tuple(row["scopes"]),
        allowed_ips=tuple(str(network) for network in row["allowed_networks"]),
        allowed_origins=tuple(row["allowed_origins"]),
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
        revoked_reason=row["revoked_reason"],
        created_at=row["created_at"],
    )


def _state(row: Record) -> KeyState:
    if row["revoked_at"] is not None:
        return KeyState.REVOKED
    return KeyState.EXPIRED if row["expired"] else KeyState.ACTIVE
