"""The section `plans`: what a caller may use."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final

from ostiary.core.config.fields import Field, ListOf, MapOf, Record, Values, defaulted, optional, required
from ostiary.core.config.kinds import Choice, Integer, TextKind
from ostiary.core.config.reading import Refused
from ostiary.core.model import Counting, LimitBy, Overage, Period, Plan, Quota, Rate, RouteLimit, Window
from ostiary.core.slicing import why_not_leased


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
_COUNTING = defaulted(
    "counting",
    Choice(Counting),
    "`exact`: each call is counted in Redis. `leased`: a worker takes a slice of what is left and counts by itself; the "
    "limit holds all the same.",
    "exact",
)


def check_leased(values: Values, limit: Rate | Window | Quota) -> None:
    """Notes a limit that is leased and can't be."""
    if limit.counting is Counting.LEASED and (why := why_not_leased(limit)) is not None:
        values.problem(_COUNTING, *why)


def _rate(values: Values) -> Rate:
    rate = Rate(values[_REQUESTS], values[_PER].seconds, values[_BURST] or values[_REQUESTS], values[_COUNTING])
    check_leased(values, rate)
    return rate


def _window(values: Values) -> Window:
    window = Window(values[_REQUESTS], values[_PER].seconds, values[_COUNTING])
    check_leased(values, window)
    return window


RATE: Record[Rate] = Record(
    "Rate",
    "A token bucket: `burst` calls at once, refilled with `requests` in every span.",
    (_REQUESTS, _PER, _BURST, _COUNTING),
    _rate,
)
WINDOW: Record[Window] = Record(
    "Limit",
    "A sliding window: no span of this length ever holds more than `requests` calls.",
    (_REQUESTS, _PER, _COUNTING),
    _window,
)

_PERIOD = required("per", Choice(Period), "The calendar period, in UTC.")
QUOTA: Record[Quota] = Record(
    "Quota",
    "At most `requests` calls in a calendar period, UTC.",
    (_REQUESTS, _PERIOD, _COUNTING),
    lambda values: Quota(requests=values[_REQUESTS], period=values[_PERIOD], counting=values[_COUNTING]),
)

_BY = required("by", Choice(LimitBy), "Whose calls are counted together.")


def _route_limit(values: Values) -> RouteLimit:
    window = _window(values)
    return RouteLimit(window.requests, window.window_seconds, values[_BY], window.counting)


ROUTE_LIMIT: Record[RouteLimit] = Record(
    "Route limit",
    "A sliding window of this route, besides the plan of the key.",
    (_REQUESTS, _PER, _BY, _COUNTING),
    _route_limit,
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


def _check_leased_together(values: Values) -> None:
    """A call asks Redis for one exact limit as for all of them, so one among leased ones makes leasing those useless."""
    rate, concurrency = values[_RATE], values[_CONCURRENCY]
    parts: list[tuple[Field[Any], Rate | Window | Quota]] = [] if rate is None else [(_RATE, rate)]
    parts += [(_LIMITS, window) for window in values[_LIMITS]]
    parts += [(_QUOTAS, each) for each in values[_QUOTAS]]
    leased = [field for field, limit in parts if limit.counting is Counting.LEASED]
    exact = [field.name for field, limit in parts if limit.counting is Counting.EXACT]
    if leased and concurrency is not None:
        exact.append(_CONCURRENCY.name)
    if leased and exact:
        others = (
            "concurrency, which Redis counts call by call" if exact == ["concurrency"] else f"{exact[0]}, not leased"
        )
        values.problem(
            leased[0],
            f"is leased beside {others}: each call would ask Redis all the same",
            "lease all limits of the plan, or none"
            if others.endswith("not leased")
            else "remove counting, or concurrency",
        )


def _plan(values: Values) -> Plan | Refused:
    windows, quotas = values[_LIMITS], values[_QUOTAS]
    problems_of_twins(values, _LIMITS, _QUOTAS)
    if values.given(_OVERAGE) and not values.given(_QUOTAS):
        values.problem(_OVERAGE, "says what happens past a quota, and there is none", "add quotas, or remove it")
    _check_leased_together(values)
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
