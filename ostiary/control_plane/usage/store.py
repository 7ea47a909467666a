"""All SQL about usage. It reads the daily rollups, never the single calls: their number does not matter here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from ostiary.control_plane.db import Connection
from ostiary.control_plane.usage.model import UsageQuery


@dataclass(frozen=True, slots=True)
class DayTotals:
    day: date
    calls: int
    errors: int
    latency_us: int


async def day_totals(connection: Connection, *, last_day: date, query: UsageQuery) -> Sequence[DayTotals]:
    """The `query.days` days that end with `last_day`, in order, none left out."""
    rows = await connection.fetch(
        """
        -- Guarantees one row for every day asked for, the days without calls included.
        WITH totals AS (
            SELECT day, sum(calls) AS calls, sum(errors) AS errors, sum(latency_us_sum) AS latency_us
            FROM usage_rollups_day
            WHERE day BETWEEN $1 AND $2
                AND ($3::uuid IS NULL OR organization_id = $3)
                AND ($4::uuid IS NULL OR app_id = $4)
                AND ($5::text IS NULL OR key_id = $5)
            GROUP BY day
        )
        SELECT days.day::date AS day, coalesce(calls, 0)::bigint AS calls, coalesce(errors, 0)::bigint AS errors,
            coalesce(latency_us, 0)::bigint AS latency_us
        FROM generate_series($1::date, $2::date, interval '1 day') AS days (day)
        LEFT JOIN totals ON totals.day = days.day::date
        ORDER BY days.day
        """,
        last_day - timedelta(days=query.days - 1),
        last_day,
        query.organization_id,
        query.app_id,
        query.key_id,
    )
    return [DayTotals(row["day"], row["calls"], row["errors"], row["latency_us"]) for row in rows]
