"""The operations on members and invitations."""

from __future__ import annotations

from dataclasses import replace

from ostiary.control_plane.accounts.model import OrganizationPath
from ostiary.control_plane.db import Connection
from ostiary.control_plane.http import (
    AnyOperation,
    Audited,
    AuditedByItself,
    Call,
    Ids,
    NoBody,
    NoParameters,
    Paging,
    ProblemCode,
    UnboundCall,
    amend,
    change,
    change_unbound,
    read,
    remove,
)
from ostiary.control_plane.members.model import (
    Acceptance,
    Accepted,
    CreatedInvitation,
    Invitation,
    InvitationPage,
    InvitationPath,
    Left,
    Member,
    MemberChanges,
    MemberPage,
    MemberPath,
    NewInvitation,
    NewPlatformInvitation,
    OwnAcceptance,
    RecordedInvitation,
    RecordedMember,
)
from ostiary.control_plane.members.service import Members


def operations(members: Members) -> tuple[AnyOperation, ...]:
    async def read_member(connection: Connection, ids: Ids) -> Member:
        return await members.member(connection, ids["organization_id"], ids["user_id"])

    async def read_invitation(connection: Connection, ids: Ids) -> Invitation:
        return await members.invitation(connection, ids["invitation_id"])

    a_member = Audited(
        resource="member", id_from="user_id", read=read_member, record=RecordedMember, owner="organization_id"
    )
    an_invitation = Audited(
        resource="invitation",
        id_from="invitation_id",
        made_id="id",
        read=read_invitation,
        record=RecordedInvitation,
        owner="invitation_id",
    )
    an_accepted_invitation = replace(an_invitation, made_id="invitation_id")

    async def list_members(call: Call[OrganizationPath, Paging, NoBody]) -> MemberPage:
        return await members.members(call.connection, call.path.organization_id, call.query)

    async def get_member(call: Call[MemberPath, NoParameters, NoBody]) -> Member:
        return await members.member(call.connection, call.path.organization_id, call.path.user_id)

    async def amend_member(call: Call[MemberPath, NoParameters, MemberChanges]) -> Member:
        path, by = call.path, call.caller.actor
        return await members.set_role(call.connection, path.organization_id, path.user_id, call.body.role, by=by)

    async def remove_member(call: Call[MemberPath, NoParameters, NoBody]) -> Member:
        path, by = call.path, call.caller.actor
        return await members.remove(call.connection, path.organization_id, path.user_id, by=by)

    async def leave(call: UnboundCall[OrganizationPath, NoBody]) -> Left:
        return await members.leave(call.path.organization_id, call.caller.actor, note=call.note)

    async def invite(call: Call[OrganizationPath, NoParameters, NewInvitation]) -> CreatedInvitation:
        by = call.caller.actor
        return await members.invite(call.connection, call.path.organization_id, call.body, by=by)

    async def list_invitations(call: Call[OrganizationPath, Paging, NoBody]) -> InvitationPage:
        return await members.invitations(call.connection, call.path.organization_id, call.query)

    async def invite_to_platform(call: Call[NoParameters, NoParameters, NewPlatformInvitation]) -> CreatedInvitation:
        return await members.invite_to_platform(call.connection, call.body, by=call.caller.actor)

    async def list_all_invitations(call: Call[NoParameters, Paging, NoBody]) -> InvitationPage:
        return await members.invitations(call.connection, None, call.query)

    async def get_invitation(call: Call[InvitationPath, NoParameters, NoBody]) -> Invitation:
        return await members.invitation(call.connection, call.path.invitation_id)

    async def revoke_invitation(call: Call[InvitationPath, NoParameters, NoBody]) -> Invitation:
        return await members.revoke_invitation(call.connection, call.path.invitation_id, by=call.caller.actor)

    async def accept(call: UnboundCall[NoParameters, Acceptance]) -> Accepted:
        return await members.accept(call.body, note=call.note)

    async def accept_as(call: Call[NoParameters, NoParameters, OwnAcceptance]) -> Accepted:
        return await members.accept_as(call.connection, call.body.token, call.caller.actor)

    return (
        read(
            "listMembers",
            "/organizations/{organization_id}/members",
            tag="members",
            summary="List the members of an organization, the newest first.",
            handler=list_members,
            path_model=OrganizationPath,
            query_model=Paging,
            answer=MemberPage,
        ),
        read(
            "getMember",
            "/organizations/{organization_id}/members/{user_id}",
            tag="members",
            summary="Read a member.",
            handler=get_member,
            path_model=MemberPath,
            answer=Member,
        ),
        amend(
            "amendMember",
            "/organizations/{organization_id}/members/{user_id}",
            tag="members",
            summary="Give a member another role, up to your own. In force with their next call.",
            handler=amend_member,
            audited=a_member,
            path_model=MemberPath,
            body_model=MemberChanges,
            answer=Member,
            refusals=(ProblemCode.CONFLICT,),
        ),
        remove(
            "removeMember",
            "/organizations/{organization_id}/members/{user_id}",
            tag="members",
            summary="Remove a member whose role is not above your own. In force with their next call.",
            handler=remove_member,
            audited=a_member,
            path_model=MemberPath,
            answer=Member,
            refusals=(ProblemCode.CONFLICT,),
        ),
        change_unbound(
            "leaveOrganization",
            "/me/organizations/{organization_id}/leave",
            tag="members",
            summary="Leave an organization. Its last owner can't.",
            handler=leave,
            audited=AuditedByItself(resource="member"),
            path_model=OrganizationPath,
            answer=Left,
            refusals=(ProblemCode.CONFLICT, ProblemCode.ROLE_MISSING),
        ),
        change(
            "createInvitation",
            "/organizations/{organization_id}/invitations",
            tag="members",
            summary="Invite somebody into an organization, with a role up to your own, for seven days. The token is in this "
            "one answer and nowhere else.",
            handler=invite,
            audited=replace(an_invitation, owner="organization_id"),
            path_model=OrganizationPath,
            body_model=NewInvitation,
            answer=CreatedInvitation,
            shown_once=frozenset({"token"}),
        ),
        read(
            "listInvitations",
            "/organizations/{organization_id}/invitations",
            tag="members",
            summary="List the invitations into an organization, the newest first.",
            handler=list_invitations,
            path_model=OrganizationPath,
            query_model=Paging,
            answer=InvitationPage,
        ),
        change(
            "createPlatformInvitation",
            "/invitations",
            tag="members",
            summary="Invite somebody into the platform, with a role over all organizations or none.",
            handler=invite_to_platform,
            audited=an_invitation,
            body_model=NewPlatformInvitation,
            answer=CreatedInvitation,
            shown_once=frozenset({"token"}),
        ),
        read(
            "listAllInvitations",
            "/invitations",
            tag="members",
            summary="List all invitations, the newest first.",
            handler=list_all_invitations,
            query_model=Paging,
            answer=InvitationPage,
        ),
        read(
            "getInvitation",
            "/invitations/{invitation_id}",
            tag="members",
            summary="Read an invitation, without its token.",
            handler=get_invitation,
            path_model=InvitationPath,
            answer=Invitation,
        ),
        remove(
            "revokeInvitation",
            "/invitations/{invitation_id}",
            tag="members",
            summary="Revoke an invitation. Revoking it again changes nothing.",
            handler=revoke_invitation,
            audited=an_invitation,
            path_model=InvitationPath,
            answer=Invitation,
            refusals=(ProblemCode.CONFLICT,),
        ),
        change_unbound(
            "acceptInvitation",
            "/invitations/accept",
            tag="sign-in",
            summary="Accept an invitation, and become a user by it.",
            handler=accept,
            audited=AuditedByItself(resource="invitation"),
            body_model=Acceptance,
            answer=Accepted,
            refusals=(ProblemCode.CONFLICT,),
        ),
        change(
            "acceptInvitationAsUser",
            "/me/invitations/accept",
            tag="sign-in",
            summary="Accept an invitation as the user that you are.",
            handler=accept_as,
            audited=an_accepted_invitation,
            body_model=OwnAcceptance,
            answer=Accepted,
            status=200,
            refusals=(ProblemCode.CONFLICT, ProblemCode.ROLE_MISSING),
        ),
    )
