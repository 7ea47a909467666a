"""The operations on plans."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from ostiary.control_plane.db import Connection
from ostiary.control_plane.http import AnyOperation, Call, NoBody, NoParameters, Problem, ProblemCode, read
from ostiary.control_plane.plans.model import Plan, PlanPage, PlanPath, plan_of
from ostiary.core import model as core

# The plans that gateways hold callers to, by name. Raises Problem when that can't be told.
Plans = Callable[[Connection], Awaitable[Mapping[str, core.Plan]]]


def of_the_file(plans: Mapping[str, core.Plan]) -> Plans:
    """Those of the configuration, which stay while this process runs."""

    async def fixed(_: Connection) -> Mapping[str, core.Plan]:
        return plans

    return fixed


def operations(plans: Plans) -> tuple[AnyOperation, ...]:
    """`plans` is asked with each call: published ones change while this process runs."""

    async def list_plans(call: Call[NoParameters, NoParameters, NoBody]) -> PlanPage:
        found = await plans(call.connection)
        all_of_them = tuple(plan_of(found[name]) for name in sorted(found))
        return PlanPage(data=all_of_them, next_cursor=None, total=len(all_of_them))

    async def get_plan(call: Call[PlanPath, NoParameters, NoBody]) -> Plan:
        found = (await plans(call.connection)).get(call.path.plan_name)
        if found is None:
            raise Problem(ProblemCode.NOT_FOUND, "There is no such plan.")
        return plan_of(found)

    return (
        read(
            "listPlans",
            "/plans",
            tag="plans",
            summary="List the plans in force, by name.",
            handler=list_plans,
            answer=PlanPage,
            refusals=(ProblemCode.CONFLICT,),
        ),
        read(
            "getPlan",
            "/plans/{plan_name}",
            tag="plans",
            summary="Read a plan.",
            handler=get_plan,
            path_model=PlanPath,
            answer=Plan,
            refusals=(ProblemCode.CONFLICT,),
        ),
    )
