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
    asked = {"organization_id": query.organization_id, "app_id": query.app_id, "key_id": query.key_id}
    whose = {column: value for column, value in asked.items() if value is not None}
    # Only what was asked for stands in the statement, so that the planner can use the index on it.
    conditions = "".join(f" AND {column} = ${number}" for number, column in enumerate(whose, start=3))
    rows = await connection.fetch(
        f"""
        -- Guarantees one row for every day asked for, the days without calls included.
        WITH totals AS (
            SELECT day, sum(calls) AS calls, sum(errors) AS errors, sum(latency_us_sum) AS latency_us
            FROM usage_rollups_day
            WHERE day BETWEEN $1 AND $2{conditions}
            GROUP BY day
        )
        SELECT days.day::date AS day, coalesce(calls, 0)::bigint AS calls, coalesce(errors, 0)::bigint AS errors,
            coalesce(latency_us, 0)::bigint AS latency_us
        FROM generate_series($1::date, $2::date, interval '1 day') AS days (day)
        LEFT JOIN totals ON totals.day = days.day::date
        ORDER BY days.day
        """,  # noqa: S608  names of columns, written above; values are parameters
        last_day - timedelta(days=query.days - 1),
        last_day,
        *whose.values(),
    )
    return [DayTotals(row["day"], row["calls"], row["errors"], row["latency_us"]) for row in rows]
