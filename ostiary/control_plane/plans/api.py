"""The operations on plans."""

from __future__ import annotations

from ostiary.control_plane.db import Connection
from ostiary.control_plane.http import (
    AnyOperation,
    Audited,
    Call,
    Ids,
    NoBody,
    NoParameters,
    ProblemCode,
    change,
    read,
    remove,
    replace,
)
from ostiary.control_plane.plans.model import (
    NewPlan,
    Plan,
    PlanPage,
    PlanPath,
    PlanRemoval,
    PlanTerms,
    RecordedPlan,
)
from ostiary.control_plane.plans.service import Plans


def operations(plans: Plans) -> tuple[AnyOperation, ...]:
    async def read_plan(connection: Connection, ids: Ids) -> Plan:
        return await plans.plan(connection, ids["plan_name"])

    a_plan = Audited(resource="plan", id_from="plan_name", made_id="name", read=read_plan, record=RecordedPlan)

    async def list_plans(call: Call[NoParameters, NoParameters, NoBody]) -> PlanPage:
        return await plans.plans(call.connection)

    async def get_plan(call: Call[PlanPath, NoParameters, NoBody]) -> Plan:
        return await plans.plan(call.connection, call.path.plan_name)

    async def create_plan(call: Call[NoParameters, NoParameters, NewPlan]) -> Plan:
        return await plans.create(call.connection, call.body, author=call.caller.actor.name)

    async def replace_plan(call: Call[PlanPath, NoParameters, PlanTerms]) -> Plan:
        author = call.caller.actor.name
        return await plans.replace(call.connection, call.path.plan_name, call.body, author=author)

    async def delete_plan(call: Call[PlanPath, PlanRemoval, NoBody]) -> Plan:
        author, note = call.caller.actor.name, call.query.note
        return await plans.delete(call.connection, call.path.plan_name, author=author, note=note)

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
        change(
            "createPlan",
            "/plans",
            tag="plans",
            summary="Add a plan: the next version of the published routes has it, in every gateway within a second.",
            handler=create_plan,
            body_model=NewPlan,
            answer=Plan,
            audited=a_plan,
            location="/plans/{name}",
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
        replace(
            "replacePlan",
            "/plans/{plan_name}",
            tag="plans",
            summary="Replace a plan, whole, in the next version of the published routes. What was used stays used.",
            handler=replace_plan,
            path_model=PlanPath,
            body_model=PlanTerms,
            answer=Plan,
            audited=a_plan,
            refusals=(ProblemCode.CONFLICT,),
        ),
        remove(
            "deletePlan",
            "/plans/{plan_name}",
            tag="plans",
            summary="Take a plan out of the next version of the published routes. No key in force may have it.",
            handler=delete_plan,
            path_model=PlanPath,
            query_model=PlanRemoval,
            answer=Plan,
            audited=a_plan,
            refusals=(ProblemCode.CONFLICT,),
        ),
    )
