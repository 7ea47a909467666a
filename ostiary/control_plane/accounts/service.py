"""The rules of organizations and apps."""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg

from ostiary.control_plane.accounts import store
from ostiary.control_plane.accounts.model import (
    App,
    AppPage,
    AppQuery,
    Approval,
    NewApp,
    NewOrganization,
    Organization,
    OrganizationChanges,
    OrganizationPage,
)
from ostiary.control_plane.db import Connection
from ostiary.control_plane.http import Paging, Problem, ProblemCode, cut, invalid
from ostiary.control_plane.http.access import Actor
from ostiary.core.model import AppApproval


class Accounts:
    """`approval` is whether apps that members make wait for the platform's approval.

    Every method works on the caller's transaction and raises Problem for what it refuses."""

    def __init__(self, *, approval: AppApproval = AppApproval.AUTOMATIC) -> None:
        self._approval = approval

    async def create_organization(self, connection: Connection, new: NewOrganization) -> Organization:
        try:
            return await store.insert_organization(connection, new.name)
        except asyncpg.UniqueViolationError as error:
            raise Problem(ProblemCode.CONFLICT, "There is an organization of this name already.") from error

    async def organization(self, connection: Connection, organization_id: str) -> Organization:
        found = await store.organization(connection, organization_id)
        if found is None:
            raise Problem(ProblemCode.NOT_FOUND, "There is no such organization.")
        return found

    async def amend_organization(
        self, connection: Connection, organization_id: str, changes: OrganizationChanges
    ) -> Organization:
        if changes.name is not None:
            try:
                await store.rename_organization(connection, organization_id, changes.name)
            except asyncpg.UniqueViolationError as error:
                raise Problem(ProblemCode.CONFLICT, "There is an organization of this name already.") from error
        return await self.organization(connection, organization_id)

    async def delete_organization(self, connection: Connection, organization_id: str) -> Organization:
        """Only one without apps: what has keys that are in use, or figures to be billed, is not deleted by a slip."""
        found = await self.organization(connection, organization_id)
        try:
            await store.delete_organization(connection, organization_id)
        except asyncpg.ForeignKeyViolationError as error:
            raise Problem(ProblemCode.CONFLICT, "The organization has apps; it can be deleted without any.") from error
        return found

    async def organizations(
        self, connection: Connection, page: Paging, *, among: Sequence[str] | None
    ) -> OrganizationPage:
        """All, or those `among` alone."""
        found, total = await store.organizations(connection, among=among, after=page.cursor, limit=page.limit + 1)
        data, next_cursor = cut(found, page.limit)
        return OrganizationPage(data=data, next_cursor=next_cursor, total=total)

    async def create_app(self, connection: Connection, new: NewApp, *, by: Actor) -> App:
        waits = self._approval is AppApproval.MANUAL and by.platform_role is None
        try:
            return await store.insert_app(connection, new, Approval.PENDING if waits else Approval.APPROVED)
        except asyncpg.UniqueViolationError as error:
            raise Problem(ProblemCode.CONFLICT, "The organization has an app of this name already.") from error
        except asyncpg.ForeignKeyViolationError as error:
            raise invalid("organization_id", "there is no such organization") from error

    async def app(self, connection: Connection, app_id: str) -> App:
        found = await store.app(connection, app_id)
        if found is None:
            raise Problem(ProblemCode.NOT_FOUND, "There is no such app.")
        return found

    async def apps(self, connection: Connection, query: AppQuery, *, among: Sequence[str] | None) -> AppPage:
        """All, or those of the organizations `among` alone: those of another are as those of one that is not there."""
        if query.approval is not None:
            if among is not None or query.organization_id is not None:
                raise invalid("approval", "is for the platform's people, and for all organizations together")
            found, total = await store.apps_by_approval(
                connection, query.approval, after=query.cursor, limit=query.limit + 1
            )
            data, next_cursor = cut(found, query.limit)
            return AppPage(data=data, next_cursor=next_cursor, total=total)
        if query.organization_id is not None:
            among = [query.organization_id] if among is None or query.organization_id in among else []
        if among is None:
            found, total = await store.apps(connection, after=query.cursor, limit=query.limit + 1)
        else:
            found, total = await store.apps_of(connection, among, after=query.cursor, limit=query.limit + 1)
        data, next_cursor = cut(found, query.limit)
        return AppPage(data=data, next_cursor=next_cursor, total=total)
