"""All SQL about platform tokens. `insert` writes the hash of the token; nothing here ever gives it out."""

from __future__ import annotations

from collections.abc import Sequence

from asyncpg import Record

from ostiary.control_plane.db import Connection
from ostiary.control_plane.http import Ids, Position
from ostiary.control_plane.http.access import PlatformRole, Role
from ostiary.control_plane.platform_tokens.model import NewPlatformToken, PlatformToken, PlatformTokenState

_COLUMNS = """id, name, token_hint, platform_role, organization_id, role, created_by, created_at, expires_at, last_used_at,
    revoked_at, expires_at <= now() AS expired"""

PLATFORM_TOKENS_PAGE = f"""
    -- Guarantees the next tokens in order, none twice and none left out.
    SELECT {_COLUMNS} FROM platform_tokens
    WHERE (created_at, id) <
        (coalesce($1::timestamptz, 'infinity'), coalesce($2::uuid, '00000000-0000-0000-0000-000000000000'))
    ORDER BY created_at DESC, id DESC LIMIT $3
"""  # noqa: S608  a constant of this file


async def insert(
    connection: Connection, new: NewPlatformToken, *, token_sha256: bytes, hint: str, created_by: str
) -> PlatformToken:
    """Raises asyncpg.ForeignKeyViolationError when there is no such organization."""
    row = await connection.fetchrow(
        f"""
        -- Guarantees that nothing of the token but its hash and its last four characters is kept.
        INSERT INTO platform_tokens
            (name, token_sha256, token_hint, platform_role, organization_id, role, created_by, expires_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, now() + make_interval(days => $8)) RETURNING {_COLUMNS}
        """,  # noqa: S608  a constant of this file
        new.name,
        token_sha256,
        hint,
        new.platform_role,
        new.organization_id,
        new.role,
        created_by,
        new.expires_in_days,
    )
    assert row is not None  # noqa: S101  INSERT .. RETURNING gives its row or raises
    return _token(row)


async def token(connection: Connection, token_id: str) -> PlatformToken | None:
    # Guarantees the token without its secret, or nothing.
    row = await connection.fetchrow(
        f"SELECT {_COLUMNS} FROM platform_tokens WHERE id = $1",  # noqa: S608  a constant of this file
        token_id,
    )
    return None if row is None else _token(row)


async def tokens(connection: Connection, *, after: Position | None, limit: int) -> tuple[Sequence[PlatformToken], int]:
    rows = await connection.fetch(PLATFORM_TOKENS_PAGE, after and after.created_at, after and after.id, limit)
    # Guarantees the number of the same moment: the transaction reads one snapshot.
    total = await connection.fetchval("SELECT count(*) FROM platform_tokens")
    return [_token(row) for row in rows], total


async def in_force(connection: Connection, token_sha256: bytes) -> tuple[PlatformToken, bool] | None:
    """The token of this hash, and whether it is a while since anybody noted that it is in use."""
    row = await connection.fetchrow(
        f"""
        -- Guarantees a token that is neither revoked nor expired at this moment, or nothing.
        SELECT {_COLUMNS}, coalesce(last_used_at < now() - interval '1 minute', true) AS unused FROM platform_tokens
        WHERE token_sha256 = $1 AND revoked_at IS NULL AND expires_at > now()
        """,  # noqa: S608  a constant of this file
        token_sha256,
    )
    return None if row is None else (_token(row), row["unused"])


async def note_use(connection: Connection, token_id: str) -> None:
    # Guarantees the time of the last use to the minute, by one write a minute.
    await connection.execute(
        """
        UPDATE platform_tokens SET last_used_at = now()
        WHERE id = $1 AND (last_used_at IS NULL OR last_used_at < now() - interval '1 minute')
        """,
        token_id,
    )


async def revoke(connection: Connection, token_id: str) -> None:
    # Guarantees that the token is refused from the next call on; the time of the first revocation stays.
    await connection.execute(
        "UPDATE platform_tokens SET revoked_at = now() WHERE id = $1 AND revoked_at IS NULL", token_id
    )


async def lock_token(connection: Connection, ids: Ids) -> None:
    # Guarantees that no other transaction changes the token until this one ends.
    await connection.execute("SELECT FROM platform_tokens WHERE id = $1 FOR NO KEY UPDATE", ids["token_id"])


def _token(row: Record) -> PlatformToken:
    role, platform_role = row["role"], row["platform_role"]
    state = PlatformTokenState.EXPIRED if row["expired"] else PlatformTokenState.ACTIVE
    return PlatformToken(
        id=str(row["id"]),
        name=row["name"],
        hint=row["token_hint"],
        platform_role=None if platform_role is None else PlatformRole(platform_role),
        organization_id=None if row["organization_id"] is None else str(row["organization_id"]),
        role=None if role is None else Role(role),
        state=state if row["revoked_at"] is None else PlatformTokenState.REVOKED,
        created_by=row["created_by"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        last_used_at=row["last_used_at"],
        revoked_at=row["revoked_at"],
    )
