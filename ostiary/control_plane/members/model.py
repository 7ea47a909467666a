"""Members and invitations as they go in and out."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, ClassVar

from pydantic import Field

from ostiary.control_plane.http import Answer, Name, Page, Parameters, Request, Uuid
from ostiary.control_plane.http.access import PlatformRole, Role
from ostiary.control_plane.users.model import Email, NewPassword, User


class Member(Answer):
    """`id` is that of the user."""

    # The user's own, whoever changes it: what a membership is of itself is its role.
    passing: ClassVar[Any] = {"email", "name", "disabled"}

    id: Uuid
    email: str
    name: str
    role: Role
    disabled: bool
    created_at: datetime


class RecordedMember(Answer):
    """What the audit log is told of a member."""

    role: Role


class MemberPage(Page[Member]):
    """Members, the newest first."""


class MemberChanges(Request):
    """A role up to your own."""

    role: Role


class MemberPath(Parameters):
    organization_id: Uuid
    user_id: Uuid


class Left(Answer):
    organization_id: Uuid


class NewInvitation(Request):
    """Into an organization, with a role up to your own."""

    email: Email
    role: Role


class NewPlatformInvitation(Request):
    """Into no organization; with a role over all of them, or none."""

    email: Email
    platform_role: PlatformRole | None = None


class InvitationState(StrEnum):
    PENDING = "pending"
    ACCEPTED = "accepted"
    REVOKED = "revoked"
    EXPIRED = "expired"


class Invitation(Answer):
    """`organization_id` and `role` are null for one into the platform. `invited_by` is a principal."""

    id: Uuid
    email: str
    organization_id: Uuid | None
    role: Role | None
    platform_role: PlatformRole | None
    state: InvitationState
    invited_by: str
    created_at: datetime
    expires_at: datetime


class CreatedInvitation(Invitation):
    """`token` is in this one answer and nowhere else: send it to whom it is for, and to nobody else."""

    token: str


class RecordedInvitation(Answer):
    """What the audit log is told of an invitation: not for whom it was, since nothing in the log is ever forgotten."""

    organization_id: Uuid | None
    role: Role | None
    platform_role: PlatformRole | None
    state: InvitationState


class InvitationPage(Page[Invitation]):
    """Invitations, the newest first; also those that are over."""


class InvitationPath(Parameters):
    invitation_id: Uuid


InvitationToken = Annotated[
    str, Field(min_length=1, max_length=200, description="as the invitation's answer showed it")
]


class Acceptance(Request):
    """Makes the user. Who is one already signs in, and accepts by `/me/invitations/accept`."""

    token: InvitationToken
    name: Name
    password: NewPassword


class OwnAcceptance(Request):
    token: InvitationToken


class Accepted(Answer):
    invitation_id: Uuid
    user: User
    organization_id: Uuid | None
    role: Role | None
