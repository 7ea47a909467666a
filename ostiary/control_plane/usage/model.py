"""Usage as it goes out. Days are calendar days in UTC; durations are milliseconds."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated

from pydantic import Field

from ostiary.control_plane.http import Answer, Count, KeyId, Page, Parameters, Uuid

DAYS_MAX = 366

Days = Annotated[Count, Field(ge=1, le=DAYS_MAX, description="how many days, today included")]


class UsageDay(Answer):
    """One day, all its routes together. `errors` are answers of 400 and above; the average is null on a day without calls."""

    day: date
    calls: int
    errors: int
    avg_latency_ms: float | None


class UsageDays(Page[UsageDay]):
    """Every day asked for, the oldest first, days without calls included."""


class UsageSummary(Answer):
    """The same days as one number each. `first_day` and `last_day` belong to them."""

    first_day: date
    last_day: date
    calls: int
    errors: int
    avg_latency_ms: float | None


class ShadowLimit(Answer):
    """A limit in shadow that would have refused calls: of all calls of the route in these days, so many. `limit` as in
    `minute-by-ip` of the route, `standard:minute` of a plan, `key:minute` of a key without one."""

    route: str | None
    limit: str
    calls: int
    would_refuse: int


class ShadowLimits(Page[ShadowLimit]):
    """Those that would have refused most first. A limit in shadow that would have refused nothing is not among them."""


class QuotaEvent(Answer):
    """A subject (of test calls, with `test:` before it) reached this share (50, 80, 90 or 100 %) of a quota of `calls_max`
    calls, once in each period. `subject`: `k:` and the id of a key, `a:` an app, `o:` an organization, `r:` a route, `i:`
    an address, `h:` a hash of a header's value. `quota` as in `standard:day` of a plan, `clients/day-quota-by-ip` of a
    route."""

    subject: str
    quota: str
    threshold: int
    calls_max: int
    reached_at: datetime
    period_ends: datetime


class QuotaEvents(Page[QuotaEvent]):
    """The latest first, at most 1000."""


class DaysQuery(Parameters):
    days: Days = 30


class UsageQuery(DaysQuery):
    """Whose calls: of an organization, of an app, of a key, all those given must hold; without any, everyone's."""

    organization_id: Uuid | None = None
    app_id: Uuid | None = None
    key_id: KeyId | None = None
