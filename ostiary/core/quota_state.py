"""Quotas as they stand in Redis, read back; and what a quota of a plan is called. lua/decide.lua writes the states and
describes them; keyspace has their names."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final, NamedTuple

from ostiary.core.limiting import CalendarQuota
from ostiary.core.model import LimitMode, Plan, Quota

_WINDOW_NAMES: Final = {1: "second", 60: "minute", 3600: "hour", 86_400: "day"}
# How many numbers a limit keeps, by the first letter of its name in the layout.
_NUMBERS: Final = {"b": 2, "w": 5, "q": 2}
_COUNT = struct.Struct("<dd")


class Counted(NamedTuple):
    """`calls` were taken of a quota in the period that ends at `ends_us` (microseconds since 1970)."""

    calls: int
    ends_us: int


def quotas_of_state(state: bytes) -> Mapping[str, Counted]:
    """The quotas of a state by their identity (`CalendarQuota.identity`). Raises ValueError for what is no state."""
    layout, bar, numbers = state.partition(b"|")
    if not bar:
        raise ValueError("not the state of limits")
    found: dict[str, Counted] = {}
    at = 0
    for name in layout.decode("ascii").split(";")[:-1]:
        count = _NUMBERS.get(name[:1])
        if count is None:
            raise ValueError("not the state of limits")
        if name.startswith("q"):
            try:
                calls, ends_us = _COUNT.unpack_from(numbers, at)
                found[name] = Counted(int(calls), int(ends_us))
            except (struct.error, OverflowError) as error:
                raise ValueError("not the state of limits") from error
        at += 8 * count
    return found


def counted(state: Mapping[str, Counted], limit: CalendarQuota) -> Counted | None:
    """What a state says of a quota, as the script would read it: what goes into shadow, or comes out of it, keeps its count.
    None if nothing was counted yet."""
    return state.get(limit.identity) or state.get(limit.measure) or state.get(f"{limit.measure}s")


def quota_name(plan: Plan, quota: Quota) -> str:
    """As quota events name it: `standard:day` of a plan, `key:day` of a key without one; `-quota` behind it where another
    limit of the plan has that name before it."""
    period = quota.period.value
    taken = {_WINDOW_NAMES.get(each.window_seconds) for each in plan.windows if each.mode is LimitMode.ENFORCE}
    if quota.mode is LimitMode.SHADOW:
        taken |= {each.period.value for each in plan.quotas if each.mode is LimitMode.ENFORCE}
    return f"{plan.name or 'key'}:{period}" + ("-quota" if period in taken else "")


def route_quota_name(route: str, measure: str, quota: Quota) -> str:
    """As quota events name it: `clients/day-quota-by-key`."""
    return f"{route}/{quota.period.value}-quota-by-{measure}"
