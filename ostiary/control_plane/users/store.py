"""All SQL about users."""

from __future__ import annotations

from collections.abc import Sequence

from asyncpg import Record

from ostiary.control_plane.db import Connection
from ostiary.control_plane.http import Ids, Position
from ostiary.control_plane.http.access import PlatformRole
from ostiary.control_plane.users.model import User

_COLUMNS = "id, email, name, platform_role, disabled_at, created_at"

USERS_PAGE = f"""
    -- Guarantees the next users in order, none twice and none left out; read along the index from the position on.
    SELECT {_COLUMNS} FROM users
    WHERE (created_at, id) <
        (coalesce($1::timestamptz, 'infinity'), coalesce($2::uuid, '00000000-0000-0000-0000-000000000000'))
    ORDER BY created_at DESC, id DESC LIMIT $3
"""  # noqa: S608  a constant of this file


async def insert(
    connection: Connection, *, email: str, name: str, password_hash: str | None, platform_role: PlatformRole | None
) -> User:
    """Raises asyncpg.UniqueViolationError when there is a user of this address."""
    row = await connection.fetchrow(
        f"""
        -- Guarantees one user of an address: the unique constraint decides between two at once.
        INSERT INTO users (email, name, password_hash, platform_role) VALUES ($1, $2, $3, $4) RETURNING {_COLUMNS}
        """,  # noqa: S608  a constant of this file
        email,
        name,
        password_hash,
        platform_role,
    )
    assert row is not None  # noqa: S101  INSERT .. RETURNING gives its row or raises
    return _user(row)


async def user(connection: Connection, user_id: str) -> User | None:
    # Guarantees the user, or nothing.
    row = await connection.fetchrow(
        f"SELECT {_COLUMNS} FROM users WHERE id = $1",  # noqa: S608  a constant of this file
        user_id,
    )
    return None if row is None else _user(row)


async def user_of_email(connection: Connection, email: str) -> User | None:
    # Guarantees the user of an address in lower case, or nothing.
    row = await connection.fetchrow(
        f"SELECT {_COLUMNS} FROM users WHERE email = $1",  # noqa: S608  a constant of this file
        email,
    )
    return None if row is None else _user(row)


async def password_hash(connection: Connection, user_id: str) -> str | None:
    # Guarantees the hash of the password, or nothing for who has none.
    found: str | None = await connection.fetchval("SELECT password_hash FROM users WHERE id = $1", user_id)
    return found


async def users(connection: Connection, *, after: Position | None, limit: int) -> tuple[Sequence[User], int]:
    """Up to `limit` of them, newest first, after a position; and how many there are in all."""
    rows = await connection.fetch(USERS_PAGE, after and after.created_at, after and after.id, limit)
    # Guarantees the number of the same moment: the transaction reads one snapshot.
    total = await connection.fetchval("SELECT count(*) FROM users")
    return [_user(row) for row in rows], total


async def amend(
    connection: Connection,
    user_id: str,
    *,
    name: str | None,
    platform_role: PlatformRole | None,
    role_given: bool,
    disabled: bool | None,
) -> User | None:
    row = await connection.fetchrow(
        f"""
        -- Guarantees that what is not given stays, also what another call changes at this moment; and that the time at
        -- which a user was disabled is that of the first time.
        UPDATE users SET
            name = coalesce($2, name),
            platform_role = CASE WHEN $4 THEN $3 ELSE platform_role END,
            disabled_at = CASE WHEN $5 THEN coalesce(disabled_at, now()) WHEN NOT $5 THEN NULL ELSE disabled_at END
        WHERE id = $1 RETURNING {_COLUMNS}
        """,  # noqa: S608  a constant of this file
        user_id,
        name,
        platform_role,
        role_given,
        disabled,
    )
    return None if row is None else _user(row)


async def set_password(connection: Connection, user_id: str, hashed: str | None, *, before: str | None) -> bool:
    """Whether it was set: not if the password has changed since `before` was read."""
    done: bool | None = await connection.fetchval(
        """
        -- Guarantees that of two changes at once one is done: who knew the password of before does not know the new one.
        UPDATE users SET password_hash = $2 WHERE id = $1 AND password_hash IS NOT DISTINCT FROM $3 RETURNING true
        """,
        user_id,
        hashed,
        before,
    )
    return done is not None


def _user(row: Record) -> User:
    role = row["platform_role"]
    return User(
        id=str(row["id"]),
        email=row["email"],
        name=row["name"],
        platform_role=None if role is None else PlatformRole(role),
        disabled_at=row["disabled_at"],
        created_at=row["created_at"],
    )


async def end_sessions(connection: Connection, user_id: str, *, but: str | None = None) -> None:
    # Guarantees that no session of the user is left, nor any token of one, but the one given.
    await connection.execute("DELETE FROM sessions WHERE user_id = $1 AND id IS DISTINCT FROM $2::uuid", user_id, but)


async def lock_user(connection: Connection, ids: Ids) -> None:
    # Guarantees that no other transaction changes the user until this one ends; their sessions and roles may come and go.
    await connection.execute("SELECT FROM users WHERE id = $1 FOR NO KEY UPDATE", ids["user_id"])
