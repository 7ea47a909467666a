"""Once an hour: partitions for the days to come, and what is no longer kept is dropped."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime

import asyncpg

from ostiary.control_plane.audit.commands import by_itself
from ostiary.control_plane.db import DatabaseUnavailable
from ostiary.control_plane.usage.retention import RetentionBusy, connected, keep_up
from ostiary.core.usage import Retention

EVERY_SECONDS = 3600.0
FIRST_SECONDS = 60.0  # one that is restarted again and again does not drop again and again

_log = logging.getLogger("ostiary.control_plane.usage")


async def run_upkeep(postgres_url: str, retention: Retention, *, first_seconds: float = FIRST_SECONDS) -> None:
    """Until it is cancelled. Nothing that goes wrong ends it: it is logged, and the next hour does it."""
    await asyncio.sleep(first_seconds)
    while True:
        try:
            async with connected(postgres_url) as connection:
                done = await keep_up(connection, retention, today=datetime.now(UTC).date(), by=by_itself())
            if done.something:
                fields = {
                    "dropped": list(done.dropped),
                    "days": done.days_deleted,
                    "segments": done.segments_deleted,
                    "events": done.events_deleted,
                }
                _log.info("usage_dropped", extra={"fields": fields})
        except RetentionBusy as busy:
            _log.info("usage_retention_busy", extra={"fields": {"reason": str(busy)}})
        except asyncpg.InsufficientPrivilegeError as error:
            # The service's own role drops nothing; partitions of the days to come are there all the same.
            fields = {
                "reason": str(error),
                "mend": "run `ostiary usage retention` once a day as the owner of the tables",
            }
            _log.warning("usage_retention_failed", extra={"fields": fields})
        except DatabaseUnavailable as error:
            _log.warning("usage_retention_failed", extra={"fields": {"reason": str(error)}})
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            # Only Postgres' own words: others may quote the URL, and with it a password.
            reason = str(error) if isinstance(error, asyncpg.PostgresError) else type(error).__name__
            _log.warning("usage_retention_failed", extra={"fields": {"reason": reason}})
        await asyncio.sleep(EVERY_SECONDS)
