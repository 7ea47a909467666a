"""All SQL that changes apps."""

from __future__ import annotations

from ostiary.control_plane.apps.model import AppChanges, Decision
from ostiary.control_plane.db import Connection


async def amend(connection: Connection, app_id: str, changes: AppChanges) -> None:
    """Does nothing if there is no such app. Raises asyncpg.UniqueViolationError when the organization has another of this
    name."""
    given = changes.given()
    uris = given.get("redirect_uris")
    await connection.execute(
        """
        -- Guarantees that what is not given stays, also what another call changes at this moment: one statement, under the
        -- row's lock.
        UPDATE apps SET
            name = coalesce($2, name), description = coalesce($3, description),
            website = CASE WHEN $4 THEN $5 ELSE website END, redirect_uris = coalesce($6, redirect_uris)
        WHERE id = $1
        """,
        app_id,
        given.get("name"),
        given.get("description"),
        "website" in given,
        given.get("website"),
        None if uris is None else list(uris),
    )


async def decide(connection: Connection, app_id: str, decision: Decision, *, by: str) -> None:
    """Does nothing if there is no such app, or if that is decided already."""
    await connection.execute(
        """
        -- Guarantees that the decision, who made it and when are one; a repeat changes nothing. By the table's trigger every
        -- key of the app is announced, and gateways hear of it at the commit.
        UPDATE apps SET approval = $2, approval_reason = $3, approval_by = $4, approval_at = now()
        WHERE id = $1 AND (approval <> $2 OR approval_by IS NULL)
        """,
        app_id,
        decision.approval,
        decision.reason,
        by,
    )


async def has_keys_in_force(connection: Connection, app_id: str) -> bool:
    found = await connection.fetchval(
        """
        -- Guarantees that no key of the app that was there when this began is overlooked.
        SELECT EXISTS (
            SELECT FROM api_keys
            WHERE app_id = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
        )
        """,
        app_id,
    )
    return bool(found)


async def delete(connection: Connection, app_id: str) -> None:
    """Raises asyncpg.ForeignKeyViolationError when a key was made meanwhile."""
    # Guarantees that a key in force keeps its app: it is not among these, and so the second statement is refused.
    await connection.execute("SELECT apps_delete_ended_keys($1)", app_id)
    # Guarantees that nothing is left of the app but what was metered, and what was changed of its keys' limits.
    await connection.execute("DELETE FROM apps WHERE id = $1", app_id)
