"""The operations on usage."""

from __future__ import annotations

from ostiary.control_plane.accounts.model import AppPath
from ostiary.control_plane.http import AnyOperation, Call, NoBody, NoParameters, read
from ostiary.control_plane.usage.model import (
    DaysQuery,
    QuotaEvents,
    ShadowLimits,
    UsageDays,
    UsageQuery,
    UsageSummary,
)
from ostiary.control_plane.usage.service import Usage


def operations(usage: Usage) -> tuple[AnyOperation, ...]:
    async def daily(call: Call[NoParameters, UsageQuery, NoBody]) -> UsageDays:
        return await usage.daily(call.connection, call.query)

    async def summary(call: Call[NoParameters, UsageQuery, NoBody]) -> UsageSummary:
        return await usage.summary(call.connection, call.query)

    async def shadow(call: Call[NoParameters, UsageQuery, NoBody]) -> ShadowLimits:
        return await usage.shadow(call.connection, call.query)

    async def quotas(call: Call[NoParameters, UsageQuery, NoBody]) -> QuotaEvents:
        return await usage.quotas(call.connection, call.query)

    async def daily_of_app(call: Call[AppPath, DaysQuery, NoBody]) -> UsageDays:
        return await usage.daily_of_app(call.connection, call.path.app_id, call.query)

    return (
        read(
            "usageDaily",
            "/usage/daily",
            tag="usage",
            summary="Calls, errors and average latency of each day (UTC), the oldest first.",
            handler=daily,
            query_model=UsageQuery,
            answer=UsageDays,
        ),
        read(
            "usageSummary",
            "/usage/summary",
            tag="usage",
            summary="Calls, errors and average latency of all the days together.",
            handler=summary,
            query_model=UsageQuery,
            answer=UsageSummary,
        ),
        read(
            "usageShadow",
            "/usage/shadow",
            tag="usage",
            summary="Calls that limits in shadow would have refused, by route and limit.",
            handler=shadow,
            query_model=UsageQuery,
            answer=ShadowLimits,
        ),
        read(
            "usageQuotas",
            "/usage/quotas",
            tag="usage",
            summary="Who reached 50, 80, 90 and 100 % of a quota, and when.",
            handler=quotas,
            query_model=UsageQuery,
            answer=QuotaEvents,
        ),
        read(
            "usageOfApp",
            "/apps/{app_id}/usage",
            tag="usage",
            summary="Calls, errors and average latency of an app, day by day (UTC).",
            handler=daily_of_app,
            path_model=AppPath,
            query_model=DaysQuery,
            answer=UsageDays,
        ),
    )
