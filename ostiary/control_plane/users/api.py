"""The operations on users, for operators and auditors."""

from __future__ import annotations

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
    read,
)
from ostiary.control_plane.users.model import RecordedUser, User, UserChanges, UserPage, UserPath
from ostiary.control_plane.users.service import Users


def operations(users: Users) -> tuple[AnyOperation, ...]:
    async def read_user(connection: Connection, ids: Ids) -> User:
        return await users.user(connection, ids["user_id"])

    a_user = Audited(resource="user", id_from="user_id", read=read_user, record=RecordedUser)

    async def list_users(call: Call[NoParameters, Paging, NoBody]) -> UserPage:
        return await users.users(call.connection, call.query)

    async def get_user(call: Call[UserPath, NoParameters, NoBody]) -> User:
        return await users.user(call.connection, call.path.user_id)

    async def amend_user(call: Call[UserPath, NoParameters, UserChanges]) -> User:
        return await users.amend(call.connection, call.path.user_id, call.body, by=call.caller.actor)

    return (
        read(
            "listUsers",
            "/users",
            tag="users",
            summary="List users, newest first.",
            handler=list_users,
            query_model=Paging,
            answer=UserPage,
        ),
        read(
            "getUser",
            "/users/{user_id}",
            tag="users",
            summary="Read a user.",
            handler=get_user,
            path_model=UserPath,
            answer=User,
        ),
        amend(
            "amendUser",
            "/users/{user_id}",
            tag="users",
            summary="Change a user's name or role over the platform, or disable them: at once, sessions and tokens included.",
            handler=amend_user,
            audited=a_user,
            path_model=UserPath,
            body_model=UserChanges,
            answer=User,
            refusals=(ProblemCode.CONFLICT,),
        ),
    )
