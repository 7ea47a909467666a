"""Plans as they go in and out."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from ostiary.control_plane.http import Answer, Page, Parameters, Request, Rule
from ostiary.core import model as core
from ostiary.core.config.plans import CONCURRENCY_MAX, COUNT_MAX, QUOTAS_MAX, WINDOWS_MAX

_SPANS = {1: "second", 60: "minute", 3600: "hour", 86_400: "day"}

PlanName = Annotated[
    str,
    Field(examples=["standard"]),
    Rule(r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$", "the name of a plan: up to 64 letters, digits, _ . and -"),
]
Note = Annotated[
    str,
    Field(min_length=1, max_length=500, description="why, for the people who will ask; shown with the version"),
    Rule(r"^[^\u0000-\u001f\u007f-\u009f\u2028\u2029]*$", "1 to 500 characters without control characters"),
]
Requests = Annotated[int, Field(ge=1, le=COUNT_MAX)]

# How a part is without being said: it need not stand in the document.
_USUAL = {
    "mode": "enforce",
    "refused": "free",
    "counting": "exact",
    "concurrency_mode": "enforce",
    "overage": "block",
    "by": "key",
}


# --- what goes out --------------------------------------------------------------------------------------------------------


class PlanLimit(Answer):
    """`mode`: shadow only tells which calls it would have refused. `refused`: whether calls that are refused take of it."""

    requests: int
    per: str
    mode: Literal["enforce", "shadow"]
    refused: Literal["free", "charged"]
    counting: Literal["exact", "leased"]


class PlanRate(PlanLimit):
    """A token bucket: `burst` calls at once."""

    burst: int


class Plan(Answer):
    """All parts given must hold: `rate` a token bucket, `limits` sliding windows, `quotas` calendar periods in UTC,
    `concurrency` calls under way. `overage` is what happens past a quota. `by` is whose use is counted together. `version` is
    the version of the published routes that says so; null where plans stand in the configuration file."""

    passing: ClassVar[Any] = {"version": True}  # other changes make versions, too

    name: PlanName
    rate: PlanRate | None
    limits: tuple[PlanLimit, ...]
    quotas: tuple[PlanLimit, ...]
    concurrency: int | None
    concurrency_mode: Literal["enforce", "shadow"]
    overage: Literal["block", "warn", "charge"]
    by: str
    version: int | None


class RecordedPlan(Plan):
    """What the audit log is told of a plan: all of it."""


class PlanPage(Page[Plan]):
    """All plans, by name."""


def plan_of(plan: core.Plan, version: int | None) -> Plan:
    rate = plan.rate
    return Plan.model_validate(
        {
            "name": plan.name,
            "rate": None if rate is None else {"burst": rate.burst, "per": _SPANS[rate.per_seconds], **_terms(rate)},
            "limits": [{"per": _SPANS[window.window_seconds], **_terms(window)} for window in plan.windows],
            "quotas": [{"per": quota.period.value, **_terms(quota)} for quota in plan.quotas],
            "concurrency": plan.concurrency,
            "concurrency_mode": plan.concurrency_mode.value,
            "overage": plan.overage.value,
            "by": plan.by.value,
            "version": version,
        }
    )


def _terms(limit: core.Rate | core.Window | core.Quota) -> dict[str, object]:
    return {
        "requests": limit.requests,
        "mode": limit.mode.value,
        "refused": limit.refused.value,
        "counting": limit.counting.value,
    }


# --- what comes in --------------------------------------------------------------------------------------------------------


class PlanPath(Parameters):
    plan_name: PlanName


class _Terms(Request):
    """`mode`: shadow only tells which calls it would have refused. `refused`: whether calls that are refused, by this limit
    or another, take nothing of it or what an admitted one takes. `counting`: leased is counted by workers, by slices."""

    requests: Requests
    mode: Literal["enforce", "shadow"] | None = None
    refused: Literal["free", "charged"] | None = None
    counting: Literal["exact", "leased"] | None = None


class RateOfPlan(_Terms):
    """A token bucket: `burst` calls at once, as many as `requests` if not given; refilled with `requests` in every span."""

    per: Literal["second", "minute", "hour", "day"]
    burst: Requests | None = None


class WindowOfPlan(_Terms):
    """A sliding window: no span of this length ever holds more than `requests` calls."""

    per: Literal["second", "minute", "hour", "day"]


class QuotaOfPlan(_Terms):
    """At most `requests` calls in a calendar period, UTC."""

    per: Literal["hour", "day", "month"]


class PlanTerms(Request):
    """A plan, whole: what is not given is not part of it. The parts are those of `plans` in the configuration file, and the
    rules are the same."""

    rate: RateOfPlan | None = None
    limits: Annotated[tuple[WindowOfPlan, ...], Field(max_length=WINDOWS_MAX)] = ()
    quotas: Annotated[
        tuple[QuotaOfPlan, ...],
        Field(max_length=QUOTAS_MAX, examples=[[{"requests": 100_000, "per": "day"}]]),
    ] = ()
    concurrency: Annotated[int, Field(ge=1, le=CONCURRENCY_MAX)] | None = None
    concurrency_mode: Literal["enforce", "shadow"] | None = None
    overage: Annotated[
        Literal["block", "warn", "charge"] | None, Field(description="past a quota: refuse, let in, let in and bill")
    ] = None
    by: Literal["key", "app", "organization"] | None = None
    note: Note | None = None

    def document(self) -> dict[str, object]:
        """As it is written down: what is so without being said is left out."""
        said = _said(self.model_dump(mode="json", exclude={"name", "note"}, exclude_none=True))
        assert isinstance(said, dict)  # noqa: S101  as what it was given
        return said


class NewPlan(PlanTerms):
    """A plan that there is not yet."""

    name: PlanName


class PlanRemoval(Parameters):
    """Why the plan goes."""

    note: Note | None = None


def _said(value: object) -> object:
    match value:
        case dict():
            return {name: _said(each) for name, each in value.items() if each != [] and _USUAL.get(name) != each}
        case list():
            return [_said(each) for each in value]
        case _:
            return value
