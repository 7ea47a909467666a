"""Postgres of the control plane: the pool with its bounds, and the schema's migrations (`migrations/NNNN_*.sql`)."""

from ostiary.control_plane.db.pool import Connection, DatabaseUnavailable, Pool, open_pool
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
    "migrate",
    "migration_status",
    "open_pool",
]
