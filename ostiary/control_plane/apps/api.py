"""The operations that change apps."""

from __future__ import annotations

from ostiary.control_plane.accounts.model import App, AppPath
from ostiary.control_plane.apps.model import AppChanges, Decision
from ostiary.control_plane.apps.service import Apps
from ostiary.control_plane.http import (
    AnyOperation,
    Audited,
    Call,
    NoBody,
    NoParameters,
    ProblemCode,
    amend,
    change,
    remove,
)


def operations(apps: Apps, *, audited: Audited) -> tuple[AnyOperation, ...]:
    async def amend_app(call: Call[AppPath, NoParameters, AppChanges]) -> App:
        return await apps.amend(call.connection, call.path.app_id, call.body)

    async def decide_app(call: Call[AppPath, NoParameters, Decision]) -> App:
        return await apps.decide(call.connection, call.path.app_id, call.body, by=call.caller.actor.principal)

    async def delete_app(call: Call[AppPath, NoParameters, NoBody]) -> App:
        return await apps.delete(call.connection, call.path.app_id)

    return (
        amend(
            "amendApp",
            "/apps/{app_id}",
            tag="apps",
            audited=audited,
            summary="Change name, description, website or redirect URIs of an app.",
            handler=amend_app,
            path_model=AppPath,
            body_model=AppChanges,
            answer=App,
            refusals=(ProblemCode.CONFLICT,),
        ),
        change(
            "decideApp",
            "/apps/{app_id}/approval",
            tag="apps",
            audited=audited,
            summary="Approve, reject or suspend an app. Gateways know within a second: of an app that is suspended no key "
            "works, of one that is rejected test keys alone. Deciding the same again changes nothing.",
            handler=decide_app,
            path_model=AppPath,
            body_model=Decision,
            answer=App,
            status=200,
        ),
        remove(
            "deleteApp",
            "/apps/{app_id}",
            tag="apps",
            audited=audited,
            summary="Delete an app and its keys, all of which must be revoked or expired. What was metered stays.",
            handler=delete_app,
            path_model=AppPath,
            answer=App,
            refusals=(ProblemCode.CONFLICT,),
        ),
    )
