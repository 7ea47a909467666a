"""All SQL about usage. It reads the daily rollups, whatever the number of calls; of the single ones those alone that a
limit in shadow would have refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from ostiary.control_plane.db import Connection
from ostiary.control_plane.usage.model import QuotaEvent, ShadowLimit, UsageQuery

ROWS_MAX = 1000  # of one answer: what is beyond is no use to read


@dataclass(frozen=True, slots=True)
class DayTotals:
    day: date
    calls: int
    errors: int
    latency_us: int


async def shadow_limits(connection: Connection, *, last_day: date, query: UsageQuery) -> Sequence[ShadowLimit]:
    """Of the `query.days` days that end with `last_day`, those that would have refused most first."""
    whose, conditions = _whose(query)
    rows = await connection.fetch(
        f"""
        -- Guarantees that each call counts once for each limit that would have refused it, and once among the calls of its
        -- route. Reads, of the single calls, only those that are marked (a partial index); all the others from the rollups.
        WITH shadow AS (
            SELECT route, name AS limit, count(*) AS would_refuse
            FROM usage_events, unnest(string_to_array(would_refuse, ',')) AS name
            WHERE would_refuse IS NOT NULL AND occurred_at >= $1::date::timestamp AT TIME ZONE 'UTC'
              AND occurred_at < ($2::date + 1)::timestamp AT TIME ZONE 'UTC'{conditions}
            GROUP BY 1, 2
        ), totals AS (
            SELECT route, sum(calls)::bigint AS calls FROM usage_rollups_day
            WHERE day BETWEEN $1 AND $2{conditions} GROUP BY 1
        )
        SELECT shadow.route, shadow.limit, coalesce(calls, 0) AS calls, would_refuse
        FROM shadow LEFT JOIN totals ON totals.route IS NOT DISTINCT FROM shadow.route
        ORDER BY would_refuse DESC, 1, 2 LIMIT {ROWS_MAX}
        """,  # noqa: S608  names of columns, written below; values are parameters
        last_day - timedelta(days=query.days - 1),
        last_day,
        *whose,
    )
    return [ShadowLimit(**row) for row in rows]


async def quota_events(connection: Connection, *, last_day: date, query: UsageQuery) -> Sequence[QuotaEvent]:
    asked = {"k": query.key_id, "a": query.app_id, "o": query.organization_id}
    subjects = [f"{test}{kind}:{value}" for kind, value in asked.items() if value is not None for test in ("", "test:")]
    rows = await connection.fetch(
        f"""
        -- Guarantees the latest events of these subjects, or of all.
        SELECT subject, quota, threshold, calls_max, reached_at, period_ends FROM quota_events
        WHERE reached_at >= $1::date::timestamp AT TIME ZONE 'UTC' AND (cardinality($2::text[]) = 0 OR subject = ANY($2))
        ORDER BY reached_at DESC, subject, quota, threshold DESC LIMIT {ROWS_MAX}
        """,  # noqa: S608  a number
        last_day - timedelta(days=query.days - 1),
        subjects,
    )
    return [QuotaEvent(**row) for row in rows]


def _whose(query: UsageQuery) -> tuple[list[str], str]:
    """Values of the parameters from $3 on, and the conditions on them: only what was asked for stands in the statement, so
    that the planner can use the index on it."""
    asked = {"organization_id": query.organization_id, "app_id": query.app_id, "key_id": query.key_id}
    whose = {column: value for column, value in asked.items() if value is not None}
    return list(whose.values()), "".join(f" AND {column} = ${number}" for number, column in enumerate(whose, start=3))


async def day_totals(connection: Connection, *, last_day: date, query: UsageQuery) -> Sequence[DayTotals]:
    """The `query.days` days that end with `last_day`, in order, none left out."""
    whose, conditions = _whose(query)
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
        *whose,
    )
    return [DayTotals(row["day"], row["calls"], row["errors"], row["latency_us"]) for row in rows]
