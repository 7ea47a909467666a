"""The operations on published routes."""

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
    ask,
    change,
    read,
)
from ostiary.control_plane.routes.model import (
    BODY_BYTES_MAX,
    AppliedRoutes,
    HistoryQuery,
    NewRouteVersion,
    ProposedRoutes,
    RecordedRouteVersion,
    RouteDiff,
    RouteRollback,
    RouteStatus,
    RouteVersion,
    RouteVersionPage,
    VersionPath,
)
from ostiary.control_plane.routes.service import Routes


def operations(routes: Routes) -> tuple[AnyOperation, ...]:
    async def read_version(connection: Connection, ids: Ids) -> RouteVersion:
        return await routes.version(connection, ids["number"])

    a_version = Audited(
        resource="routes", id_from="number", made_id="number", read=read_version, record=RecordedRouteVersion
    )

    async def get_routes(call: Call[NoParameters, NoParameters, NoBody]) -> RouteVersion:
        return await routes.current(call.connection)

    async def list_versions(call: Call[NoParameters, HistoryQuery, NoBody]) -> RouteVersionPage:
        return await routes.history(call.connection, call.query)

    async def get_version(call: Call[VersionPath, NoParameters, NoBody]) -> RouteVersion:
        return await routes.version(call.connection, call.path.number)

    async def apply(call: Call[NoParameters, NoParameters, NewRouteVersion]) -> AppliedRoutes:
        return await routes.apply(call.connection, call.body, author=call.caller.actor.name)

    async def diff(call: Call[NoParameters, NoParameters, ProposedRoutes]) -> RouteDiff:
        return await routes.diff(call.connection, call.body)

    async def roll_back(call: Call[NoParameters, NoParameters, RouteRollback]) -> AppliedRoutes:
        return await routes.roll_back(call.connection, call.body, author=call.caller.actor.name)

    async def status(call: Call[NoParameters, NoParameters, NoBody]) -> RouteStatus:
        return await routes.status(call.connection)

    return (
        read(
            "getRoutes",
            "/routes",
            tag="routes",
            summary="Read the routes in force: the newest version, as YAML and as JSON.",
            handler=get_routes,
            answer=RouteVersion,
            refusals=(ProblemCode.NOT_FOUND,),
        ),
        read(
            "listRouteVersions",
            "/routes/versions",
            tag="routes",
            summary="List the versions that were ever in force, newest first, without their documents.",
            handler=list_versions,
            query_model=HistoryQuery,
            answer=RouteVersionPage,
        ),
        read(
            "getRouteVersion",
            "/routes/versions/{number}",
            tag="routes",
            summary="Read a version.",
            handler=get_version,
            path_model=VersionPath,
            answer=RouteVersion,
        ),
        change(
            "applyRoutes",
            "/routes/versions",
            tag="routes",
            summary="Put a document in force as the next version: in every gateway within a second, or nowhere if it has a "
            "mistake.",
            handler=apply,
            body_model=NewRouteVersion,
            body_bytes_max=BODY_BYTES_MAX,
            answer=AppliedRoutes,
            audited=a_version,
            refusals=(ProblemCode.CONFLICT,),
            location="/routes/versions/{number}",
        ),
        ask(
            "diffRoutes",
            "/routes/diff",
            tag="routes",
            summary="Say what a document, or a version of before, would change: in meaning, and for how many keys. Changes "
            "nothing.",
            handler=diff,
            body_model=ProposedRoutes,
            body_bytes_max=BODY_BYTES_MAX,
            answer=RouteDiff,
            refusals=(ProblemCode.NOT_FOUND,),
        ),
        change(
            "rollBackRoutes",
            "/routes/rollback",
            tag="routes",
            summary="Put the document of a version of before in force again, as the next version.",
            handler=roll_back,
            body_model=RouteRollback,
            answer=AppliedRoutes,
            audited=a_version,
            refusals=(ProblemCode.CONFLICT, ProblemCode.NOT_FOUND),
            location="/routes/versions/{number}",
        ),
        read(
            "routesStatus",
            "/routes/status",
            tag="routes",
            summary="Say which version is in force, which each gateway runs, and which of them refuse it and why.",
            handler=status,
            answer=RouteStatus,
        ),
    )
