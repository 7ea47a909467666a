"""All SQL about roll-ups: sums over the parts of a span. The number of single calls does not matter here: of them are read
those alone that a limit in shadow would have refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime

from asyncpg import Record

from ostiary.control_plane.db import Connection
from ostiary.control_plane.usage.model import CallFilter, QuotaEvent, QuotaEventsQuery, ShadowLimit
from ostiary.control_plane.usage.parts import Granularity, Part, floor

# Table and column of time, by granularity. A day has the class of a status, not the status.
_TABLES = {
    Granularity.MINUTE: ("usage_rollups_minute", "minute"),
    Granularity.HOUR: ("usage_rollups_hour", "hour"),
    Granularity.DAY: ("usage_rollups_day", "day"),
}
# The same of everyone's calls together: without organization, app and key.
_TABLES_OF_ALL = {
    Granularity.MINUTE: ("usage_rollups_all_minute", "minute"),
    Granularity.HOUR: ("usage_rollups_all_hour", "hour"),
    Granularity.DAY: ("usage_rollups_all_day", "day"),
}
_SHORT = 120  # minutes or hours of a part
_BY_TIME = ("usage_rollups_minute", "usage_rollups_hour")
_KINDS = {"minutes": Granularity.MINUTE, "hours": Granularity.HOUR, "days": Granularity.DAY}
_SUMS = """sum(calls)::bigint AS calls, coalesce(sum(calls) FILTER (WHERE status >= 400), 0)::bigint AS errors,
    sum(incomplete)::bigint AS incomplete, sum(overage)::bigint AS overage, sum(bytes_in)::bigint AS bytes_in,
    sum(bytes_out)::bigint AS bytes_out, sum(latency_us_sum)::bigint AS latency_us,
    sum(upstream_us_sum)::bigint AS upstream_us, sum(latency_histogram) AS histogram"""


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over some calls."""

    calls: int = 0
    errors: int = 0
    incomplete: int = 0
    overage: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    latency_us: int = 0
    upstream_us: int = 0
    histogram: int = 0

    def __add__(self, other: Totals) -> Totals:
        return Totals(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))


class Arguments:
    """The parameters of one statement, numbered as they come."""

    def __init__(self) -> None:
        self.values: list[object] = []

    def add(self, value: object) -> str:
        self.values.append(value)
        return f"${len(self.values)}"


def conditions(asked: CallFilter, arguments: Arguments, *, by_class: bool = False, status: str = "status") -> str:
    """What must hold besides the time. Only what was asked for stands in the statement, so that the planner can use the index
    on it. `status` is how it is named."""
    wanted = {
        "organization_id": asked.organization_id,
        "app_id": asked.app_id,
        "key_id": asked.key_id,
        "route": asked.route,
        "environment": asked.environment,
    }
    found = [f"{column} = {arguments.add(value)}" for column, value in wanted.items() if value is not None]
    if asked.organizations is not None:
        found.append(f"organization_id = ANY({arguments.add(list(asked.organizations))}::uuid[])")
    if asked.status is not None:
        status_class = int(asked.status[0])
        if by_class:
            found.append(f"status_class = {arguments.add(status_class)}")
        elif asked.status.endswith("xx"):
            low = arguments.add(status_class * 100)
            found.append(f"{status} >= {low} AND {status} < {low} + 100")
        else:
            found.append(f"{status} = {arguments.add(int(asked.status))}")
    return "".join(f" AND {condition}" for condition in found)


def table_of(granularity: Granularity, asked: CallFilter, *, by_caller: bool = False) -> tuple[str, str]:
    """The roll-ups that answer, and their column of time: where nobody in particular is asked for, and who asks may see
    everyone, those of everyone together. `by_caller` says that the answer is told by organization, app or key."""
    whose = (asked.organization_id, asked.app_id, asked.key_id, asked.organizations)
    anybody = all(each is None for each in whose)
    return (_TABLES_OF_ALL if anybody and not by_caller else _TABLES)[granularity]


def status_in(granularity: Granularity, since: datetime, until: datetime) -> str:
    """How the status is named in a question to roll-ups, for `conditions`.

    It is the sixth column of their unique index. Since Postgres 18 an index is used for a column behind others that nothing
    is said of (skip scan), and for a short span its reckoning of that is so high that it took any other index and read
    everyone's roll-ups: 77 to 144 ms for ten minutes of an app, and 0.4 with a status that no index knows. Over a long span
    it reckons rightly, and the index saves what it reads."""
    return "(status + 0)" if (until - since) // granularity.value <= _SHORT else "status"


def within(table: str, column: str, since: str, until: str, asked: CallFilter) -> str:
    """The bounds of time of a question to one table; `since` and `until` are its parameters.

    Roll-ups by minute and hour have an index on time that only a question uses which names it, as it stands there. What is
    asked of an organization or app has an index of its own, and Postgres took that on time all the same: it counts pages as
    if each were read from a disk, and so read the calls of everyone, twenty for each that was asked for (migration 0016)."""
    anybody = asked.organization_id is None and asked.app_id is None and asked.organizations is None
    if not anybody or table not in _BY_TIME:
        return f"{column} >= {since} AND {column} < {until}"
    zone = "AT TIME ZONE 'UTC'"
    # The column itself says which partitions, and no more: said twice, Postgres takes the bounds for two that each leave
    # little, and looks for rows that meet both.
    partitions = f"{column} >= date_bin('1 day', {since}, 'epoch') AND {column} < {until}"
    return f"{partitions} AND ({column} {zone}) >= ({since} {zone}) AND ({column} {zone}) < ({until} {zone})"


def rollups(parts: Sequence[Part], asked: CallFilter, arguments: Arguments, *, by_caller: bool = False) -> str:
    """The rows of all parts as one table, with `start` for the beginning and `status` (of a day: the class times 100); with
    `by_caller` they have organization, app and key too."""
    return "\n    UNION ALL\n    ".join(_part(part, asked, arguments, by_caller) for part in parts)


def _part(part: Part, asked: CallFilter, arguments: Arguments, by_caller: bool) -> str:
    table, column = table_of(part.granularity, asked, by_caller=by_caller)
    by_day = part.granularity is Granularity.DAY
    since, until = (
        arguments.add(moment.date() if by_day else moment) + ("::date" if by_day else "::timestamptz")
        for moment in (part.since, part.until)
    )
    start = "day::timestamptz" if by_day else column  # the session's zone is UTC
    status = "status_class * 100" if by_day else "status"
    name = status_in(part.granularity, part.since, part.until)
    where = within(table, column, since, until, asked) + conditions(asked, arguments, by_class=by_day, status=name)
    caller = "organization_id, app_id, key_id, " if by_caller else ""
    columns = f"""{start} AS start, {caller}environment, route, method, {status} AS status, calls, incomplete, overage,
        bytes_in, bytes_out, latency_us_sum, upstream_us_sum, latency_histogram"""
    return f"SELECT {columns} FROM {table} WHERE {where}"  # noqa: S608  names of columns, written above; values are parameters


async def kept_from(connection: Connection) -> Mapping[Granularity, date]:
    # Guarantees the first complete day of each kind of roll-up; nothing for what has never been dropped.
    rows = await connection.fetch("SELECT kind, kept_from FROM usage_retention WHERE kind = ANY($1)", list(_KINDS))
    return {_KINDS[row["kind"]]: row["kept_from"] for row in rows}


async def calls_kept_from(connection: Connection) -> date | None:
    # Guarantees the first complete day of single calls; None if none has ever been dropped.
    first: date | None = await connection.fetchval("SELECT kept_from FROM usage_retention WHERE kind = 'events'")
    return first


async def app_of_key(connection: Connection, key_id: str) -> str | None:
    # Guarantees the app of a key of the control plane; a key never changes it.
    app_id = await connection.fetchval("SELECT app_id FROM api_keys WHERE id = $1", key_id)
    return None if app_id is None else str(app_id)


async def totals(connection: Connection, parts: Sequence[Part], asked: CallFilter) -> Totals:
    if not parts:
        return Totals()
    arguments = Arguments()
    row = await connection.fetchrow(
        f"""
        -- Guarantees the sums over every call of the parts that is asked for, each once.
        SELECT {_SUMS} FROM ({rollups(parts, asked, arguments)}) AS parts
        """,  # noqa: S608  names of columns, written above; values are parameters
        *arguments.values,
    )
    return _totals(row)


async def count(connection: Connection, parts: Sequence[Part], asked: CallFilter) -> int:
    if not parts:
        return 0
    arguments = Arguments()
    calls = await connection.fetchval(
        f"""
        -- Guarantees the number of calls of the parts that are asked for.
        SELECT sum(calls)::bigint FROM ({rollups(parts, asked, arguments)}) AS parts
        """,  # noqa: S608  as above
        *arguments.values,
    )
    return calls or 0


async def by_interval(
    connection: Connection, parts: Sequence[Part], asked: CallFilter, granularity: Granularity
) -> Mapping[datetime, Totals]:
    """By beginning; intervals without calls are not in it."""
    if not parts:
        return {}
    arguments = Arguments()
    rows = await connection.fetch(
        f"""
        -- Guarantees that the groups together are the parts: each call is in the one that it ended in.
        SELECT start, {_SUMS} FROM ({rollups(parts, asked, arguments)}) AS parts GROUP BY start
        """,  # noqa: S608  as above
        *arguments.values,
    )
    found: dict[datetime, Totals] = {}
    for row in rows:  # at its edges a span has finer parts than its intervals
        start = floor(row["start"], granularity)
        found[start] = found.get(start, Totals()) + _totals(row)
    return found


async def by_endpoint(
    connection: Connection, parts: Sequence[Part], asked: CallFilter, *, limit: int
) -> tuple[Sequence[tuple[str | None, str, Totals]], int]:
    """Route, method and sums of the `limit` with the most calls; and how many there are."""
    if not parts:
        return (), 0
    arguments = Arguments()
    rows = await connection.fetch(
        f"""
        -- Guarantees one row for every route and method that was called, those with the most calls first, in one total order.
        SELECT route, method, {_SUMS}, count(*) OVER () AS total
        FROM ({rollups(parts, asked, arguments)}) AS parts
        GROUP BY route, method ORDER BY calls DESC, route, method LIMIT {arguments.add(limit)}
        """,  # noqa: S608  as above
        *arguments.values,
    )
    return [(row["route"], row["method"], _totals(row)) for row in rows], rows[0]["total"] if rows else 0


async def by_error(
    connection: Connection, parts: Sequence[Part], asked: CallFilter, *, limit: int
) -> tuple[Sequence[Record], int]:
    """`route`, `method`, `status`, `calls` and `of` (all calls of the route and method), and how many there are."""
    if not parts:
        return (), 0
    arguments = Arguments()
    rows = await connection.fetch(
        f"""
        -- Guarantees one row for every status from 400 on of a route and method; a status filter narrows the rows, not what
        -- their share is of.
        WITH by_status AS (
            SELECT route, method, status, sum(calls) AS calls, sum(sum(calls)) OVER (PARTITION BY route, method) AS of
            FROM ({rollups(parts, asked.model_copy(update={"status": None}), arguments)}) AS parts
            GROUP BY route, method, status
        )
        SELECT route, method, status, calls::bigint, of::bigint, count(*) OVER () AS total FROM by_status
        WHERE status >= 400{conditions(CallFilter(status=asked.status).seen_by(None), arguments)}
        ORDER BY calls DESC, route, method, status LIMIT {arguments.add(limit)}
        """,  # noqa: S608  as above
        *arguments.values,
    )
    return rows, rows[0]["total"] if rows else 0


async def overages(
    connection: Connection, parts: Sequence[Part], asked: CallFilter, *, after: str, limit: int
) -> tuple[Sequence[Record], int]:
    """Keys with calls past a quota, in order, after the key id `after`; and how many there are in all."""
    if not parts:
        return (), 0
    arguments = Arguments()
    rows = await connection.fetch(
        f"""
        -- Guarantees every key with overage once, in the order of its id.
        WITH by_key AS (
            SELECT key_id, min(app_id::text) AS app_id, min(organization_id::text) AS organization_id,
                min(environment) AS environment, sum(calls)::bigint AS calls, sum(overage)::bigint AS overage
            FROM ({rollups(parts, asked, arguments, by_caller=True)}) AS parts WHERE key_id IS NOT NULL
            GROUP BY key_id HAVING sum(overage) > 0
        )
        SELECT by_key.*, (SELECT count(*) FROM by_key) AS total FROM by_key
        WHERE key_id > {arguments.add(after)} COLLATE "C" ORDER BY key_id COLLATE "C" LIMIT {arguments.add(limit)}
        """,  # noqa: S608  as above
        *arguments.values,
    )
    return rows, rows[0]["total"] if rows else 0


async def shadow_limits(
    connection: Connection,
    parts: Sequence[Part],
    asked: CallFilter,
    *,
    since: datetime,
    until: datetime,
    by_key: bool,
    limit: int,
) -> tuple[Sequence[ShadowLimit], int]:
    """Of the span, which is that of the parts, those that would have refused most first; and how many there are. Without
    `by_key` all keys of a route are one."""
    if not parts:
        return (), 0
    arguments = Arguments()
    key = "key_id" if by_key else "NULL::text"
    rows = await connection.fetch(
        f"""
        -- Guarantees that each call counts once for each limit that would have refused it, and once among the calls of its
        -- route (and key). Reads, of the single calls, only those that are marked (a partial index); all the others from the
        -- roll-ups.
        WITH shadow AS (
            SELECT route, {key} AS key_id, name AS limit, count(*) AS would_refuse
            FROM usage_events, unnest(string_to_array(would_refuse, ',')) AS name
            WHERE would_refuse IS NOT NULL AND occurred_at >= {arguments.add(since)} AND occurred_at < {arguments.add(until)}
                {conditions(asked, arguments)}
            GROUP BY 1, 2, 3
        ), totals AS (
            SELECT route, {key} AS key_id, sum(calls)::bigint AS calls
            FROM ({rollups(parts, asked, arguments, by_caller=by_key)}) AS parts GROUP BY 1, 2
        )
        SELECT shadow.route, shadow.key_id, shadow.limit, coalesce(calls, 0) AS calls, would_refuse, count(*) OVER () AS total
        FROM shadow LEFT JOIN totals
            ON totals.route IS NOT DISTINCT FROM shadow.route AND totals.key_id IS NOT DISTINCT FROM shadow.key_id
        ORDER BY would_refuse DESC, 1, 2, 3 LIMIT {arguments.add(limit)}
        """,  # noqa: S608  names of columns, written above; values are parameters
        *arguments.values,
    )
    found = [ShadowLimit(**{name: row[name] for name in ShadowLimit.model_fields}) for row in rows]
    return found, rows[0]["total"] if rows else 0


async def quota_events(
    connection: Connection, asked: QuotaEventsQuery, *, since: datetime, until: datetime, limit: int
) -> tuple[Sequence[QuotaEvent], int]:
    """The `limit` latest of the span; and how many there are."""
    whose = {"k": asked.key_id, "a": asked.app_id, "o": asked.organization_id}
    subjects = [f"{test}{kind}:{value}" for kind, value in whose.items() if value is not None for test in ("", "test:")]
    rows = await connection.fetch(
        """
        -- Guarantees the latest events of these subjects, or of all; and none but of the organizations, their apps and their
        -- keys that may be seen, if that is not all of them.
        SELECT subject, quota, threshold, calls_max, reached_at, period_ends, count(*) OVER () AS total FROM quota_events
        WHERE reached_at >= $1 AND reached_at < $2 AND (cardinality($3::text[]) = 0 OR subject = ANY($3))
            AND ($5::uuid[] IS NULL OR subject IN (
                SELECT environment || visible FROM (VALUES (''), ('test:')) AS e (environment), (
                    SELECT 'o:' || unnest($5::uuid[])
                    UNION ALL SELECT 'a:' || id FROM apps WHERE organization_id = ANY($5)
                    UNION ALL SELECT 'k:' || k.id FROM api_keys k JOIN apps a ON a.id = k.app_id
                        WHERE a.organization_id = ANY($5)
                ) AS subjects (visible)))
        ORDER BY reached_at DESC, subject, quota, threshold DESC LIMIT $4
        """,
        since,
        until,
        subjects,
        limit,
        None if asked.organizations is None else list(asked.organizations),
    )
    found = [QuotaEvent(**{name: row[name] for name in QuotaEvent.model_fields}) for row in rows]
    return found, rows[0]["total"] if rows else 0


def _totals(row: Record | None) -> Totals:
    if row is None or row["calls"] is None:  # a sum of nothing is null
        return Totals()
    # Whole numbers of Python: decimals would be rounded to 28 digits as soon as two are added.
    return Totals(*(int(row[name]) for name in Totals.__slots__))
