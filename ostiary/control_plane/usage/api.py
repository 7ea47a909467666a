"""The operations on usage."""

from __future__ import annotations

from ostiary.control_plane.accounts.model import AppPath
from ostiary.control_plane.http import AnyOperation, Call, NoBody, NoParameters, ProblemCode, read
from ostiary.control_plane.usage.model import (
    DailyQuery,
    DaysQuery,
    EndpointUsage,
    EndpointUsages,
    ErrorUsage,
    ErrorUsages,
    GroupsQuery,
    KeyOverage,
    KeyOverages,
    LoggedCall,
    LoggedCalls,
    LogsQuery,
    OverageQuery,
    QuotaEvent,
    QuotaEvents,
    QuotaEventsQuery,
    QuotaInForce,
    QuotasInForce,
    QuotasQuery,
    ShadowLimit,
    ShadowLimits,
    ShadowQuery,
    SummaryQuery,
    UsageDay,
    UsageDays,
    UsageSummary,
)
from ostiary.control_plane.usage.quotas import Quotas
from ostiary.control_plane.usage.service import Usage


def operations(usage: Usage, quotas: Quotas) -> tuple[AnyOperation, ...]:
    async def daily(call: Call[NoParameters, DailyQuery, NoBody]) -> UsageDays:
        return await usage.daily(call.connection, call.query.seen_by(call.caller.actor.organizations))

    async def summary(call: Call[NoParameters, SummaryQuery, NoBody]) -> UsageSummary:
        return await usage.summary(call.connection, call.query.seen_by(call.caller.actor.organizations))

    async def endpoints(call: Call[NoParameters, GroupsQuery, NoBody]) -> EndpointUsages:
        return await usage.endpoints(call.connection, call.query.seen_by(call.caller.actor.organizations))

    async def errors(call: Call[NoParameters, GroupsQuery, NoBody]) -> ErrorUsages:
        return await usage.errors(call.connection, call.query.seen_by(call.caller.actor.organizations))

    async def overage(call: Call[NoParameters, OverageQuery, NoBody]) -> KeyOverages:
        return await usage.overage(call.connection, call.query.seen_by(call.caller.actor.organizations))

    async def shadow(call: Call[NoParameters, ShadowQuery, NoBody]) -> ShadowLimits:
        return await usage.shadow(call.connection, call.query.seen_by(call.caller.actor.organizations))

    async def quotas_in_force(call: Call[NoParameters, QuotasQuery, NoBody]) -> QuotasInForce:
        return await quotas.in_force(call.connection, call.query.seen_by(call.caller.actor.organizations))

    async def quota_events(call: Call[NoParameters, QuotaEventsQuery, NoBody]) -> QuotaEvents:
        return await usage.quota_events(call.connection, call.query.seen_by(call.caller.actor.organizations))

    async def logs(call: Call[NoParameters, LogsQuery, NoBody]) -> LoggedCalls:
        return await usage.logs(call.connection, call.query.seen_by(call.caller.actor.organizations))

    async def daily_of_app(call: Call[AppPath, DaysQuery, NoBody]) -> UsageDays:
        return await usage.daily_of_app(call.connection, call.path.app_id, call.query)

    return (
        read(
            "usageSummary",
            "/usage/summary",
            tag="usage",
            summary="Calls, errors, bytes, overage and latency of a span of time; by minute, hour or day as well.",
            handler=summary,
            query_model=SummaryQuery,
            answer=UsageSummary,
        ),
        read(
            "usageDaily",
            "/usage/daily",
            tag="usage",
            summary="The same of each day (UTC), the oldest first.",
            handler=daily,
            query_model=DailyQuery,
            answer=UsageDays,
            csv=UsageDay,
        ),
        read(
            "usageEndpoints",
            "/usage/endpoints",
            tag="usage",
            summary="The same of each route and method, the most called first.",
            handler=endpoints,
            query_model=GroupsQuery,
            answer=EndpointUsages,
            csv=EndpointUsage,
        ),
        read(
            "usageErrors",
            "/usage/errors",
            tag="usage",
            summary="How often which error, by route and method, the most frequent first.",
            handler=errors,
            query_model=GroupsQuery,
            answer=ErrorUsages,
            csv=ErrorUsage,
        ),
        read(
            "usageOverage",
            "/usage/overage",
            tag="usage",
            summary="Keys with calls past their quota, and how many: for the bill.",
            handler=overage,
            query_model=OverageQuery,
            answer=KeyOverages,
            csv=KeyOverage,
        ),
        read(
            "usageShadow",
            "/usage/shadow",
            tag="usage",
            summary="Calls that limits in shadow would have refused, by route and limit.",
            handler=shadow,
            query_model=ShadowQuery,
            answer=ShadowLimits,
            csv=ShadowLimit,
        ),
        read(
            "usageQuotas",
            "/usage/quotas",
            tag="usage",
            summary="What is used and left of each quota that holds for an organization, an app or a key, and until when.",
            handler=quotas_in_force,
            query_model=QuotasQuery,
            answer=QuotasInForce,
            csv=QuotaInForce,
            refusals=(ProblemCode.CONFLICT,),
        ),
        read(
            "usageQuotaEvents",
            "/usage/quota-events",
            tag="usage",
            summary="Who reached 50, 80, 90 and 100 % of a quota, and when.",
            handler=quota_events,
            query_model=QuotaEventsQuery,
            answer=QuotaEvents,
            csv=QuotaEvent,
        ),
        read(
            "usageLogs",
            "/usage/logs",
            tag="usage",
            summary="Single calls, the newest first.",
            handler=logs,
            query_model=LogsQuery,
            answer=LoggedCalls,
            csv=LoggedCall,
        ),
        read(
            "usageOfApp",
            "/apps/{app_id}/usage",
            tag="usage",
            summary="Calls, errors, bytes, overage and latency of an app, day by day (UTC).",
            handler=daily_of_app,
            path_model=AppPath,
            query_model=DaysQuery,
            answer=UsageDays,
        ),
    )
