"""All SQL about organizations and apps."""

from __future__ import annotations

from collections.abc import Sequence

from asyncpg import Record

from ostiary.control_plane.accounts.model import App, Approval, NewApp, Organization
from ostiary.control_plane.db import Connection
from ostiary.control_plane.http import Ids, Position

# Lists: a place in one total order (time, then id), read along an index from the position on; without a position, from the
# end of time. (`$1 IS NULL OR ...` would be shorter, and would read all of the list up to the position.)
ORGANIZATIONS_PAGE = """
    -- Guarantees the next organizations in order, none twice and none left out.
    SELECT id, name, created_at FROM organizations
    WHERE (created_at, id) <
        (coalesce($1::timestamptz, 'infinity'), coalesce($2::uuid, '00000000-0000-0000-0000-000000000000'))
    ORDER BY created_at DESC, id DESC LIMIT $3
"""
THEIR_ORGANIZATIONS_PAGE = """
    -- Guarantees the next of some organizations in order, none twice and none left out.
    SELECT id, name, created_at FROM organizations
    WHERE id = ANY($4::uuid[]) AND (created_at, id) <
        (coalesce($1::timestamptz, 'infinity'), coalesce($2::uuid, '00000000-0000-0000-0000-000000000000'))
    ORDER BY created_at DESC, id DESC LIMIT $3
"""
APPS_PAGE = """
    -- Guarantees the next apps in order, none twice and none left out.
    SELECT * FROM apps
    WHERE (created_at, id) <
        (coalesce($1::timestamptz, 'infinity'), coalesce($2::uuid, '00000000-0000-0000-0000-000000000000'))
    ORDER BY created_at DESC, id DESC LIMIT $3
"""
APPS_OF_ORGANIZATION_PAGE = """
    -- Guarantees the organization's next apps in order, none twice and none left out.
    SELECT * FROM apps
    WHERE organization_id = $4 AND (created_at, id) <
        (coalesce($1::timestamptz, 'infinity'), coalesce($2::uuid, '00000000-0000-0000-0000-000000000000'))
    ORDER BY created_at DESC, id DESC LIMIT $3
"""
# A page of each, along its index, and of these the first: one condition on all of them would sort all their apps.
APPS_OF_ORGANIZATIONS_PAGE = f"""
    -- Guarantees the organizations' next apps in order, none twice and none left out.
    SELECT app.* FROM unnest($4::uuid[]) AS whose (id) CROSS JOIN LATERAL (
        {APPS_OF_ORGANIZATION_PAGE.replace("$4", "whose.id")}
    ) AS app
    ORDER BY created_at DESC, id DESC LIMIT $3
"""  # noqa: S608  a constant of this file


APPS_BY_APPROVAL_PAGE = """
    -- Guarantees the next apps of this approval in order, none twice and none left out; read along the index of those that
    -- are not approved, or of all.
    SELECT * FROM apps
    WHERE approval = $4 AND (created_at, id) <
        (coalesce($1::timestamptz, 'infinity'), coalesce($2::uuid, '00000000-0000-0000-0000-000000000000'))
    ORDER BY created_at DESC, id DESC LIMIT $3
"""


async def insert_organization(connection: Connection, name: str) -> Organization:
    """Raises asyncpg.UniqueViolationError when the name is taken."""
    row = await connection.fetchrow(
        """
        -- Guarantees one organization of this name: the unique constraint decides between two at once.
        INSERT INTO organizations (name) VALUES ($1) RETURNING id, name, created_at
        """,
        name,
    )
    return _organization(_present(row))


async def organization(connection: Connection, organization_id: str) -> Organization | None:
    # Guarantees the organization, or nothing.
    row = await connection.fetchrow("SELECT id, name, created_at FROM organizations WHERE id = $1", organization_id)
    return None if row is None else _organization(row)


async def rename_organization(connection: Connection, organization_id: str, name: str) -> None:
    """Raises asyncpg.UniqueViolationError when the name is taken."""
    # Guarantees one organization of this name: the unique constraint decides between two at once.
    await connection.execute("UPDATE organizations SET name = $2 WHERE id = $1", organization_id, name)


async def delete_organization(connection: Connection, organization_id: str) -> None:
    """Raises asyncpg.ForeignKeyViolationError when it has an app."""
    # Guarantees that nothing of the organization is left but what was metered: its members' roles, its invitations and its
    # tokens go with it, and an app that is made at this moment either keeps it or is refused.
    await connection.execute("DELETE FROM organizations WHERE id = $1", organization_id)


async def organizations(
    connection: Connection, *, among: Sequence[str] | None, after: Position | None, limit: int
) -> tuple[Sequence[Organization], int]:
    """Up to `limit` of them, or of those `among`, newest first, after a position; and how many there are in all."""
    if among is not None:
        arguments = (after and after.created_at, after and after.id, limit, list(among))
        rows = await connection.fetch(THEIR_ORGANIZATIONS_PAGE, *arguments)
        return [_organization(row) for row in rows], len(among)
    rows = await connection.fetch(ORGANIZATIONS_PAGE, after and after.created_at, after and after.id, limit)
    # Guarantees the number of the same moment: the transaction reads one snapshot.
    total = await connection.fetchval("SELECT count(*) FROM organizations")
    return [_organization(row) for row in rows], total


async def insert_app(connection: Connection, app: NewApp, approval: Approval) -> App:
    """Raises asyncpg.UniqueViolationError when the organization has an app of this name, and
    asyncpg.ForeignKeyViolationError when there is no such organization."""
    row = await connection.fetchrow(
        """
        -- Guarantees that the app's organization exists and has no other app of this name.
        INSERT INTO apps (organization_id, name, description, website, redirect_uris, environment, approval)
        VALUES ($1, $2, $3, $4, $5, $6, $7)
        RETURNING *
        """,
        app.organization_id,
        app.name,
        app.description,
        app.website,
        list(app.redirect_uris),
        app.environment,
        approval,
    )
    return app_of(_present(row))


async def app(connection: Connection, app_id: str) -> App | None:
    # Guarantees the app, or nothing.
    row = await connection.fetchrow("SELECT * FROM apps WHERE id = $1", app_id)
    return None if row is None else app_of(row)


async def apps(connection: Connection, *, after: Position | None, limit: int) -> tuple[Sequence[App], int]:
    """As `organizations`."""
    rows = await connection.fetch(APPS_PAGE, after and after.created_at, after and after.id, limit)
    # Guarantees the number of the same moment: the transaction reads one snapshot.
    total = await connection.fetchval("SELECT count(*) FROM apps")
    return [app_of(row) for row in rows], total


async def apps_by_approval(
    connection: Connection, approval: Approval, *, after: Position | None, limit: int
) -> tuple[Sequence[App], int]:
    """As `apps`, those of which the platform has decided so."""
    rows = await connection.fetch(
        APPS_BY_APPROVAL_PAGE, after and after.created_at, after and after.id, limit, approval.value
    )
    # Guarantees the number of the same moment: the transaction reads one snapshot.
    total = await connection.fetchval("SELECT count(*) FROM apps WHERE approval = $1", approval.value)
    return [app_of(row) for row in rows], total


async def apps_of(
    connection: Connection, organizations: Sequence[str], *, after: Position | None, limit: int
) -> tuple[Sequence[App], int]:
    """As `apps`, those of some organizations."""
    arguments = (after and after.created_at, after and after.id, limit)
    if len(organizations) == 1:
        rows = await connection.fetch(APPS_OF_ORGANIZATION_PAGE, *arguments, organizations[0])
    else:
        rows = await connection.fetch(APPS_OF_ORGANIZATIONS_PAGE, *arguments, list(organizations))
    # Guarantees the number of the same moment: the transaction reads one snapshot.
    total = await connection.fetchval(
        "SELECT count(*) FROM apps WHERE organization_id = ANY($1::uuid[])", list(organizations)
    )
    return [app_of(row) for row in rows], total


def _present(row: Record | None) -> Record:
    assert row is not None  # noqa: S101  INSERT .. RETURNING without ON CONFLICT gives its row or raises
    return row


def _organization(row: Record) -> Organization:
    return Organization(id=str(row["id"]), name=row["name"], created_at=row["created_at"])


def app_of(row: Record) -> App:
    return App(
        id=str(row["id"]),
        organization_id=str(row["organization_id"]),
        name=row["name"],
        description=row["description"],
        website=row["website"],
        redirect_uris=tuple(row["redirect_uris"]),
        environment=row["environment"],
        approval=Approval(row["approval"]),
        approval_reason=row["approval_reason"],
        approval_by=row["approval_by"],
        approval_at=row["approval_at"],
        created_at=row["created_at"],
    )


async def organization_itself(connection: Connection, organization_id: str) -> str | None:
    """The id of the organization, or nothing."""
    found = await organization(connection, organization_id)
    return None if found is None else found.id


async def organization_of_app(connection: Connection, app_id: str) -> str | None:
    # Guarantees the organization that has the app, or nothing. An app never changes its organization.
    found = await connection.fetchval("SELECT organization_id FROM apps WHERE id = $1", app_id)
    return None if found is None else str(found)


async def lock_organization(connection: Connection, ids: Ids) -> None:
    # Guarantees that no other transaction changes the organization until this one ends; what refers to it may come and go.
    await connection.execute("SELECT FROM organizations WHERE id = $1 FOR NO KEY UPDATE", ids["organization_id"])


async def lock_app(connection: Connection, ids: Ids) -> None:
    # Guarantees that no other transaction changes the app until this one ends; what refers to it may come and go.
    await connection.execute("SELECT FROM apps WHERE id = $1 FOR NO KEY UPDATE", ids["app_id"])
