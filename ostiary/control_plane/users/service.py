"""The rules of users: who runs the platform gives roles over it, and nobody shuts themselves out by a slip."""

from __future__ import annotations

from ostiary.control_plane.db import Connection
from ostiary.control_plane.http import Paging, Problem, ProblemCode, cut
from ostiary.control_plane.http.access import Actor
from ostiary.control_plane.users import store
from ostiary.control_plane.users.model import User, UserChanges, UserPage


class Users:
    """Every method works on the caller's transaction and raises Problem for what it refuses."""

    async def user(self, connection: Connection, user_id: str) -> User:
        found = await store.user(connection, user_id)
        if found is None:
            raise _no_such_user()
        return found

    async def users(self, connection: Connection, page: Paging) -> UserPage:
        found, total = await store.users(connection, after=page.cursor, limit=page.limit + 1)
        data, next_cursor = cut(found, page.limit)
        return UserPage(data=data, next_cursor=next_cursor, total=total)

    async def amend(self, connection: Connection, user_id: str, changes: UserChanges, *, by: Actor) -> User:
        """There may be no operator left: the configuration's token is one, always."""
        role_given = "platform_role" in changes.model_fields_set
        if by.user_id == user_id and (changes.disabled or role_given):
            raise Problem(ProblemCode.CONFLICT, "This is you: another operator has to do it.")
        found = await store.amend(
            connection,
            user_id,
            name=changes.name,
            platform_role=changes.platform_role,
            role_given=role_given,
            disabled=changes.disabled,
        )
        if found is None:
            raise _no_such_user()
        if changes.disabled:
            await store.end_sessions(connection, user_id)
        return found


def _no_such_user() -> Problem:
    return Problem(ProblemCode.NOT_FOUND, "There is no such user.")
