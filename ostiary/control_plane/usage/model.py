"""Usage as it goes out. Days are calendar days in UTC; durations are milliseconds."""

from __future__ import annotations

from datetime import date
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


class DaysQuery(Parameters):
    days: Days = 30


class UsageQuery(DaysQuery):
    """Whose calls: of an organization, of an app, of a key, all those given must hold; without any, everyone's."""

    organization_id: Uuid | None = None
    app_id: Uuid | None = None
    key_id: KeyId | None = None
