"""Plans as they go out."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ostiary.control_plane.http import Answer, Page, Parameters, Rule
from ostiary.core import model as core

_SPANS = {1: "second", 60: "minute", 3600: "hour", 86_400: "day"}

PlanName = Annotated[
    str,
    Field(examples=["standard"]),
    Rule(r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$", "the name of a plan: up to 64 letters, digits, _ . and -"),
]


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
    `concurrency` calls under way. `overage` is what happens past a quota. `by` is whose use is counted together."""

    name: PlanName
    rate: PlanRate | None
    limits: tuple[PlanLimit, ...]
    quotas: tuple[PlanLimit, ...]
    concurrency: int | None
    concurrency_mode: Literal["enforce", "shadow"]
    overage: Literal["block", "warn", "charge"]
    by: str


class PlanPage(Page[Plan]):
    """All plans, by name."""


class PlanPath(Parameters):
    plan_name: PlanName


def plan_of(plan: core.Plan) -> Plan:
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
        }
    )


def _terms(limit: core.Rate | core.Window | core.Quota) -> dict[str, object]:
    return {
        "requests": limit.requests,
        "mode": limit.mode.value,
        "refused": limit.refused.value,
        "counting": limit.counting.value,
    }
