"""The section `plans`: what a caller may use."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

from ostiary.core.config.document import node_of
from ostiary.core.config.fields import Field, ListOf, MapOf, Record, Values, defaulted, optional, required
from ostiary.core.config.kinds import Choice, Integer, TextKind
from ostiary.core.config.reading import Place, Reading, Refused, Source
from ostiary.core.limiting import LimitOutOfRange, TokenBucket
from ostiary.core.model import (
    Counting,
    LimitBy,
    LimitMode,
    Overage,
    Period,
    Plan,
    Quota,
    Rate,
    RefusedCalls,
    Window,
)
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
COUNT_MAX: Final = 10**12
CONCURRENCY_MAX: Final = 1_000_000

REQUESTS = required("requests", Integer(1, COUNT_MAX), "How many calls.")
PER = required("per", Choice(Span), "The span.")
BURST = optional("burst", Integer(1, COUNT_MAX), "How many calls at once; as many as `requests` if not given.")
MODE = defaulted(
    "mode",
    Choice(LimitMode),
    "Whether it refuses; `shadow` only tells which calls it would have refused.",
    "enforce",
)
REFUSED_CALLS = defaulted(
    "refused",
    Choice(RefusedCalls),
    "Whether calls that are refused, by this limit or another, take nothing of it or what an admitted one takes.",
    "free",
)
COUNTING = defaulted(
    "counting",
    Choice(Counting),
    "`exact`: each call is counted in Redis. `leased`: a worker takes a slice of what is left and counts by itself; the "
    "limit holds all the same.",
    "exact",
)


def check_leased(values: Values, limit: Rate | Window | Quota) -> None:
    """Notes a limit that is leased and can't be."""
    if limit.counting is Counting.LEASED and (why := why_not_leased(limit)) is not None:
        values.problem(COUNTING, *why)


def _rate(values: Values) -> Rate:
    requests, burst = values[REQUESTS], values[BURST] or values[REQUESTS]
    rate = Rate(requests, values[PER].seconds, burst, values[MODE], values[REFUSED_CALLS], values[COUNTING])
    check_leased(values, rate)
    return rate


def _window(values: Values) -> Window:
    window = Window(
        values[REQUESTS], values[PER].seconds, values[MODE], values[REFUSED_CALLS], counting=values[COUNTING]
    )
    check_leased(values, window)
    return window


def _quota(values: Values) -> Quota:
    quota = Quota(values[REQUESTS], values[PERIOD], values[MODE], values[REFUSED_CALLS], counting=values[COUNTING])
    check_leased(values, quota)
    return quota


RATE: Record[Rate] = Record(
    "Rate",
    "A token bucket: `burst` calls at once, refilled with `requests` in every span.",
    (REQUESTS, PER, BURST, MODE, REFUSED_CALLS, COUNTING),
    _rate,
)
WINDOW: Record[Window] = Record(
    "Limit",
    "A sliding window: no span of this length ever holds more than `requests` calls.",
    (REQUESTS, PER, MODE, REFUSED_CALLS, COUNTING),
    _window,
)

PERIOD = required("per", Choice(Period), "The calendar period, in UTC.")
QUOTA: Record[Quota] = Record(
    "Quota",
    "At most `requests` calls in a calendar period, UTC.",
    (REQUESTS, PERIOD, MODE, REFUSED_CALLS, COUNTING),
    _quota,
)

# One for each span or period, and one more in shadow.
WINDOWS_MAX: Final = 2 * len(Span)
QUOTAS_MAX: Final = 2 * len(Period)


class _Counted(StrEnum):
    """Whose use a plan counts."""

    KEY = "key"
    APP = "app"
    ORGANIZATION = "organization"


_RATE = optional("rate", RATE, "A token bucket.")
_LIMITS = defaulted("limits", ListOf(WINDOW, high=WINDOWS_MAX), "Sliding windows, one for each span at most.", [])
_QUOTAS = defaulted("quotas", ListOf(QUOTA, high=QUOTAS_MAX), "Quotas, one for each period at most.", [])
_CONCURRENCY = optional(
    "concurrency", Integer(1, CONCURRENCY_MAX), "Most calls under way at once; no bound if not given."
)
_CONCURRENCY_MODE = defaulted(
    "concurrency_mode", Choice(LimitMode), "Whether `concurrency` refuses, or only tells what it would have.", "enforce"
)
OVERAGE_SAYS: Final = "Past a quota: refuse (429), allow and flag, or allow and meter as overage."
_OVERAGE = defaulted("overage", Choice(Overage), OVERAGE_SAYS, "block")
_BY = defaulted(
    "by",
    Choice(_Counted),
    "Whose use it counts: that of each key, or of all keys of an app or an organization together.",
    "key",
)


def problems_of_twins(
    values: Values,
    limits: Field[tuple[Window, ...]] | Field[tuple[Window, ...] | None],
    quotas: Field[tuple[Quota, ...]] | Field[tuple[Quota, ...] | None],
) -> None:
    """Notes two limits of one span, and two quotas of one period, unless one of the two is in shadow."""
    windows, calendar = values[limits] or (), values[quotas] or ()
    if len({(window.window_seconds, window.mode) for window in windows}) < len(windows):
        values.problem(limits, "two limits have the same span", "leave the smaller one: both would have to hold")
    if len({(quota.period, quota.mode) for quota in calendar}) < len(calendar):
        values.problem(quotas, "two quotas have the same period", "leave the smaller one: both would have to hold")


def _check_leased_together(values: Values) -> None:
    """A call asks Redis for one exact limit as for all of them, so one among leased ones makes leasing those useless."""
    rate, concurrency = values[_RATE], values[_CONCURRENCY]
    parts: list[tuple[Field[Any], Rate | Window | Quota]] = [] if rate is None else [(_RATE, rate)]
    parts += [(_LIMITS, window) for window in values[_LIMITS]]
    parts += [(_QUOTAS, each) for each in values[_QUOTAS]]
    leased = [field for field, limit in parts if limit.counting is Counting.LEASED]
    exact = [field.name for field, limit in parts if limit.counting is Counting.EXACT]
    if leased and exact:
        values.problem(
            leased[0],
            f"is leased beside `{exact[0]}` that is not: each call would ask Redis all the same",
            "lease all limits of the plan, or none",
        )
    elif leased and concurrency is not None:
        values.problem(
            leased[0],
            "is leased beside concurrency, for which each call asks Redis all the same",
            "remove counting, or concurrency",
        )


def _check_exact(values: Values) -> None:
    """Gateways refuse what they can't count exactly: told here, where it is written."""
    try:
        if (rate := values[_RATE]) is not None:
            TokenBucket.of(rate)
    except LimitOutOfRange as error:
        values.problem(_RATE, str(error), "lower the burst, or refill it in a shorter span")


def _plan(values: Values) -> Plan | Refused:
    windows, quotas = values[_LIMITS], values[_QUOTAS]
    problems_of_twins(values, _LIMITS, _QUOTAS)
    if values.given(_OVERAGE) and not values.given(_QUOTAS):
        values.problem(_OVERAGE, "says what happens past a quota, and there is none", "add quotas, or remove it")
    if values[_OVERAGE] != Overage.BLOCK and any(quota.mode is LimitMode.SHADOW for quota in quotas):
        values.problem(
            _QUOTAS,
            f"a quota in shadow tells what it would have refused, and overage: {values[_OVERAGE]} refuses nothing",
            "remove the quota in shadow, or say overage: block",
        )
    if values.given(_CONCURRENCY_MODE) and not values.given(_CONCURRENCY):
        values.problem(_CONCURRENCY_MODE, "says how `concurrency` holds, and there is none", "add it, or remove this")
    _check_exact(values)
    _check_leased_together(values)
    return Plan(
        name=values.place.name,
        rate=values[_RATE],
        windows=windows,
        quotas=quotas,
        concurrency=values[_CONCURRENCY],
        overage=values[_OVERAGE],
        concurrency_mode=values[_CONCURRENCY_MODE],
        by=LimitBy(values[_BY].value),
    )


PLAN: Record[Plan] = Record(
    "Plan",
    "What a caller may use. Every part is optional, and all that are given must hold.",
    (_RATE, _LIMITS, _QUOTAS, _CONCURRENCY, _CONCURRENCY_MODE, _OVERAGE, _BY),
    _plan,
)

NAME = TextKind(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", "a name of up to 64 letters, digits, `_`, `.` and `-`")
PLANS = MapOf(NAME, PLAN, high=10_000, defines="plan")


def read_plan(name: str, document: Mapping[str, object]) -> Plan:
    """A plan by itself, as JSON, by the rules of the section. Raises ConfigurationError with all problems, whose paths are
    within the plan: `limits[0].per`."""
    reading = Reading(Source(f"plan {name}", {}, None))
    plan = PLAN.read(Place(node_of(document), "", name), reading)
    reading.refuse_if_problems()
    if isinstance(plan, Refused):
        raise AssertionError("the plan was refused without a problem")
    return plan
