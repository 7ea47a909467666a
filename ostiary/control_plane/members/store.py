"""All SQL about members and invitations."""

from __future__ import annotations

from collections.abc import Sequence

from asyncpg import Record

from ostiary.control_plane.db import Connection
from ostiary.control_plane.http import Ids, Position
from ostiary.control_plane.http.access import PlatformRole, Role
from ostiary.control_plane.members.model import Invitation, InvitationState, Member

_MEMBER = "m.user_id, u.email, u.name, m.role, u.disabled_at IS NOT NULL AS disabled, m.created_at"

MEMBERS_PAGE = f"""
    -- Guarantees the organization's next members in order, none twice and none left out.
    SELECT {_MEMBER} FROM memberships m JOIN users u ON u.id = m.user_id
    WHERE m.organization_id = $4 AND (m.created_at, m.user_id) <
        (coalesce($1::timestamptz, 'infinity'), coalesce($2::uuid, '00000000-0000-0000-0000-000000000000'))
    ORDER BY m.created_at DESC, m.user_id DESC LIMIT $3
"""  # noqa: S608  a constant of this file


async def members(
    connection: Connection, organization_id: str, *, after: Position | None, limit: int
) -> tuple[Sequence[Member], int]:
    rows = await connection.fetch(MEMBERS_PAGE, after and after.created_at, after and after.id, limit, organization_id)
    # Guarantees the number of the same moment: the transaction reads one snapshot.
    total = await connection.fetchval("SELECT count(*) FROM memberships WHERE organization_id = $1", organization_id)
    return [_member(row) for row in rows], total


async def member(connection: Connection, organization_id: str, user_id: str) -> Member | None:
    # Guarantees the member, or nothing.
    row = await connection.fetchrow(
        f"SELECT {_MEMBER} FROM memberships m JOIN users u ON u.id = m.user_id "  # noqa: S608  a constant of this file
        "WHERE m.organization_id = $1 AND m.user_id = $2",
        organization_id,
        user_id,
    )
    return None if row is None else _member(row)


async def lock(connection: Connection, organization_id: str) -> bool:
    """Whether there is such an organization."""
    found: bool | None = await connection.fetchval(
        """
        -- Guarantees that one call at a time changes who is in the organization: of two owners who leave at the same moment
        -- the second sees that the first has left.
        SELECT true FROM organizations WHERE id = $1 FOR NO KEY UPDATE
        """,
        organization_id,
    )
    return found is not None


async def lock_member(connection: Connection, ids: Ids) -> None:
    """Raises nothing for one who is not there."""
    # Before the membership, as in every change of one: else two would wait for each other.
    await lock(connection, ids["organization_id"])
    # Guarantees that the member's role neither changes nor goes in another transaction until this one ends.
    await connection.execute(
        "SELECT FROM memberships WHERE organization_id = $1 AND user_id = $2 FOR UPDATE",
        ids["organization_id"],
        ids["user_id"],
    )


async def other_owners(connection: Connection, organization_id: str, user_id: str) -> int:
    # Guarantees how many who may sign in own the organization besides a user; the organization is locked.
    count: int = await connection.fetchval(
        """
        SELECT count(*) FROM memberships m JOIN users u ON u.id = m.user_id
        WHERE m.organization_id = $1 AND m.user_id <> $2 AND m.role = 'owner' AND u.disabled_at IS NULL
        """,
        organization_id,
        user_id,
    )
    return count


async def put_member(connection: Connection, organization_id: str, user_id: str, role: Role) -> bool:
    """Adds a member; who is one already stays as they are. Whether they are new."""
    done: bool | None = await connection.fetchval(
        """
        -- Guarantees one membership of a user in an organization; an invitation neither takes a role away nor gives another.
        INSERT INTO memberships (organization_id, user_id, role) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING RETURNING true
        """,
        organization_id,
        user_id,
        role,
    )
    return done is not None


async def set_role(connection: Connection, organization_id: str, user_id: str, role: Role) -> None:
    # Guarantees the role of the member from the next call on: it is read with each.
    await connection.execute(
        "UPDATE memberships SET role = $3 WHERE organization_id = $1 AND user_id = $2", organization_id, user_id, role
    )


async def remove_member(connection: Connection, organization_id: str, user_id: str) -> None:
    # Guarantees that the user has no role in the organization from the next call on.
    await connection.execute(
        "DELETE FROM memberships WHERE organization_id = $1 AND user_id = $2", organization_id, user_id
    )


# --- invitations ------------------------------------------------------------------------------------------------------

_INVITATION = """id, email, organization_id, role, platform_role, invited_by, created_at, expires_at, accepted_at, revoked_at,
    expires_at <= now() AS expired"""

INVITATIONS_PAGE = f"""
    -- Guarantees the next invitations in order, into one organization if it is given, none twice and none left out.
    SELECT {_INVITATION} FROM invitations
    WHERE {{whose}} AND (created_at, id) <
        (coalesce($1::timestamptz, 'infinity'), coalesce($2::uuid, '00000000-0000-0000-0000-000000000000'))
    ORDER BY created_at DESC, id DESC LIMIT $3
"""  # noqa: S608  a constant of this file


async def insert_invitation(
    connection: Connection,
    *,
    email: str,
    organization_id: str | None,
    role: Role | None,
    platform_role: PlatformRole | None,
    token_sha256: bytes,
    invited_by: str,
    days: int,
) -> Invitation:
    """Raises asyncpg.ForeignKeyViolationError when there is no such organization."""
    row = await connection.fetchrow(
        f"""
        -- Guarantees that nothing of the token but its hash is kept.
        INSERT INTO invitations (email, organization_id, role, platform_role, token_sha256, invited_by, expires_at)
        VALUES ($1, $2, $3, $4, $5, $6, now() + make_interval(days => $7)) RETURNING {_INVITATION}
        """,  # noqa: S608  a constant of this file
        email,
        organization_id,
        role,
        platform_role,
        token_sha256,
        invited_by,
        days,
    )
    assert row is not None  # noqa: S101  INSERT .. RETURNING gives its row or raises
    return _invitation(row)


async def invitations(
    connection: Connection, organization_id: str | None, *, after: Position | None, limit: int
) -> tuple[Sequence[Invitation], int]:
    """Of one organization, or all."""
    arguments = [after and after.created_at, after and after.id, limit]
    if organization_id is None:
        rows = await connection.fetch(INVITATIONS_PAGE.format(whose="true"), *arguments)
        # Guarantees the number of the same moment: the transaction reads one snapshot.
        total = await connection.fetchval("SELECT count(*) FROM invitations")
    else:
        rows = await connection.fetch(
            INVITATIONS_PAGE.format(whose="organization_id = $4"), *arguments, organization_id
        )
        # Guarantees the number of the same moment: the transaction reads one snapshot.
        total = await connection.fetchval(
            "SELECT count(*) FROM invitations WHERE organization_id = $1", organization_id
        )
    return [_invitation(row) for row in rows], total


async def invitation(connection: Connection, invitation_id: str) -> Invitation | None:
    # Guarantees the invitation, or nothing.
    row = await connection.fetchrow(
        f"SELECT {_INVITATION} FROM invitations WHERE id = $1",  # noqa: S608  a constant of this file
        invitation_id,
    )
    return None if row is None else _invitation(row)


async def take_pending(connection: Connection, token_sha256: bytes) -> Invitation | None:
    """The invitation of this token, if it still holds."""
    row = await connection.fetchrow(
        f"""
        -- Guarantees that an invitation is accepted once: of two at the same moment the second waits here, and then finds it
        -- accepted.
        SELECT {_INVITATION} FROM invitations
        WHERE token_sha256 = $1 AND accepted_at IS NULL AND revoked_at IS NULL AND expires_at > now() FOR UPDATE
        """,  # noqa: S608  a constant of this file
        token_sha256,
    )
    return None if row is None else _invitation(row)


async def lock_invitation(connection: Connection, ids: Ids) -> None:
    # Guarantees that the invitation is neither accepted nor revoked in another transaction until this one ends.
    await connection.execute("SELECT FROM invitations WHERE id = $1 FOR UPDATE", ids["invitation_id"])


async def accept(connection: Connection, invitation_id: str, user_id: str) -> None:
    # Guarantees that it is told who has accepted it; the row is locked.
    await connection.execute(
        "UPDATE invitations SET accepted_at = now(), accepted_by = $2 WHERE id = $1", invitation_id, user_id
    )


async def revoke(connection: Connection, invitation_id: str) -> None:
    # Guarantees that nobody gets in by it any more; one that was accepted or revoked already stays as it is.
    await connection.execute(
        "UPDATE invitations SET revoked_at = now() WHERE id = $1 AND accepted_at IS NULL AND revoked_at IS NULL",
        invitation_id,
    )


async def give_platform_role(connection: Connection, user_id: str, role: PlatformRole) -> None:
    # Guarantees the role of an invitation that an operator made; one who is an operator already stays one.
    await connection.execute(
        "UPDATE users SET platform_role = $2 WHERE id = $1 AND platform_role IS DISTINCT FROM 'operator'",
        user_id,
        role,
    )


async def organization_of_invitation(connection: Connection, invitation_id: str) -> str | None:
    # Guarantees the organization that an invitation is into; nothing for one into the platform, which is no member's to see.
    found = await connection.fetchval("SELECT organization_id FROM invitations WHERE id = $1", invitation_id)
    return None if found is None else str(found)


def _member(row: Record) -> Member:
    return Member(
        id=str(row["user_id"]),
        email=row["email"],
        name=row["name"],
        role=Role(row["role"]),
        disabled=row["disabled"],
        created_at=row["created_at"],
    )


def _invitation(row: Record) -> Invitation:
    role, platform_role = row["role"], row["platform_role"]
    return Invitation(
        id=str(row["id"]),
        email=row["email"],
        organization_id=None if row["organization_id"] is None else str(row["organization_id"]),
        role=None if role is None else Role(role),
        platform_role=None if platform_role is None else PlatformRole(platform_role),
        state=_state(row),
        invited_by=row["invited_by"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
    )


def _state(row: Record) -> InvitationState:
    if row["accepted_at"] is not None:
        return InvitationState.ACCEPTED
    if row["revoked_at"] is not None:
        return InvitationState.REVOKED
    return InvitationState.EXPIRED if row["expired"] else InvitationState.PENDING
