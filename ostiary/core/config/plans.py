"""The section `plans`: what a caller may use."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from ostiary.core.config.fields import Field, ListOf, MapOf, Record, Values, defaulted, optional, required
from ostiary.core.config.kinds import Choice, Integer, TextKind
from ostiary.core.config.reading import Refused
from ostiary.core.model import LimitBy, Overage, Period, Plan, Quota, Rate, RouteLimit, Window


class Span(StrEnum):
    """The spans of rates and sliding windows. A month is none: its length differs."""

    SECOND = "second"
    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"

    @property
    def seconds(self) -> int:
        return {"second": 1, "minute": 60, "hour": 3600, "day": 86400}[self.value]


# Far above any limit in use, far below 2^53, up to which Redis's Lua counts exactly.
_COUNT_MAX: Final = 10**12

_REQUESTS = required("requests", Integer(1, _COUNT_MAX), "How many calls.")
_PER = required("per", Choice(Span), "The span.")
_BURST = optional("burst", Integer(1, _COUNT_MAX), "How many calls at once; as many as `requests` if not given.")

RATE: Record[Rate] = Record(
    "Rate",
    "A token bucket: `burst` calls at once, refilled with `requests` in every span.",
    (_REQUESTS, _PER, _BURST),
    lambda values: Rate(
        requests=values[_REQUESTS],
        per_seconds=values[_PER].seconds,
        burst=values[_BURST] or values[_REQUESTS],
    ),
)
WINDOW: Record[Window] = Record(
    "Limit",
    "A sliding window: no span of this length ever holds more than `requests` calls.",
    (_REQUESTS, _PER),
    lambda values: Window(requests=values[_REQUESTS], window_seconds=values[_PER].seconds),
)

_PERIOD = required("per", Choice(Period), "The calendar period, in UTC.")
QUOTA: Record[Quota] = Record(
    "Quota",
    "At most `requests` calls in a calendar period, UTC.",
    (_REQUESTS, _PERIOD),
    lambda values: Quota(requests=values[_REQUESTS], period=values[_PERIOD]),
)

_BY = required("by", Choice(LimitBy), "Whose calls are counted together.")
ROUTE_LIMIT: Record[RouteLimit] = Record(
    "Route limit",
    "A sliding window of this route, besides the plan of the key.",
    (_REQUESTS, _PER, _BY),
    lambda values: RouteLimit(requests=values[_REQUESTS], window_seconds=values[_PER].seconds, by=values[_BY]),
)

_RATE = optional("rate", RATE, "A token bucket.")
_LIMITS = defaulted("limits", ListOf(WINDOW, high=len(Span)), "Sliding windows, one for each span at most.", [])
_QUOTAS = defaulted("quotas", ListOf(QUOTA, high=len(Period)), "Quotas, one for each period at most.", [])
_CONCURRENCY = optional("concurrency", Integer(1, 1_000_000), "Most calls under way at once; no bound if not given.")
_OVERAGE = defaulted(
    "overage", Choice(Overage), "Past a quota: refuse (429), allow and flag, or allow and meter as overage.", "block"
)


def problems_of_twins(
    values: Values,
    limits: Field[tuple[Window, ...]] | Field[tuple[Window, ...] | None],
    quotas: Field[tuple[Quota, ...]] | Field[tuple[Quota, ...] | None],
) -> None:
    """Notes two limits of one span, and two quotas of one period."""
    windows, calendar = values[limits] or (), values[quotas] or ()
    if len({window.window_seconds for window in windows}) < len(windows):
        values.problem(limits, "two limits have the same span", "leave the smaller one: both would have to hold")
    if len({quota.period for quota in calendar}) < len(calendar):
        values.problem(quotas, "two quotas have the same period", "leave the smaller one: both would have to hold")


def _plan(values: Values) -> Plan | Refused:
    windows, quotas = values[_LIMITS], values[_QUOTAS]
    problems_of_twins(values, _LIMITS, _QUOTAS)
    if values.given(_OVERAGE) and not values.given(_QUOTAS):
        values.problem(_OVERAGE, "says what happens past a quota, and there is none", "add quotas, or remove it")
    return Plan(
        name=values.place.name,
        rate=values[_RATE],
        windows=windows,
        quotas=quotas,
        concurrency=values[_CONCURRENCY],
        overage=values[_OVERAGE],
    )


PLAN: Record[Plan] = Record(
    "Plan",
    "What a caller may use. Every part is optional, and all that are given must hold.",
    (_RATE, _LIMITS, _QUOTAS, _CONCURRENCY, _OVERAGE),
    _plan,
)

NAME = TextKind(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", "a name of up to 64 letters, digits, `_`, `.` and `-`")
PLANS = MapOf(NAME, PLAN, high=10_000, defines="plan")
