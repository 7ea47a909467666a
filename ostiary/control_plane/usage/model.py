"""Usage as it is asked for and as it goes out. Times are UTC, calendar days too; durations are milliseconds."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, PrivateAttr, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from ostiary.control_plane.http import (
    Answer,
    Count,
    FormatField,
    KeyCursor,
    KeyId,
    Page,
    Parameters,
    RequestCursor,
    Rule,
    Uuid,
)

DAYS_MAX = 366
GROUPS_MAX = 1000
CALLS_MAX = 100

Days = Annotated[
    Count, Field(ge=1, le=DAYS_MAX, description="how many days, today included; instead of since and until")
]
RouteName = Annotated[str, Rule(r"^[A-Za-z0-9_.-]{1,64}$", "the name of a route")]
_RFC_3339 = re.compile(r"\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(\.\d{1,9})?([Zz]|[+-]\d{2}:\d{2})", re.ASCII)


def _moment(value: object) -> object:
    if isinstance(value, datetime):
        return value
    try:
        if not isinstance(value, str) or _RFC_3339.fullmatch(value) is None:
            raise ValueError
        moment = datetime.fromisoformat(value.upper()).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise PydanticCustomError("moment", "must be a time as in 2030-01-31T00:00:00Z") from error
    if not 1970 <= moment.year < 2100:
        raise PydanticCustomError("moment", "must be a time from 1970 to 2099")
    return moment


def _moment_schema(says: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "format": "date-time", "description": says})


Since = Annotated[datetime, BeforeValidator(_moment), _moment_schema("the beginning, to the minute")]
Until = Annotated[
    datetime, BeforeValidator(_moment), _moment_schema("the end, which is not in it; now if it is not given")
]

# A status, or a class of them.
StatusFilter = Annotated[str, Rule(r"^([1-5][0-9]{2}|[1-5]xx)$", "a status, as in 404, or a class, as in 4xx")]


Interval = Literal["minute", "hour", "day"]


# --- questions --------------------------------------------------------------------------------------------------------


class Visible(Parameters):
    """A question that sees calls of some organizations alone. Until `seen_by` says of which, of none."""

    _organizations: tuple[str, ...] | None = PrivateAttr(default=())

    def seen_by(self, organizations: tuple[str, ...] | None) -> Self:
        """The same question, of these organizations, or of all if None."""
        copy = self.model_copy()
        copy._organizations = organizations
        return copy

    @property
    def organizations(self) -> tuple[str, ...] | None:
        return self._organizations


class CallFilter(Visible):
    """Which calls: all those given must hold; without any, everyone's that may be seen."""

    organization_id: Uuid | None = None
    app_id: Uuid | None = None
    key_id: KeyId | None = None
    route: RouteName | None = None
    status: StatusFilter | None = None
    environment: Literal["live", "test"] | None = None


class DaysQuery(Parameters):
    days: Days | None = None


class SpanQuery(Parameters):
    """Without a span of time: the last 30 days, today included."""

    days: Days | None = None
    since: Since | None = None
    until: Until | None = None


class UsageQuery(SpanQuery, CallFilter):
    """Which calls, and of when."""


class SummaryQuery(UsageQuery):
    interval: Annotated[
        Interval | None, Field(description="the same by minute, hour or day as well, at most 1500 of them")
    ] = None


class DailyQuery(UsageQuery):
    format: FormatField = "json"


class GroupsQuery(UsageQuery):
    limit: Annotated[Count, Field(ge=1, le=GROUPS_MAX, description="how many items at most")] = 50
    format: FormatField = "json"


class OverageQuery(UsageQuery):
    limit: Annotated[Count, Field(ge=1, le=GROUPS_MAX, description="how many items at most")] = 50
    cursor: KeyCursor | None = None
    format: FormatField = "json"


class ShadowQuery(UsageQuery):
    by: Annotated[Literal["route", "key"], Field(description="told by route, or by route and key")] = "route"
    format: FormatField = "json"


class QuotasQuery(Visible):
    """Whose quotas: one of the three."""

    organization_id: Uuid | None = None
    app_id: Uuid | None = None
    key_id: KeyId | None = None
    format: FormatField = "json"

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(each is not None for each in (self.organization_id, self.app_id, self.key_id)) != 1:
            raise PydanticCustomError("whose", "give organization_id, app_id or key_id, and one of them alone")
        return self


class QuotaEventsQuery(SpanQuery, Visible):
    """Whose quotas: those that count this organization, app or key as a whole; several are all told of."""

    organization_id: Uuid | None = None
    app_id: Uuid | None = None
    key_id: KeyId | None = None
    format: FormatField = "json"


class LogsQuery(CallFilter):
    """Without a span of time: the last 24 hours."""

    since: Annotated[datetime, BeforeValidator(_moment), _moment_schema("the beginning")] | None = None
    until: Until | None = None
    limit: Annotated[Count, Field(ge=1, le=CALLS_MAX, description="how many items at most")] = 50
    cursor: RequestCursor | None = None
    format: FormatField = "json"


# --- answers ----------------------------------------------------------------------------------------------------------


class Figures(Answer):
    """`errors` are answers of 400 and above, `incomplete` those that were cut short, `overage` calls past a quota.
    Quantiles are off by at most 9.1 %. What is a latency is null without calls."""

    calls: int
    errors: int
    incomplete: int
    overage: int
    bytes_in: int
    bytes_out: int
    avg_latency_ms: float | None
    avg_upstream_ms: float | None
    p50_latency_ms: float | None
    p95_latency_ms: float | None
    p99_latency_ms: float | None


class UsageDay(Figures):
    """One day, all its routes together."""

    day: date


class UsageDays(Page[UsageDay]):
    """Every day asked for, the oldest first, days without calls included."""


class UsageInterval(Figures):
    """One minute, hour or day, by its beginning."""

    start: datetime


class UsageSummary(Figures):
    """The whole span as one number each; `since` and `until` are what it really was, to the minute or coarser. `intervals`
    are every one of it, the oldest first, if an interval was asked for."""

    since: datetime
    until: datetime
    intervals: tuple[UsageInterval, ...] | None


class EndpointUsage(Figures):
    """A route and a method. `route` is null for calls that no route took."""

    route: str | None
    method: str


class EndpointUsages(Page[EndpointUsage]):
    """Those with the most calls first."""


class ErrorUsage(Answer):
    """A status of 400 and above of a route and a method; `share` is of all calls of that route and method."""

    route: str | None
    method: str
    status: int
    calls: int
    share: float


class ErrorUsages(Page[ErrorUsage]):
    """The most frequent first."""


class KeyOverage(Answer):
    """A key with calls past its quota: what `overage: charge` bills."""

    key_id: str
    app_id: str | None
    organization_id: str | None
    environment: str | None
    calls: int
    overage: int

    @property
    def id(self) -> str:
        return self.key_id

    @property
    def created_at(self) -> datetime:
        return datetime(1970, 1, 1, tzinfo=UTC)  # the list is in order of the key alone


class KeyOverages(Page[KeyOverage]):
    """In order of the key id."""


class ShadowLimit(Answer):
    """A limit in shadow that would have refused calls: of all calls of the route in this span, so many; by key, of the
    key's on that route. `limit` as in `minute-by-ip` of the route, `standard:minute` of a plan, `key:minute` of a key
    without one."""

    route: str | None
    key_id: str | None
    limit: str
    calls: int
    would_refuse: int


class ShadowLimits(Page[ShadowLimit]):
    """Those that would have refused most first, at most 1000. A limit in shadow that would have refused nothing is not among
    them. Without a span of time: not further back than single calls are kept."""


class QuotaInForce(Answer):
    """A quota that holds for a key, or for all keys of an app or organization together (`subject_type` and `subject_id`; live
    and test calls are counted apart). `quota` is its name as in quota events, `plan` or `route` what it is of; a key's own
    has neither. Of `limit` calls `used` were taken in this period, which ends at `resets_at`; past it happens what `overage`
    says.

    `source` is where `used` is from. `redis`: the limiter's own counter, exact; where `counting` is leased, with what workers
    have taken ahead. `roll_ups`: calls as they were metered, some seconds late, each for one whatever it costs, without those
    that a limit refused. Null where neither knows."""

    subject_type: Literal["organization", "app", "key"]
    subject_id: str
    environment: Literal["live", "test"]
    quota: str
    plan: str | None
    route: str | None
    per: Literal["hour", "day", "month"]
    limit: int
    used: int | None
    remaining: int | None
    resets_at: datetime
    overage: Literal["block", "warn", "charge"]
    mode: Literal["enforce", "shadow"]
    counting: Literal["exact", "leased"]
    source: Literal["redis", "roll_ups"] | None


class QuotasInForce(Page[QuotaInForce]):
    """Those of organizations first, then of apps, then of keys; at most 1000. `note` says why some are not exact."""

    note: str | None


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


class LoggedCall(Answer):
    """One call. `ip` is what `usage.record.ip` keeps of the address; `ip_hash` is in its place where that is a hash.
    `key_generation` is the number of the secret that was used (`ostiary keys show`), `would_refuse` the limits in shadow
    that would have refused the call."""

    occurred_at: datetime
    request_id: str
    organization_id: str | None
    app_id: str | None
    key_id: str | None
    key_generation: int | None
    environment: str | None
    route: str | None
    method: str
    path_template: str | None
    status: int
    latency_ms: float
    upstream_ms: float | None
    bytes_in: int
    bytes_out: int
    ip: str | None
    ip_hash: str | None
    country: str | None
    user_agent: str | None
    overage: bool
    complete: bool
    would_refuse: tuple[str, ...]

    @property
    def id(self) -> str:
        return self.request_id

    @property
    def created_at(self) -> datetime:
        return self.occurred_at


class LoggedCalls(Page[LoggedCall]):
    """The newest first. `total` counts the span asked for, widened to whole minutes."""
