"""Who calls, and who may: roles, the caller, and what a row of the authorization matrix says.

The table itself is `control_plane.authorization`; `dispatch` holds every call against it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from ostiary.control_plane.http.certificates import ShownCertificate


class Role(StrEnum):
    """A member's role in an organization, each with all that those before it may."""

    VIEWER = "viewer"
    DEVELOPER = "developer"
    ADMIN = "admin"
    OWNER = "owner"

    def reaches(self, least: Role) -> bool:
        return _RANK[self] >= _RANK[least]


_RANK = {role: rank for rank, role in enumerate(Role)}


class PlatformRole(StrEnum):
    """A role over all organizations: an operator runs the platform, an auditor reads everything and changes nothing."""

    OPERATOR = "operator"
    AUDITOR = "auditor"


OPERATORS = frozenset({PlatformRole.OPERATOR})
READERS = frozenset({PlatformRole.OPERATOR, PlatformRole.AUDITOR})


@dataclass(frozen=True, slots=True)
class Actor:
    """Who calls. `principal` is never that of another actor, and the same as long as the actor exists: `operator` with the
    configuration's token. `name` is for people. `memberships` maps the ids of their organizations to their roles. A user has
    `user_id`, and `session_id` unless another issuer's token says who they are."""

    principal: str
    name: str
    platform_role: PlatformRole | None = None
    memberships: Mapping[str, Role] = field(default_factory=dict)
    user_id: str | None = None
    session_id: str | None = None

    @property
    def organizations(self) -> tuple[str, ...] | None:
        """What a list may show of: these organizations, or all of them if None."""
        return tuple(self.memberships) if self.platform_role is None else None


# Who calls without being known.
UNKNOWN = Actor("unknown", "")


@dataclass(frozen=True, slots=True)
class Caller:
    """An actor in one call. `address` is the peer's, None if it has gone; `certificate` is what its connection has shown, and
    holds."""

    actor: Actor
    address: str | None
    request_id: str
    certificate: ShownCertificate | None = None


@dataclass(frozen=True, slots=True)
class Access:
    """Who may call an operation: the roles `platform` of the platform, and members with at least the role `least` in the
    organization that `whose` leads to (a parameter of the path, or a field of the body). Without `whose`, anyone who is
    known: the handler shows what is theirs. Without `least`, no member as such. `oneself`: nothing but what is the caller's
    own is shown or changed, whatever their role over the platform. `unknown`: who is not known, too."""

    platform: frozenset[PlatformRole]
    least: Role | None = None
    whose: str | None = None
    anyone: bool = False
    oneself: bool = False
    unknown: bool = False

    def is_privileged(self, actor: Actor) -> bool:
        """Whether a call by this actor is let in, or shown more, for a role over the platform."""
        return actor.platform_role is not None and not self.oneself


def platform(roles: frozenset[PlatformRole]) -> Access:
    return Access(roles)


def members(least: Role, whose: str, *, platform: frozenset[PlatformRole] = OPERATORS) -> Access:
    return Access(platform, least, whose)


def anyone() -> Access:
    """Who is known. The handler is bound to show, and to change, only what is the actor's (`Actor.organizations`)."""
    return Access(READERS, anyone=True)


def oneself() -> Access:
    """As `anyone`, of what has nothing to do with a role over the platform."""
    return Access(READERS, anyone=True, oneself=True)


def unknown() -> Access:
    """Everyone: what makes somebody known. The handler is bound to ask for a proof, and to bound how often."""
    return Access(READERS, anyone=True, oneself=True, unknown=True)
