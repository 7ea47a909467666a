"""Very many calls in Postgres, made by Postgres itself: for how questions behave when there is much to answer from."""

# ruff: noqa: S608  statements are made of constants of this file

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import date, datetime, timedelta

from ostiary.control_plane.db import Connection

KEYS, APPS, ORGANIZATIONS, ROUTES = 200, 100, 25, 5

# Ids that can be told from a number. One key in two is of an app, four apps of an organization.
APP = "md5('app' || {number})::uuid"
ORGANIZATION = "md5('organization' || {number})::uuid"

# Guarantees `calls` rows on one day, spread evenly over it, in the order in which a shipper would write them. The last key
# calls once in 100 000 times: there is always one that is hard to find.
_EVENTS = f"""
INSERT INTO usage_events (occurred_at, request_id, key_id, app_id, organization_id, environment, route, path_template, method,
    status, latency_us, upstream_us, bytes_in, bytes_out, ip, user_agent, overage, complete)
SELECT $1::timestamptz + number * ($3::interval / $2), md5($1::text || number), 'ak_live_' || lpad(key::text, 14, '0'),
    {APP.format(number="key / 2")}, {ORGANIZATION.format(number="key / 8")}, 'live', 'route-' || number % {ROUTES},
    '/v1/route-' || number % {ROUTES} || '/{{id}}', 'GET', (ARRAY[200, 200, 200, 200, 200, 200, 200, 404, 429, 503])[
    1 + number / 7 % 10], (500 + exp(random() * 7) * 100)::bigint, 400, 0, 2000, '192.0.2.7', 'curl/8.5.0', number % 50 = 0,
    true
FROM (SELECT number, CASE WHEN number % 100000 = 77 THEN {KEYS - 1} ELSE (number * 7919) % {KEYS - 1} END AS key
      FROM generate_series(0, $2 - 1) AS number) AS calls
"""

# Guarantees the roll-ups of one day from its rows, as the trigger would have made them.
_SUMS = """count(*), count(*) FILTER (WHERE NOT complete), count(*) FILTER (WHERE overage), sum(bytes_in), sum(bytes_out),
    sum(latency_us), coalesce(sum(upstream_us), 0),
    sum((usage_latency_weights())[width_bucket(latency_us, usage_latency_bounds_us()) + 1])"""
_ROLLUPS = f"""
INSERT INTO {{table}} ({{column}}, organization_id, app_id, key_id, environment, route, method, {{status}}, calls, incomplete,
    overage, bytes_in, bytes_out, latency_us_sum, upstream_us_sum, latency_histogram)
SELECT {{start}}, organization_id, app_id, key_id, environment, route, method, {{code}}, {_SUMS}
FROM usage_events WHERE occurred_at >= $1::timestamptz AND occurred_at < $1::timestamptz + interval '1 day'
GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
"""
_TABLES = (
    ("usage_rollups_minute", "minute", "status", "date_bin('1 minute', occurred_at, 'epoch')", "status"),
    ("usage_rollups_hour", "hour", "status", "date_bin('1 hour', occurred_at, 'epoch')", "status"),
    ("usage_rollups_day", "day", "status_class", "(occurred_at AT TIME ZONE 'UTC')::date", "(status / 100)::smallint"),
)


async def fill(
    connection: Connection, *, calls: int, first_day: date, days: int, until: datetime, minutes_days: int
) -> AsyncIterator[date]:
    """`calls` on each day, from `first_day` on and none after `until`; roll-ups by minute of the last `minutes_days`, with
    the rest dropped by retention. Yields each day that is done."""
    await connection.execute("ALTER TABLE usage_events DISABLE TRIGGER usage_events_roll_up")
    minutes_from = first_day + timedelta(days=days - minutes_days)
    for number in range(days):
        day = first_day + timedelta(days=number)
        midnight = datetime.combine(day, datetime.min.time(), until.tzinfo)
        span = min(until - midnight, timedelta(days=1))
        await connection.execute("SELECT usage_ensure_partition($1)", day)
        await connection.execute(_EVENTS, midnight, max(1, int(calls * (span / timedelta(days=1)))), span, timeout=3600)
        for table, column, status, start, code in _TABLES:
            if table != "usage_rollups_minute" or day >= minutes_from:
                statement = _ROLLUPS.format(table=table, column=column, status=status, start=start, code=code)
                await connection.execute(statement, midnight, timeout=3600)
        yield day
    await connection.execute("ALTER TABLE usage_events ENABLE TRIGGER usage_events_roll_up")
    await connection.execute("INSERT INTO usage_retention VALUES ('minutes', $1)", minutes_from)
    await connection.execute(
        "ANALYZE usage_events, usage_rollups_minute, usage_rollups_hour, usage_rollups_day", timeout=3600
    )


async def plan(connection: Connection, statement: str, *arguments: object) -> str:
    """How Postgres would answer the statement with these arguments."""
    await connection.execute("SET plan_cache_mode = force_custom_plan")
    return "\n".join(row[0] for row in await connection.fetch("EXPLAIN " + statement, *arguments))
