"""The operations on organizations and apps."""

from __future__ import annotations

from ostiary.control_plane.accounts.model import (
    App,
    AppPage,
    AppPath,
    AppQuery,
    NewApp,
    NewOrganization,
    Organization,
    OrganizationChanges,
    OrganizationPage,
    OrganizationPath,
    RecordedApp,
    RecordedOrganization,
)
from ostiary.control_plane.accounts.service import Accounts
from ostiary.control_plane.db import Connection
from ostiary.control_plane.http import (
    AnyOperation,
    Audited,
    Call,
    Ids,
    NoBody,
    NoParameters,
    Paging,
    ProblemCode,
    amend,
    change,
    read,
    remove,
)


def audited_app(accounts: Accounts) -> Audited:
    """What is told of an app that was made or changed."""

    async def read_app(connection: Connection, ids: Ids) -> App:
        return await accounts.app(connection, ids["app_id"])

    return Audited(resource="app", id_from="app_id", made_id="id", read=read_app, record=RecordedApp, owner="app_id")


def operations(accounts: Accounts) -> tuple[AnyOperation, ...]:
    async def read_organization(connection: Connection, ids: Ids) -> Organization:
        return await accounts.organization(connection, ids["organization_id"])

    an_organization = Audited(
        resource="organization",
        id_from="organization_id",
        made_id="id",
        read=read_organization,
        record=RecordedOrganization,
        owner="organization_id",
    )
    an_app = audited_app(accounts)

    async def create_organization(call: Call[NoParameters, NoParameters, NewOrganization]) -> Organization:
        return await accounts.create_organization(call.connection, call.body)

    async def get_organization(call: Call[OrganizationPath, NoParameters, NoBody]) -> Organization:
        return await accounts.organization(call.connection, call.path.organization_id)

    async def list_organizations(call: Call[NoParameters, Paging, NoBody]) -> OrganizationPage:
        return await accounts.organizations(call.connection, call.query, among=call.caller.actor.organizations)

    async def amend_organization(call: Call[OrganizationPath, NoParameters, OrganizationChanges]) -> Organization:
        return await accounts.amend_organization(call.connection, call.path.organization_id, call.body)

    async def delete_organization(call: Call[OrganizationPath, NoParameters, NoBody]) -> Organization:
        return await accounts.delete_organization(call.connection, call.path.organization_id)

    async def create_app(call: Call[NoParameters, NoParameters, NewApp]) -> App:
        return await accounts.create_app(call.connection, call.body, by=call.caller.actor)

    async def get_app(call: Call[AppPath, NoParameters, NoBody]) -> App:
        return await accounts.app(call.connection, call.path.app_id)

    async def list_apps(call: Call[NoParameters, AppQuery, NoBody]) -> AppPage:
        return await accounts.apps(call.connection, call.query, among=call.caller.actor.organizations)

    return (
        change(
            "createOrganization",
            "/organizations",
            tag="organizations",
            summary="Create an organization.",
            handler=create_organization,
            body_model=NewOrganization,
            answer=Organization,
            audited=an_organization,
            location="/organizations/{id}",
            refusals=(ProblemCode.CONFLICT,),
        ),
        read(
            "listOrganizations",
            "/organizations",
            tag="organizations",
            summary="List organizations, newest first: yours, or for the platform's people all.",
            handler=list_organizations,
            query_model=Paging,
            answer=OrganizationPage,
        ),
        read(
            "getOrganization",
            "/organizations/{organization_id}",
            tag="organizations",
            summary="Read an organization.",
            handler=get_organization,
            path_model=OrganizationPath,
            answer=Organization,
        ),
        amend(
            "amendOrganization",
            "/organizations/{organization_id}",
            tag="organizations",
            summary="Change an organization's name.",
            handler=amend_organization,
            audited=an_organization,
            path_model=OrganizationPath,
            body_model=OrganizationChanges,
            answer=Organization,
            refusals=(ProblemCode.CONFLICT,),
        ),
        remove(
            "deleteOrganization",
            "/organizations/{organization_id}",
            tag="organizations",
            summary="Delete an organization that has no apps, with its memberships, invitations and tokens.",
            handler=delete_organization,
            audited=an_organization,
            path_model=OrganizationPath,
            answer=Organization,
            refusals=(ProblemCode.CONFLICT,),
        ),
        change(
            "createApp",
            "/apps",
            tag="apps",
            summary="Create an app of an organization.",
            handler=create_app,
            body_model=NewApp,
            answer=App,
            audited=an_app,
            location="/apps/{id}",
            refusals=(ProblemCode.CONFLICT,),
        ),
        read(
            "listApps",
            "/apps",
            tag="apps",
            summary="List apps, newest first: those of your organizations, or of one of them with organization_id.",
            handler=list_apps,
            query_model=AppQuery,
            answer=AppPage,
        ),
        read(
            "getApp",
            "/apps/{app_id}",
            tag="apps",
            summary="Read an app.",
            handler=get_app,
            path_model=AppPath,
            answer=App,
        ),
    )
