"""The rules of usage: which span, whose calls, and which roll-ups answer for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, TypeVar

from ostiary.control_plane.accounts import Accounts
from ostiary.control_plane.db import Connection
from ostiary.control_plane.http import Position, Problem, cut, invalid
from ostiary.control_plane.http.paging import encode
from ostiary.control_plane.usage import calls, store
from ostiary.control_plane.usage.histogram import calls_by_place, quantile_ms
from ostiary.control_plane.usage.model import (
    GROUPS_MAX,
    CallFilter,
    DailyQuery,
    DaysQuery,
    EndpointUsage,
    EndpointUsages,
    ErrorUsage,
    ErrorUsages,
    GroupsQuery,
    KeyOverage,
    KeyOverages,
    LoggedCalls,
    LogsQuery,
    OverageQuery,
    QuotaEvents,
    QuotaEventsQuery,
    ShadowLimits,
    ShadowQuery,
    SpanQuery,
    SummaryQuery,
    UsageDay,
    UsageDays,
    UsageInterval,
    UsageQuery,
    UsageSummary,
)
from ostiary.control_plane.usage.parts import Granularity, NotKept, Part, ceil, divide, floor
from ostiary.control_plane.usage.store import Totals

DAYS_DEFAULT = 30
INTERVALS_MAX = 1500  # a day of minutes, two months of hours
LOG_SPAN_DEFAULT = timedelta(hours=24)

_GRANULARITIES = {each.name.lower(): each for each in Granularity}
_KIND = {Granularity.MINUTE: "minutes", Granularity.HOUR: "hours", Granularity.DAY: "days"}
FilterT = TypeVar("FilterT", bound=CallFilter)


@dataclass(frozen=True, slots=True)
class _Span:
    """What was asked for, and the parts that answer for it."""

    since: datetime
    until: datetime
    parts: Sequence[Part]


class Usage:
    """Every method works on the caller's transaction and raises Problem for what it refuses."""

    def __init__(self, *, accounts: Accounts) -> None:
        self._accounts = accounts

    async def daily(self, connection: Connection, query: DailyQuery) -> UsageDays:
        query = await _with_app(connection, query)
        coarsest = _coarsest(query)
        span = await _span(connection, query, coarsest=coarsest, by=Granularity.DAY)
        found = await store.by_interval(connection, span.parts, query, Granularity.DAY)
        days = tuple(
            UsageDay(day=start.date(), **_figures(found.get(start, Totals())))
            for start in _starts(span, Granularity.DAY)
        )
        return UsageDays(data=days, next_cursor=None, total=len(days))

    async def daily_of_app(self, connection: Connection, app_id: str, query: DaysQuery) -> UsageDays:
        """An app without calls has days of zero; one that does not exist is refused."""
        await self._accounts.app(connection, app_id)
        return await self.daily(connection, DailyQuery(days=query.days, app_id=app_id).seen_by(None))

    async def summary(self, connection: Connection, query: SummaryQuery) -> UsageSummary:
        query = await _with_app(connection, query)
        granularity = Granularity.DAY if query.interval is None else _GRANULARITIES[query.interval]
        coarsest = min(_coarsest(query), granularity, key=lambda each: each.value)
        by = None if query.interval is None else granularity
        span = await _span(connection, query, coarsest=coarsest, by=by)
        totals = await store.totals(connection, span.parts, query)
        intervals = None
        if query.interval is not None:
            found = await store.by_interval(connection, span.parts, query, granularity)
            intervals = tuple(
                UsageInterval(start=start, **_figures(found.get(start, Totals())))
                for start in _starts(span, granularity)
            )
        return UsageSummary(since=span.since, until=span.until, intervals=intervals, **_figures(totals))

    async def endpoints(self, connection: Connection, query: GroupsQuery) -> EndpointUsages:
        query = await _with_app(connection, query)
        span = await _span(connection, query, coarsest=_coarsest(query))
        found, total = await store.by_endpoint(connection, span.parts, query, limit=query.limit)
        data = tuple(EndpointUsage(route=route, method=method, **_figures(totals)) for route, method, totals in found)
        return EndpointUsages(data=data, next_cursor=None, total=total)

    async def errors(self, connection: Connection, query: GroupsQuery) -> ErrorUsages:
        """Exact statuses, so from hours and minutes alone."""
        if query.status is not None and query.status[0] < "4":
            raise invalid("status", "must be an error here: from 400 on, 4xx or 5xx")
        query = await _with_app(connection, query)
        span = await _span(connection, query, coarsest=Granularity.HOUR)
        found, total = await store.by_error(connection, span.parts, query, limit=query.limit)
        data = tuple(
            ErrorUsage(
                route=row["route"],
                method=row["method"],
                status=row["status"],
                calls=row["calls"],
                share=round(row["calls"] / row["of"], 6),
            )
            for row in found
        )
        return ErrorUsages(data=data, next_cursor=None, total=total)

    async def overage(self, connection: Connection, query: OverageQuery) -> KeyOverages:
        query = await _with_app(connection, query)
        span = await _span(connection, query, coarsest=_coarsest(query))
        after = "" if query.cursor is None else query.cursor.id
        rows, total = await store.overages(connection, span.parts, query, after=after, limit=query.limit + 1)
        data, next_cursor = cut(
            [KeyOverage(**{name: row[name] for name in KeyOverage.model_fields}) for row in rows], query.limit
        )
        return KeyOverages(data=data, next_cursor=next_cursor, total=total)

    async def shadow(self, connection: Connection, query: ShadowQuery) -> ShadowLimits:
        """From single calls: of a time from which there are none any more, it would say that no limit had refused any."""
        query = await _while_calls_are_kept(connection, await _with_app(connection, query))
        span = await _span(connection, query, coarsest=_coarsest(query))
        data, total = await store.shadow_limits(
            connection,
            span.parts,
            query,
            since=span.since,
            until=span.until,
            by_key=query.by == "key",
            limit=GROUPS_MAX,
        )
        return ShadowLimits(data=tuple(data), next_cursor=None, total=total)

    async def quota_events(self, connection: Connection, query: QuotaEventsQuery) -> QuotaEvents:
        since, until = _asked(query)
        data, total = await store.quota_events(connection, query, since=since, until=until, limit=GROUPS_MAX)
        return QuotaEvents(data=tuple(data), next_cursor=None, total=total)

    async def logs(self, connection: Connection, query: LogsQuery) -> LoggedCalls:
        query = await _with_app(connection, query)
        until = query.until or ceil(datetime.now(UTC), Granularity.MINUTE)
        since = query.since or until - LOG_SPAN_DEFAULT
        if since >= until:
            raise invalid("since", "must be before until")
        kept = await store.kept_from(connection)
        minutes_from = datetime.combine(kept.get(Granularity.MINUTE, date.min), time(), UTC)
        found = await calls.page(
            connection,
            query,
            since=since,
            until=until,
            after=query.cursor,
            limit=query.limit + 1,
            minutes_from=minutes_from,
        )
        # Calls that the cursor can't tell apart stay on one page, which is longer then.
        ties = [
            each.created_at == found[query.limit - 1].created_at and each.id == found[query.limit - 1].id
            for each in found[query.limit :]
        ]
        data, next_cursor = cut(found, query.limit + sum(ties))
        if data and len(found) > query.limit:
            next_cursor = next_cursor or encode(Position(data[-1].created_at, data[-1].id))
        total = 0
        if query.cursor is None or query.format == "json":
            parts = _divided(since, until, coarsest=_coarsest(query), kept=kept)
            total = await store.count(connection, parts, query)
        return LoggedCalls(data=data, next_cursor=next_cursor, total=total)


async def _with_app(connection: Connection, query: FilterT) -> FilterT:
    """A key belongs to one app, for ever: with it, the indexes that begin with the app can be used."""
    if query.key_id is None or query.app_id is not None:
        return query
    app_id = await store.app_of_key(connection, query.key_id)
    return query if app_id is None else query.model_copy(update={"app_id": app_id})


async def _while_calls_are_kept(connection: Connection, query: ShadowQuery) -> ShadowQuery:
    """Not further back than single calls are kept. Raises Problem for a time before that, if it was asked for."""
    kept_from = await store.calls_kept_from(connection)
    since, until = _asked(query)
    if kept_from is None or since >= (first := datetime.combine(kept_from, time(), UTC)):
        return query
    if query.days is None and query.since is None:
        return query.model_copy(update={"since": first, "until": until})
    name = "since" if query.days is None else "days"
    raise invalid(name, f"single calls are kept from {kept_from} on; ask for less time")


def _coarsest(query: CallFilter) -> Granularity:
    """Roll-ups by day know the class of a status alone."""
    exact = query.status is not None and not query.status.endswith("xx")
    return Granularity.HOUR if exact else Granularity.DAY


async def _span(
    connection: Connection, query: UsageQuery, *, coarsest: Granularity, by: Granularity | None = None
) -> _Span:
    """Raises Problem. `by` says that it is told in intervals, whose number is bounded."""
    since, until = _asked(query)
    if by is not None:
        since, until = floor(since, by), ceil(until, by)
        if (until - since) // by.value > INTERVALS_MAX:
            name = "interval" if isinstance(query, SummaryQuery) else "since"
            raise invalid(
                name, f"these would be more than {INTERVALS_MAX} intervals; ask for longer ones or for less time"
            )
    parts = _divided(since, until, coarsest=coarsest, kept=await store.kept_from(connection))
    if parts:
        since, until = parts[0].since, parts[-1].until
    return _Span(since, until, parts)


def _asked(query: SpanQuery) -> tuple[datetime, datetime]:
    now = datetime.now(UTC)
    if query.since is None and query.until is None:
        tomorrow = datetime.combine(now.date() + timedelta(days=1), time(), UTC)
        return tomorrow - timedelta(days=query.days or DAYS_DEFAULT), tomorrow
    if query.days is not None:
        raise invalid("days", "give days, or since and until, not both")
    if query.since is None:
        raise invalid("since", "is required where until is given")
    until = query.until or now
    if query.since >= until:
        raise invalid("since", "must be before until")
    return query.since, until


def _divided(
    since: datetime, until: datetime, *, coarsest: Granularity, kept: Mapping[Granularity, date]
) -> tuple[Part, ...]:
    try:
        return divide(since, until, coarsest=coarsest, kept_from=kept)
    except NotKept as error:
        raise _not_kept(error) from error


def _not_kept(error: NotKept) -> Problem:
    kind = _KIND[error.granularity]
    return invalid("since", f"{kind} are kept from {error.kept_from} on; ask for a later time, or for days")


def _starts(span: _Span, granularity: Granularity) -> Sequence[datetime]:
    count = (ceil(span.until, granularity) - floor(span.since, granularity)) // granularity.value
    return [floor(span.since, granularity) + number * granularity.value for number in range(count)]


def _figures(totals: Totals) -> dict[str, Any]:
    places = calls_by_place(totals.histogram)
    return {
        "calls": totals.calls,
        "errors": totals.errors,
        "incomplete": totals.incomplete,
        "overage": totals.overage,
        "bytes_in": totals.bytes_in,
        "bytes_out": totals.bytes_out,
        "avg_latency_ms": _average_ms(totals.latency_us, totals.calls),
        "avg_upstream_ms": _average_ms(totals.upstream_us, totals.calls),
        "p50_latency_ms": quantile_ms(places, 0.5),
        "p95_latency_ms": quantile_ms(places, 0.95),
        "p99_latency_ms": quantile_ms(places, 0.99),
    }


def _average_ms(microseconds: int, count: int) -> float | None:
    return round(microseconds / count / 1000, 3) if count else None
