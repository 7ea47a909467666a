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
# calls once in 100 000 times: there is always one that is hard to find. A key's ids are made once, not for each call.
_EVENTS = f"""
INSERT INTO {{partition}} (occurred_at, request_id, key_id, app_id, organization_id, environment, route, path_template,
    method, status, latency_us, upstream_us, bytes_in, bytes_out, ip, user_agent, overage, complete)
SELECT $1::timestamptz + number * ($3::interval / $2), md5($1::text || number), key_ids[key + 1], app_ids[key / 2 + 1],
    organization_ids[key / 8 + 1], 'live', routes[number % {ROUTES} + 1], templates[number % {ROUTES} + 1], 'GET',
    (ARRAY[200, 200, 200, 200, 200, 200, 200, 404, 429, 503])[1 + number / 7 % 10], (500 + exp(random() * 7) * 100)::bigint,
    400, 0, 2000, '192.0.2.7', 'curl/8.5.0', number % 50 = 0, true
FROM (SELECT number, CASE WHEN number % 100000 = 77 THEN {KEYS - 1} ELSE (number::bigint * 7919 % {KEYS - 1})::int END AS key
      FROM generate_series(0, $2 - 1) AS number) AS calls,
     (SELECT array_agg('ak_live_' || lpad(key::text, 14, '0') ORDER BY key) FROM generate_series(0, {KEYS - 1}) AS key)
         AS keys (key_ids),
     (SELECT array_agg({APP.format(number="app")} ORDER BY app) FROM generate_series(0, {APPS - 1}) AS app) AS apps (app_ids),
     (SELECT array_agg({ORGANIZATION.format(number="organization")} ORDER BY organization)
      FROM generate_series(0, {ORGANIZATIONS - 1}) AS organization) AS organizations (organization_ids),
     (SELECT array_agg('route-' || route ORDER BY route), array_agg('/v1/route-' || route || '/{{{{id}}}}' ORDER BY route)
      FROM generate_series(0, {ROUTES - 1}) AS route) AS named (routes, templates)
"""

# Guarantees the roll-ups of one day, as the trigger would have made them: minutes and hours of its rows, days of its hours.
_COLUMNS = """organization_id, app_id, key_id, environment, route, method, {status}, calls, incomplete, overage, bytes_in,
    bytes_out, latency_us_sum, upstream_us_sum, latency_histogram"""
_FINE = f"""
INSERT INTO usage_rollups_{{unit}} ({{unit}}, {_COLUMNS.format(status="status")})
SELECT date_bin('1 {{unit}}', occurred_at, 'epoch'), organization_id, app_id, key_id, environment, route, method, status,
    count(*), count(*) FILTER (WHERE NOT complete), count(*) FILTER (WHERE overage), sum(bytes_in), sum(bytes_out),
    sum(latency_us), coalesce(sum(upstream_us), 0),
    sum((usage_latency_weights())[width_bucket(latency_us, usage_latency_bounds_us()) + 1])
FROM {{partition}} GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
"""
_DAYS = f"""
INSERT INTO usage_rollups_day (day, {_COLUMNS.format(status="status_class")})
SELECT (hour AT TIME ZONE 'UTC')::date, organization_id, app_id, key_id, environment, route, method, (status / 100)::smallint,
    sum(calls), sum(incomplete), sum(overage), sum(bytes_in), sum(bytes_out), sum(latency_us_sum), sum(upstream_us_sum),
    sum(latency_histogram)
FROM usage_rollups_hour WHERE hour >= $1::timestamptz AND hour < $1::timestamptz + interval '1 day'
GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
"""
# Guarantees the roll-ups of everyone together, from those by key.
_OF_ALL = """
INSERT INTO usage_rollups_all_{unit}
SELECT {unit}, environment, route, method, {status}, sum(calls), sum(incomplete), sum(overage), sum(bytes_in), sum(bytes_out),
    sum(latency_us_sum), sum(upstream_us_sum), sum(latency_histogram)
FROM usage_rollups_{unit} WHERE {unit} >= $1::timestamptz AND {unit} < $1::timestamptz + interval '1 day'
GROUP BY 1, 2, 3, 4, 5
"""


async def fill_day(connection: Connection, *, calls: int, day: date, until: datetime, minutes: bool) -> None:
    """`calls` on one day that has none, fewer if it is not over at `until`; with `minutes` roll-ups by minute too. Safe on
    several connections at once, for several days. The indexes are made when the rows are there: a third of the time."""
    midnight = datetime.combine(day, datetime.min.time(), until.tzinfo)
    span = min(until - midnight, timedelta(days=1))
    partition = f"usage_events_{day:%Y%m%d}"
    tomorrow = midnight + timedelta(days=1)
    # The planner knows nothing of what was made a moment ago, and would sort where it can hash.
    await connection.execute("SET work_mem = '256MB'; SET maintenance_work_mem = '256MB'; SET enable_sort = off")
    async with connection.transaction():
        await connection.execute(f"CREATE TABLE {partition} (LIKE usage_events INCLUDING ALL EXCLUDING INDEXES)")
        count = max(1, int(calls * (span / timedelta(days=1))))
        await connection.execute(_EVENTS.format(partition=partition), midnight, count, span, timeout=3600)
    await connection.execute(
        f"ALTER TABLE usage_events ATTACH PARTITION {partition} FOR VALUES FROM ('{midnight}') TO ('{tomorrow}')",
        timeout=3600,
    )
    await connection.execute("SELECT usage_ensure_partition($1)", day)
    for unit in ("minute", "hour") if minutes else ("hour",):
        await connection.execute(_FINE.format(unit=unit, partition=partition), timeout=3600)
    await connection.execute(_DAYS, midnight, timeout=3600)
    for unit in ("minute", "hour", "day") if minutes else ("hour", "day"):
        status = "status_class" if unit == "day" else "status"
        await connection.execute(_OF_ALL.format(unit=unit, status=status), midnight, timeout=3600)
    await connection.execute("RESET work_mem; RESET maintenance_work_mem; RESET enable_sort")


async def finish(connection: Connection, *, minutes_from: date) -> None:
    """When the days are there: what Postgres and retention know of them."""
    await connection.execute("INSERT INTO usage_retention VALUES ('minutes', $1)", minutes_from)
    await connection.execute(
        "ANALYZE usage_events, usage_rollups_minute, usage_rollups_hour, usage_rollups_day, usage_rollups_all_minute, "
        "usage_rollups_all_hour, usage_rollups_all_day",
        timeout=3600,
    )


async def fill(
    connection: Connection, *, calls: int, first_day: date, days: int, until: datetime, minutes_days: int
) -> AsyncIterator[date]:
    """`calls` on each day, from `first_day` on and none after `until`; roll-ups by minute of the last `minutes_days`, with
    the rest dropped by retention. Yields each day that is done."""
    minutes_from = first_day + timedelta(days=days - minutes_days)
    for number in range(days):
        day = first_day + timedelta(days=number)
        await fill_day(connection, calls=calls, day=day, until=until, minutes=day >= minutes_from)
        yield day
    await finish(connection, minutes_from=minutes_from)


async def plan(connection: Connection, statement: str, *arguments: object) -> str:
    """How Postgres would answer the statement with these arguments."""
    await connection.execute("SET plan_cache_mode = force_custom_plan")
    return "\n".join(row[0] for row in await connection.fetch("EXPLAIN " + statement, *arguments))
