"""All SQL about keys. `insert` and `rotate` write the columns of secrets; nothing here ever gives one out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import ip_network

from asyncpg import Record

from ostiary.control_plane.db import Connection
from ostiary.control_plane.http import Ids, Position
from ostiary.control_plane.keys.model import Generation, Key, KeyChanges, KeyState, NewKey


@dataclass(frozen=True, slots=True)
class StoredSecret:
    """What is kept of a secret: its hash, and itself sealed. Not one of these is shown."""

    sha256: bytes = field(repr=False)
    sealed: bytes = field(repr=False)
    data_key_wrapped: bytes = field(repr=False)
    hint: str


# The columns of an answer. `k` is the key, `a` its app, `u` the last use of its generation, `p` that of the one before.
_COLUMNS = """k.id, k.app_id, a.organization_id, k.name, k.environment, k.secret_hint, k.plan, k.scopes, k.allowed_networks,
    k.allowed_origins, k.expires_at, k.revoked_at, k.revoked_reason, k.created_at, k.expires_at <= now() AS expired,
    k.generation, coalesce(k.secret_created_at, k.created_at) AS secret_created_at,
    k.previous_secret_hint, k.previous_secret_created_at, k.previous_ends_at,
    k.previous_secret_sha256 IS NOT NULL AND k.previous_ends_at > now() AS rotating,
    u.last_used_at, u.last_used_ip, u.last_used_user_agent, p.last_used_at AS previous_last_used_at,
    p.last_used_ip AS previous_last_used_ip, p.last_used_user_agent AS previous_last_used_user_agent"""
_USES = """LEFT JOIN key_uses u ON u.key_id = k.id AND u.generation = k.generation
    LEFT JOIN key_uses p ON p.key_id = k.id AND p.generation = k.generation - 1"""

KEYS_OF_APP_PAGE = f"""
    -- Guarantees the app's next keys in one total order (time, then id), none twice and none left out; read along the index
    -- of the app from the position on, or from the end of time.
    SELECT {_COLUMNS} FROM api_keys k JOIN apps a ON a.id = k.app_id {_USES}
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
        SELECT {_COLUMNS} FROM k LEFT JOIN apps a ON a.id = k.app_id {_USES}
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
        SELECT {_COLUMNS} FROM api_keys k JOIN apps a ON a.id = k.app_id {_USES} WHERE k.id = $1
        """,  # noqa: S608  a constant of this file
        key_id,
    )
    return None if row is None else _key(row)


async def environment_of_app(connection: Connection, app_id: str) -> str | None:
    # Guarantees what the app was made for, which never changes; nothing if there is no such app.
    found: str | None = await connection.fetchval("SELECT environment FROM apps WHERE id = $1", app_id)
    return found


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


async def rotate(connection: Connection, key_id: str, secret: StoredSecret, *, grace_seconds: int) -> bool:
    """False, and nothing is done, if there is no such key in force."""
    rotated = await connection.fetchval(
        """
        -- Guarantees that of two rotations at once the second replaces what the first made (the row lock), so that never more
        -- than two secrets are in force: the one that was the present stays for the grace, never past the key's end, and the
        -- one before it is gone. Gateways hear of it at the commit, by the table's trigger.
        WITH changed AS (
            UPDATE api_keys SET
                generation = generation + 1, secret_created_at = now(),
                secret_sha256 = $2, secret_sealed = $3, data_key_wrapped = $4, secret_hint = $5,
                previous_secret_sha256 = CASE WHEN $6 > 0 THEN secret_sha256 END,
                previous_secret_sealed = CASE WHEN $6 > 0 THEN secret_sealed END,
                previous_data_key_wrapped = CASE WHEN $6 > 0 THEN data_key_wrapped END,
                previous_secret_hint = secret_hint,
                previous_secret_created_at = coalesce(secret_created_at, created_at),
                previous_ends_at = least(now() + $6 * interval '1 second', expires_at)
            WHERE id = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
            RETURNING id, generation
        ),
        forgotten AS (  -- of generations that are shown no more
            DELETE FROM key_uses USING changed
            WHERE key_uses.key_id = changed.id AND key_uses.generation < changed.generation - 1
        )
        SELECT EXISTS (SELECT FROM changed)
        """,
        key_id,
        secret.sha256,
        secret.sealed,
        secret.data_key_wrapped,
        secret.hint,
        grace_seconds,
    )
    return bool(rotated)


async def end_previous(connection: Connection, key_id: str, generation: int) -> None:
    """Does nothing if that is not the generation before the present one, or if it has ended."""
    await connection.execute(
        """
        -- Guarantees that what was ended has no secret here any more, and that a generation is ended once: the first time
        -- stays. Gateways hear of it at the commit, by the table's trigger.
        UPDATE api_keys SET previous_ends_at = now(), previous_secret_sha256 = NULL, previous_secret_sealed = NULL,
            previous_data_key_wrapped = NULL
        WHERE id = $1 AND generation = $2 + 1 AND previous_secret_sha256 IS NOT NULL AND previous_ends_at > now()
        """,
        key_id,
        generation,
    )


async def amend(connection: Connection, key_id: str, changes: KeyChanges) -> None:
    """Does nothing if there is no such key, or if it is revoked."""
    given = changes.given()
    scopes, networks, origins = (given.get(name) for name in ("scopes", "allowed_ips", "allowed_origins"))
    await connection.execute(
        """
        -- Guarantees that what is not given stays, also what another call changes at this moment: one statement, under the
        -- row's lock. Gateways hear of it at the commit, by the table's trigger.
        UPDATE api_keys SET
            name = coalesce($2, name), scopes = coalesce($3, scopes), plan = CASE WHEN $4 THEN $5 ELSE plan END,
            allowed_networks = coalesce($6, allowed_networks), allowed_origins = coalesce($7, allowed_origins)
        WHERE id = $1 AND revoked_at IS NULL
        """,
        key_id,
        given.get("name"),
        None if scopes is None else list(scopes),
        "plan" in given,
        given.get("plan"),
        None if networks is None else [ip_network(network) for network in networks],
        None if origins is None else list(origins),
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
        last_used_at=max((use for use in (row["last_used_at"], row["previous_last_used_at"]) if use), default=None),
        generations=tuple(_generations(row)),
    )


def _generations(row: Record) -> Iterator[Generation]:
    yield _generation(row, "", row["generation"], ends_at=None)
    if row["previous_ends_at"] is not None:
        yield _generation(row, "previous_", row["generation"] - 1, ends_at=row["previous_ends_at"])


def _generation(row: Record, prefix: str, number: int, *, ends_at: datetime | None) -> Generation:
    ip = row[f"{prefix}last_used_ip"]
    return Generation(
        number=number,
        secret_hint=row[f"{prefix}secret_hint"],
        created_at=row[f"{prefix}secret_created_at"],
        ends_at=ends_at,
        last_used_at=row[f"{prefix}last_used_at"],
        last_used_ip=None if ip is None else str(ip),
        last_used_user_agent=row[f"{prefix}last_used_user_agent"],
    )


def _state(row: Record) -> KeyState:
    if row["revoked_at"] is not None:
        return KeyState.REVOKED
    if row["expired"]:
        return KeyState.EXPIRED
    return KeyState.ROTATING if row["rotating"] else KeyState.ACTIVE


async def organization_of_key(connection: Connection, key_id: str) -> str | None:
    found = await connection.fetchval(
        """
        -- Guarantees the organization whose app has the key, or nothing. A key never changes its app.
        SELECT a.organization_id FROM api_keys k JOIN apps a ON a.id = k.app_id WHERE k.id = $1
        """,
        key_id,
    )
    return None if found is None else str(found)


async def lock_key(connection: Connection, ids: Ids) -> None:
    # Guarantees that no other transaction changes the key, its limits included, until this one ends.
    await connection.execute("SELECT FROM api_keys WHERE id = $1 FOR NO KEY UPDATE", ids["key_id"])
