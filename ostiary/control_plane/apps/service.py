"""The rules of apps: operators decide, an app with keys in force is not deleted by a slip."""

from __future__ import annotations

import asyncpg

from ostiary.control_plane.accounts import Accounts
from ostiary.control_plane.accounts.model import App
from ostiary.control_plane.apps import store
from ostiary.control_plane.apps.model import AppChanges, Decision
from ostiary.control_plane.db import Connection
from ostiary.control_plane.http import Problem, ProblemCode


class Apps:
    """Every method works on the caller's transaction and raises Problem for what it refuses."""

    def __init__(self, *, accounts: Accounts) -> None:
        self._accounts = accounts

    async def amend(self, connection: Connection, app_id: str, changes: AppChanges) -> App:
        try:
            await store.amend(connection, app_id, changes)
        except asyncpg.UniqueViolationError as error:
            raise Problem(ProblemCode.CONFLICT, "The organization has an app of this name already.") from error
        return await self._accounts.app(connection, app_id)

    async def decide(self, connection: Connection, app_id: str, decision: Decision, *, by: str) -> App:
        """What is decided so already stays as it is: deciding is safe to repeat."""
        await store.decide(connection, app_id, decision, by=by)
        return await self._accounts.app(connection, app_id)

    async def delete(self, connection: Connection, app_id: str) -> App:
        """As it was. Its keys must have been revoked, or have expired."""
        app = await self._accounts.app(connection, app_id)
        refusal = Problem(ProblemCode.CONFLICT, "The app has keys in force: revoke them first.")
        if await store.has_keys_in_force(connection, app_id):
            raise refusal
        try:
            await store.delete(connection, app_id)
        except asyncpg.ForeignKeyViolationError as error:
            raise refusal from error
        return app
