"""All SQL about single calls: pages of the log, newest first.

`usage_events` has one index that is in order of time, by app; others would cost every call more than they give. So the
roll-ups say first in which minutes there are as many calls as the page takes, and only those are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from asyncpg import Record

from ostiary.control_plane.db import Connection
from ostiary.control_plane.http import Position
from ostiary.control_plane.usage.model import CallFilter, LoggedCall
from ostiary.control_plane.usage.parts import Granularity, ceil, floor
from ostiary.control_plane.usage.store import Arguments, conditions, status_in, table_of, within

# How far back is looked at first, and how much further each time that there was too little: what has many calls is found in
# its last minutes, whatever is kept; what has few costs at most twice the whole.
_FIRST_SPAN = timedelta(minutes=10)
_WIDER = 8
# How much more than its even share of time is read of the last minute or hour: calls come unevenly.
_MARGIN = 2.0
_MICROSECOND = timedelta(microseconds=1)


async def page(
    connection: Connection,
    asked: CallFilter,
    *,
    since: datetime,
    until: datetime,
    after: Position | None,
    limit: int,
    minutes_from: datetime,
) -> Sequence[LoggedCall]:
    """The `limit` newest calls of the span after a position; more, if the last ones have one time and one request id, for a
    page must not end between two that its cursor can't tell apart. `minutes_from` is from when on roll-ups by minute are
    complete."""
    end = until if after is None else min(until, after.created_at + _MICROSECOND)
    begin = await _begin(connection, asked, since=since, until=end, calls=limit, minutes_from=minutes_from)
    if begin is None:
        return ()
    rows: Sequence[Record] = ()
    for first in (begin.likely, begin.certain):
        statement, arguments = page_statement(asked, since=max(since, first), until=end, after=after, limit=limit)
        rows = await connection.fetch(statement, *arguments)
        if len(rows) >= limit or begin.likely <= begin.certain:
            break
    return [_call(row) for row in rows]


def page_statement(
    asked: CallFilter, *, since: datetime, until: datetime, after: Position | None, limit: int
) -> tuple[str, list[object]]:
    """The statement of a page, and its arguments."""
    arguments = Arguments()
    span = f"occurred_at >= {arguments.add(since)} AND occurred_at < {arguments.add(until)}"
    position = ""
    if after is not None:
        position = f" AND (occurred_at, request_id) < ({arguments.add(after.created_at)}, {arguments.add(after.id)})"
    statement = f"""
        -- Guarantees the next calls in one total order (time, then request id), none left out; the bounds of time leave all
        -- but the partitions of their days aside.
        SELECT * FROM usage_events WHERE {span}{position}{conditions(asked, arguments)}
        ORDER BY occurred_at DESC, request_id DESC FETCH FIRST {arguments.add(limit)} ROWS WITH TIES
    """  # noqa: S608  names of columns, written above; values are parameters
    return statement, arguments.values


@dataclass(frozen=True, slots=True)
class _Begin:
    """From when on there are enough calls: for certain; and likely, if those of its last minute or hour came evenly. A busy
    hour is a hundred times as much to read as its last half minute."""

    certain: datetime
    likely: datetime


async def _begin(
    connection: Connection,
    asked: CallFilter,
    *,
    since: datetime,
    until: datetime,
    calls: int,
    minutes_from: datetime,
) -> _Begin | None:
    """From when on there are `calls` calls before `until`, or all there are; None if there is none."""
    found, span, low = 0, _FIRST_SPAN, ceil(until, Granularity.MINUTE)
    earliest: datetime | None = None
    while low > since:
        high, target = low, max(low - span, since)
        granularity = Granularity.MINUTE if target >= minutes_from else Granularity.HOUR
        low = floor(target, granularity)
        table, column = table_of(granularity, asked)
        arguments = Arguments()
        first, end = (f"{arguments.add(moment)}::timestamptz" for moment in (low, high))
        bounds = within(table, column, first, end, asked)
        filters = conditions(asked, arguments, status=status_in(granularity, low, high))
        rows = await connection.fetch(
            f"""
            -- Guarantees the newest minutes or hours that have such calls, each with how many.
            SELECT {column} AS start, sum(calls)::bigint AS calls FROM {table} WHERE {bounds}{filters}
            GROUP BY 1 ORDER BY 1 DESC LIMIT {arguments.add(calls + 1)}
            """,  # noqa: S608  as above
            *arguments.values,
        )
        for number, row in enumerate(rows):
            earliest = row["start"]
            # The first minute of all may lie half after `until`, and an hour at the border may have been counted by the
            # minute: they are taken for nothing.
            if number == 0 and (earliest + granularity.value > until or high != ceil(high, granularity)):
                continue
            if found + row["calls"] >= calls:
                share = min(1.0, _MARGIN * (calls - found) / row["calls"])
                return _Begin(earliest, earliest + granularity.value * (1 - share))
            found += row["calls"]
        span *= _WIDER
    return None if earliest is None else _Begin(earliest, earliest)


def _call(row: Record) -> LoggedCall:
    upstream_us, address, digest = row["upstream_us"], row["ip"], row["ip_hash"]
    return LoggedCall(
        occurred_at=row["occurred_at"],
        request_id=row["request_id"],
        organization_id=_text(row["organization_id"]),
        app_id=_text(row["app_id"]),
        key_id=row["key_id"],
        key_generation=row["key_generation"],
        environment=row["environment"],
        route=row["route"],
        method=row["method"],
        path_template=row["path_template"],
        status=row["status"],
        latency_ms=_milliseconds(row["latency_us"]),
        upstream_ms=None if upstream_us is None else _milliseconds(upstream_us),
        bytes_in=row["bytes_in"],
        bytes_out=row["bytes_out"],
        ip=_text(address),
        ip_hash=None if digest is None else digest.hex(),
        country=row["country"],
        user_agent=row["user_agent"],
        overage=row["overage"],
        complete=row["complete"],
        would_refuse=tuple(row["would_refuse"].split(",")) if row["would_refuse"] else (),
    )


def _text(value: object | None) -> str | None:
    return None if value is None else str(value)


def _milliseconds(microseconds: int) -> float:
    return float(Decimal(microseconds) / 1000)
