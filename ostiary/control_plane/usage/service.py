"""The rules of usage: which days, and whose."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from ostiary.control_plane.accounts import Accounts
from ostiary.control_plane.db import Connection
from ostiary.control_plane.usage import store
from ostiary.control_plane.usage.model import (
    DaysQuery,
    QuotaEvents,
    ShadowLimits,
    UsageDay,
    UsageDays,
    UsageQuery,
    UsageSummary,
)
from ostiary.control_plane.usage.store import DayTotals


class Usage:
    """Every method works on the caller's transaction and raises Problem for what it refuses."""

    def __init__(self, *, accounts: Accounts) -> None:
        self._accounts = accounts

    async def daily(self, connection: Connection, query: UsageQuery) -> UsageDays:
        return _days(await self._totals(connection, query))

    async def daily_of_app(self, connection: Connection, app_id: str, query: DaysQuery) -> UsageDays:
        """An app without calls has days of zero; one that does not exist is refused."""
        await self._accounts.app(connection, app_id)
        return _days(await self._totals(connection, UsageQuery(days=query.days, app_id=app_id)))

    async def summary(self, connection: Connection, query: UsageQuery) -> UsageSummary:
        totals = await self._totals(connection, query)
        calls = sum(day.calls for day in totals)
        return UsageSummary(
            first_day=totals[0].day,
            last_day=totals[-1].day,
            calls=calls,
            errors=sum(day.errors for day in totals),
            avg_latency_ms=_average_ms(sum(day.latency_us for day in totals), calls),
        )

    async def shadow(self, connection: Connection, query: UsageQuery) -> ShadowLimits:
        limits = tuple(await store.shadow_limits(connection, last_day=datetime.now(UTC).date(), query=query))
        return ShadowLimits(data=limits, next_cursor=None, total=len(limits))

    async def quotas(self, connection: Connection, query: UsageQuery) -> QuotaEvents:
        events = tuple(await store.quota_events(connection, last_day=datetime.now(UTC).date(), query=query))
        return QuotaEvents(data=events, next_cursor=None, total=len(events))

    async def _totals(self, connection: Connection, query: UsageQuery) -> Sequence[DayTotals]:
        return await store.day_totals(connection, last_day=datetime.now(UTC).date(), query=query)


def _days(totals: Sequence[DayTotals]) -> UsageDays:
    days = tuple(
        UsageDay(day=day.day, calls=day.calls, errors=day.errors, avg_latency_ms=_average_ms(day.latency_us, day.calls))
        for day in totals
    )
    return UsageDays(data=days, next_cursor=None, total=len(days))


def _average_ms(latency_us: int, calls: int) -> float | None:
    return round(latency_us / calls / 1000, 3) if calls else None
