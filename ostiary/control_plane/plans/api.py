"""The operations on plans."""

from __future__ import annotations

from collections.abc import Mapping

from ostiary.control_plane.http import AnyOperation, Call, NoBody, NoParameters, Problem, ProblemCode, read
from ostiary.control_plane.plans.model import Plan, PlanPage, PlanPath, plan_of
from ostiary.core import model as core


def operations(plans: Mapping[str, core.Plan]) -> tuple[AnyOperation, ...]:
    """`plans` are those of the configuration, by name."""
    all_of_them = tuple(plan_of(plans[name]) for name in sorted(plans))
    by_name = {plan.name: plan for plan in all_of_them}

    async def list_plans(call: Call[NoParameters, NoParameters, NoBody]) -> PlanPage:
        return PlanPage(data=all_of_them, next_cursor=None, total=len(all_of_them))

    async def get_plan(call: Call[PlanPath, NoParameters, NoBody]) -> Plan:
        found = by_name.get(call.path.plan_name)
        if found is None:
            raise Problem(ProblemCode.NOT_FOUND, "There is no such plan.")
        return found

    return (
        read(
            "listPlans",
            "/plans",
            tag="plans",
            summary="List the plans of the configuration, by name.",
            handler=list_plans,
            answer=PlanPage,
        ),
        read(
            "getPlan",
            "/plans/{plan_name}",
            tag="plans",
            summary="Read a plan.",
            handler=get_plan,
            path_model=PlanPath,
            answer=Plan,
        ),
    )
