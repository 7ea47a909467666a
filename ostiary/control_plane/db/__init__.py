"""Postgres of the control plane: the pool with its bounds, the schema's migrations (`migrations/NNNN_*.sql`), and what the
service's own role may do (`rights`)."""

from ostiary.control_plane.db.pool import Connection, DatabaseUnavailable, Pool, open_pool
from ostiary.control_plane.db.rights import grant, rights_over_audit_log
from ostiary.control_plane.db.schema import (
    Migration,
    MigrationError,
    MigrationState,
    MigrationStatus,
    migrate,
    migration_status,
)

__all__ = [
    "Connection",
    "DatabaseUnavailable",
    "Migration",
    "MigrationError",
    "MigrationState",
    "MigrationStatus",
    "Pool",
    "grant",
    "migrate",
    "migration_status",
    "open_pool",
    "rights_over_audit_log",
]
