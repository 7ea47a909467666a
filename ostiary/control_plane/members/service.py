"""The rules of members: nobody gives, changes or takes a role above their own, and an organization that has an owner keeps
one."""

from __future__ import annotations

import asyncpg

from ostiary.control_plane import users
from ostiary.control_plane.db import Connection
from ostiary.control_plane.http import Note, Paging, Problem, ProblemCode, Transactions, cut, invalid
from ostiary.control_plane.http.access import Actor, PlatformRole, Role
from ostiary.control_plane.members import store
from ostiary.control_plane.members.model import (
    Acceptance,
    Accepted,
    CreatedInvitation,
    Invitation,
    InvitationPage,
    InvitationState,
    Left,
    Member,
    MemberPage,
    NewInvitation,
    NewPlatformInvitation,
)
from ostiary.control_plane.users import store as users_store
from ostiary.control_plane.users.model import User
from ostiary.control_plane.users.password_rules import weakness
from ostiary.core.credentials import TokenKind, generate_token, secret_sha256

INVITATION_DAYS = 7


class Members:
    """Methods work on the caller's transaction, but for `accept` and `leave`, which open their own. All raise Problem."""

    def __init__(self, *, transactions: Transactions, passwords: users.Passwords, key_prefix: str) -> None:
        self._transactions = transactions
        self._passwords = passwords
        self._key_prefix = key_prefix

    async def members(self, connection: Connection, organization_id: str, page: Paging) -> MemberPage:
        found, total = await store.members(connection, organization_id, after=page.cursor, limit=page.limit + 1)
        data, next_cursor = cut(found, page.limit)
        return MemberPage(data=data, next_cursor=next_cursor, total=total)

    async def set_role(
        self, connection: Connection, organization_id: str, user_id: str, role: Role, *, by: Actor
    ) -> Member:
        member = await self._locked(connection, organization_id, user_id)
        _require_reach(by, organization_id, member.role)
        _require_reach(by, organization_id, role)
        if role is not Role.OWNER:
            await self._require_other_owner(connection, organization_id, member)
        await store.set_role(connection, organization_id, user_id, role)
        return member.model_copy(update={"role": role})

    async def remove(self, connection: Connection, organization_id: str, user_id: str, *, by: Actor) -> Member:
        member = await self._locked(connection, organization_id, user_id)
        _require_reach(by, organization_id, member.role)
        await self._require_other_owner(connection, organization_id, member)
        await store.remove_member(connection, organization_id, user_id)
        return member

    async def leave(self, organization_id: str, actor: Actor, *, note: Note) -> Left:
        if actor.user_id is None:
            raise Problem(ProblemCode.ROLE_MISSING, "This is for members who have signed in.")
        async with self._transactions.open() as connection:
            member = await self._locked(connection, organization_id, actor.user_id)
            await self._require_other_owner(connection, organization_id, member)
            await store.remove_member(connection, organization_id, actor.user_id)
            before = {"role": member.role.value}
            await note(connection, resource_id=actor.user_id, organization_id=organization_id, before=before)
        return Left(organization_id=organization_id)

    async def member(self, connection: Connection, organization_id: str, user_id: str) -> Member:
        found = await store.member(connection, organization_id, user_id)
        if found is None:
            raise Problem(ProblemCode.NOT_FOUND, "There is no such member.")
        return found

    async def invitation(self, connection: Connection, invitation_id: str) -> Invitation:
        found = await store.invitation(connection, invitation_id)
        if found is None:
            raise Problem(ProblemCode.NOT_FOUND, "There is no such invitation.")
        return found

    async def invite(
        self, connection: Connection, organization_id: str, new: NewInvitation, *, by: Actor
    ) -> CreatedInvitation:
        """The token is in the value returned, and in nothing else."""
        _require_reach(by, organization_id, new.role)
        return await self._invite(connection, new.email, organization_id, new.role, None, by=by)

    async def invite_to_platform(
        self, connection: Connection, new: NewPlatformInvitation, *, by: Actor
    ) -> CreatedInvitation:
        """As `invite`."""
        return await self._invite(connection, new.email, None, None, new.platform_role, by=by)

    async def invitations(self, connection: Connection, organization_id: str | None, page: Paging) -> InvitationPage:
        found, total = await store.invitations(connection, organization_id, after=page.cursor, limit=page.limit + 1)
        data, next_cursor = cut(found, page.limit)
        return InvitationPage(data=data, next_cursor=next_cursor, total=total)

    async def revoke_invitation(self, connection: Connection, invitation_id: str, *, by: Actor) -> Invitation:
        """One that was revoked already stays as it is. Raises Problem `conflict` for one that was accepted."""
        found = await self.invitation(connection, invitation_id)
        if found.organization_id is not None and found.role is not None:
            _require_reach(by, found.organization_id, found.role)
        await store.revoke(connection, invitation_id)
        found = await self.invitation(connection, invitation_id)
        if found.state is InvitationState.ACCEPTED:
            raise Problem(ProblemCode.CONFLICT, "The invitation has been accepted: remove the member instead.")
        return found

    async def accept(self, acceptance: Acceptance, *, note: Note) -> Accepted:
        """Makes the user. The password is hashed between two looks at the invitation, with no connection held."""
        token = secret_sha256(acceptance.token.encode())
        async with self._transactions.open() as connection:
            email = (await self._pending(connection, token)).email
            if await users_store.user_of_email(connection, email) is not None:
                raise _has_user()
        if (why := weakness(acceptance.password, email)) is not None:
            raise invalid("password", why)
        hashed = await self._passwords.hashed(acceptance.password)
        async with self._transactions.open() as connection:
            invitation = await self._pending(connection, token)
            try:
                user = await users_store.insert(
                    connection, email=email, name=acceptance.name, password_hash=hashed, platform_role=None
                )
            except asyncpg.UniqueViolationError as error:
                raise _has_user() from error
            accepted = await self._accepted(connection, invitation, user)
            await note(
                connection,
                resource_id=invitation.id,
                organization_id=invitation.organization_id,
                after={"accepted_by": f"user:{user.id}", "role": invitation.role or invitation.platform_role},
                actor=Actor(f"user:{user.id}", user.email),
            )
            return accepted

    async def accept_as(self, connection: Connection, token: str, actor: Actor) -> Accepted:
        """By a user, whom it has to be for."""
        invitation = await self._pending(connection, secret_sha256(token.encode()))
        user = None if actor.user_id is None else await users_store.user(connection, actor.user_id)
        if user is None:
            raise Problem(ProblemCode.ROLE_MISSING, "This is for users who have signed in.")
        if invitation.email != user.email:
            raise Problem(ProblemCode.CONFLICT, "The invitation is for another address than yours.")
        return await self._accepted(connection, invitation, user)

    async def _accepted(self, connection: Connection, invitation: Invitation, user: User) -> Accepted:
        if invitation.organization_id is not None and invitation.role is not None:
            await store.put_member(connection, invitation.organization_id, user.id, invitation.role)
        if invitation.platform_role is not None:
            await store.give_platform_role(connection, user.id, invitation.platform_role)
        await store.accept(connection, invitation.id, user.id)
        user = await users_store.user(connection, user.id) or user
        return Accepted(
            invitation_id=invitation.id, user=user, organization_id=invitation.organization_id, role=invitation.role
        )

    async def _invite(
        self,
        connection: Connection,
        email: str,
        organization_id: str | None,
        role: Role | None,
        platform_role: PlatformRole | None,
        *,
        by: Actor,
    ) -> CreatedInvitation:
        token = generate_token(TokenKind.INVITATION, self._key_prefix)
        try:
            made = await store.insert_invitation(
                connection,
                email=email,
                organization_id=organization_id,
                role=role,
                platform_role=platform_role,
                token_sha256=secret_sha256(token.encode()),
                invited_by=by.principal,
                days=INVITATION_DAYS,
            )
        except asyncpg.ForeignKeyViolationError as error:
            raise Problem(ProblemCode.NOT_FOUND, "There is no such organization.") from error
        return CreatedInvitation(**dict(made), token=token)

    async def _locked(self, connection: Connection, organization_id: str, user_id: str) -> Member:
        await store.lock(connection, organization_id)
        return await self.member(connection, organization_id, user_id)

    async def _require_other_owner(self, connection: Connection, organization_id: str, member: Member) -> None:
        if member.role is Role.OWNER and not await store.other_owners(connection, organization_id, member.id):
            raise Problem(ProblemCode.CONFLICT, "This is the last owner: make another member one before.")

    async def _pending(self, connection: Connection, token_sha256: bytes) -> Invitation:
        found = await store.take_pending(connection, token_sha256)
        if found is None:
            raise invalid("token", "is not that of an invitation, or it was accepted, revoked or has expired")
        return found


def _require_reach(by: Actor, organization_id: str, role: Role) -> None:
    """Raises Problem `role_missing` for a role above their own. Operators reach every role."""
    if by.platform_role is PlatformRole.OPERATOR:
        return
    own = by.memberships.get(organization_id)
    if own is None or not own.reaches(role):
        raise Problem(
            ProblemCode.ROLE_MISSING, f"Only an owner may do this to an {role}." if role is Role.OWNER else None
        )


def _has_user() -> Problem:
    return Problem(
        ProblemCode.CONFLICT, "There is a user of this address: sign in, and accept at /me/invitations/accept."
    )
