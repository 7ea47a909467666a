"""What the service's own database role may do: read and write rows where it has to, and nothing else. Migrations run as the
owner of the tables; the control plane and the gateways run as a role that can't change the schema, and that can't change or
take away a row of the audit log.

A table that a migration adds gets the rights of `ROWS` unless it stands here."""

from __future__ import annotations

from collections.abc import Mapping

from ostiary.control_plane.db.pool import Connection
from ostiary.control_plane.db.schema import MigrationError, connected

NOTHING: frozenset[str] = frozenset()
READ = frozenset({"SELECT"})
ADD = READ | {"INSERT"}
CHANGE = ADD | {"UPDATE"}
ROWS = CHANGE | {"DELETE"}

TABLES: Mapping[str, frozenset[str]] = {
    "schema_migrations": READ,
    # Rows come by audit_append alone.
    "audit_log": READ,
    "route_versions": ADD,  # what was applied stays
    "gateway_nodes": ROWS,
    "audit_pending": NOTHING,
    # Rows come by event_append and by a trigger of quota_events; those that are old are dropped.
    "event_outbox": READ | {"DELETE"},
    "event_pending": NOTHING,
    "organizations": ROWS,
    "apps": ROWS,
    "api_keys": CHANGE,
    "key_limit_changes": ADD,
    "key_uses": READ | {"DELETE"},  # a rotation forgets; written by a trigger of usage_events
    "idempotency_keys": ROWS,
    # Users and what lets them in. Nobody is deleted here, and what was used or linked once stays so.
    "users": CHANGE,
    "user_identities": ADD,
    "memberships": ROWS,
    "invitations": CHANGE,
    "platform_tokens": CHANGE,
    "sessions": ROWS,
    "used_refresh_tokens": ADD,
    "sign_in_attempts": ROWS,
    "token_signing_keys": ADD | {"DELETE"},
    "usage_events": ADD,
    "usage_segments": CHANGE,
    "usage_runs": CHANGE,
    # Written by triggers of usage_events, which run with their owner's rights.
    "usage_rollups_minute": READ,
    "usage_rollups_hour": READ,
    "usage_rollups_day": READ,
    "quota_events": READ,
    # `ostiary usage retention` drops partitions, and so runs as the owner.
    "usage_retention": READ,
}
FUNCTIONS = ("audit_append", "apps_delete_ended_keys", "event_append")


async def grant(url: str, role: str) -> list[str]:
    """Gives the role exactly its rights in the schema of the database `url`, whatever it had there before; returns a line for
    each table. Safe to repeat. Raises DatabaseUnavailable, and MigrationError if there is no such role, if it may do
    everything anyway, or if this user may not give rights."""
    async with connected(url) as connection, connection.transaction():
        name, schema = await _names(connection, role)
        # Guarantees every table of the schema but partitions: those are read through their parents.
        rows = await connection.fetch(
            "SELECT relname::text AS name, quote_ident(relname) AS quoted FROM pg_class "
            "WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition ORDER BY 1"
        )
        for kind in ("TABLES", "SEQUENCES", "FUNCTIONS"):
            # Guarantees that what is not given below is not there, rights of an earlier version included.
            await connection.execute(f"REVOKE ALL ON ALL {kind} IN SCHEMA {schema} FROM {name}")
        await connection.execute(f"GRANT USAGE ON SCHEMA {schema} TO {name}")
        told = []
        for row in rows:
            rights = ", ".join(sorted(TABLES.get(row["name"], ROWS)))
            if not rights:
                continue
            await connection.execute(f"GRANT {rights} ON {schema}.{row['quoted']} TO {name}")
            told.append(f"{row['name']}: {rights}")
        await connection.execute(
            f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA {schema} TO {name}"
        )  # of triggers and defaults
        # Guarantees that a gateway at work goes on: partitions that `usage_partition` has opened to whoever may write calls
        # stay open to them.
        partitions = await connection.fetch(
            "SELECT i.inhrelid::regclass::text AS name FROM pg_inherits i JOIN pg_trigger t ON t.tgrelid = i.inhrelid "
            "WHERE i.inhparent = 'usage_events'::regclass AND t.tgname = 'usage_events_take_in'"
        )
        for row in partitions:
            await connection.execute(f"GRANT INSERT ON {row['name']} TO {name}")
        for function in FUNCTIONS:
            await connection.execute(f"GRANT EXECUTE ON FUNCTION {schema}.{function} TO {name}")
        return told


async def _names(connection: Connection, role: str) -> tuple[str, str]:
    """Role and schema, quoted. Raises MigrationError."""
    found = await connection.fetchrow(
        """
        -- Guarantees the role as Postgres quotes it, and whether a right could be kept from it at all.
        SELECT quote_ident(rolname) AS name, quote_ident(current_schema()) AS schema,
            rolsuper OR EXISTS (
                SELECT FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p')
                    AND pg_has_role(pg_roles.oid, relowner, 'MEMBER')
            ) AS may_anything
        FROM pg_roles WHERE rolname = $1
        """,
        role,
    )
    if found is None:
        raise MigrationError(
            f"there is no role {role!r}; make it as a superuser: CREATE ROLE name LOGIN PASSWORD '...'"
        )
    if found["may_anything"]:
        raise MigrationError(
            f"the role {role!r} is a superuser, or is or belongs to the owner of the tables: nothing can be kept from it"
        )
    return found["name"], found["schema"]


async def rights_over_audit_log(connection: Connection) -> list[str]:
    """What this connection's role may do to the audit log and should not: empty if all is well. Its words are for the log."""
    row = await connection.fetchrow(
        """
        -- Guarantees what the rights of the role and of all roles that it is a member of come to.
        SELECT has_table_privilege('audit_log', 'UPDATE') AS "UPDATE", has_table_privilege('audit_log', 'DELETE') AS "DELETE",
            has_table_privilege('audit_log', 'TRUNCATE') AS "TRUNCATE",
            has_table_privilege('audit_log', 'INSERT') AS "INSERT",
            pg_has_role(relowner, 'MEMBER') AS "owner"
        FROM pg_class WHERE oid = 'audit_log'::regclass
        """
    )
    assert row is not None  # noqa: S101  the cast fails if there is no such table
    return [name for name, may in row.items() if may]
