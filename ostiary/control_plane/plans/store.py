"""All SQL about plans. What they say stands in published versions (`control_plane.routes`); here is who has them."""

from __future__ import annotations

from typing import NamedTuple

from ostiary.control_plane.db import Connection

# Of one plan by its name. Two names that meet in 64 bits wait for each other, and nothing else comes of it.
_LOCK = "hashtextextended('plan:' || $1, 0)"


class Holders(NamedTuple):
    """How many keys in force have a plan, of how many apps."""

    keys: int
    apps: int


async def share(connection: Connection, name: str) -> None:
    """For who gives the plan to a key: to be called before looking whether there is one."""
    # Guarantees that the plan is not deleted before this transaction ends. Others that give it wait for nobody.
    await connection.execute(f"SELECT pg_advisory_xact_lock_shared({_LOCK})", name)


async def claim(connection: Connection, name: str) -> None:
    """For who deletes the plan: to be called before counting who has it."""
    # Guarantees that nobody is giving the plan to a key, and that nobody begins to before this transaction ends.
    await connection.execute(f"SELECT pg_advisory_xact_lock({_LOCK})", name)


async def holders(connection: Connection, name: str) -> Holders:
    row = await connection.fetchrow(
        """
        -- Guarantees every key that works now, or that will when its app is approved: not revoked, not expired.
        SELECT count(*) AS keys, count(DISTINCT app_id) AS apps FROM api_keys
        WHERE plan = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
        """,
        name,
    )
    assert row is not None  # noqa: S101  a count is one row
    return Holders(row["keys"], row["apps"])
