"""What goes in and out of signing in."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, ClassVar

from pydantic import Field

from ostiary.control_plane.http import Answer, Page, Parameters, Request, Uuid
from ostiary.control_plane.http.access import PlatformRole, Role
from ostiary.control_plane.users.model import Email, GivenPassword, NewPassword, User

OpaqueToken = Annotated[str, Field(min_length=1, max_length=200)]


class Credentials(Request):
    email: Email
    password: GivenPassword


class SignedIn(Answer):
    """The session is in a cookie, which no script can read. It ends at `ends_at`, or after an hour without a call."""

    user: User
    session_id: Uuid
    ends_at: datetime


class SignedOut(Answer):
    """`ended` is false for a call that has no session of ours."""

    ended: bool


class RefreshToken(Request):
    refresh_token: OpaqueToken


class AccessTokenPair(Answer):
    """`access_token` is a JWT for `Authorization: Bearer`, good for `expires_in` seconds. `refresh_token` is good for one
    refresh, which gives another; shown a second time, it ends the session."""

    access_token: str
    token_type: str
    expires_in: int
    refresh_token: str


class PasswordChange(Request):
    current_password: GivenPassword
    new_password: NewPassword


class Membership(Answer):
    organization_id: Uuid
    organization_name: str
    role: Role


class Me(Answer):
    """Who calls. `user` is null for a program with a token of the platform. `memberships` are at most 1000."""

    principal: str
    name: str
    user: User | None
    platform_role: PlatformRole | None
    memberships: tuple[Membership, ...]


class SessionKind(StrEnum):
    BROWSER = "browser"
    PROGRAM = "program"


class Session(Answer):
    """`current` is the one of this call. `address` and `user_agent` are those it began with."""

    passing: ClassVar[Any] = {"current", "last_used_at"}

    id: Uuid
    kind: SessionKind
    current: bool
    created_at: datetime
    last_used_at: datetime
    ends_at: datetime
    address: str | None
    user_agent: str | None


class RecordedSession(Answer):
    """What the audit log is told of a session."""

    user_id: Uuid
    kind: SessionKind
    created_at: datetime


class SessionPage(Page[Session]):
    """Sessions of a user, newest first; all of them, since there are at most 50."""


class SessionPath(Parameters):
    session_id: Uuid
