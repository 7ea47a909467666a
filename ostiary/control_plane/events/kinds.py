"""Which change is told as which kind of event. Every operation that changes something stands in one of the two tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

KINDS: Final[Mapping[str, str]] = {
    "createOrganization": "organization.created",
    "amendOrganization": "organization.changed",
    "deleteOrganization": "organization.deleted",
    "amendMember": "member.changed",
    "removeMember": "member.removed",
    "leaveOrganization": "member.left",
    "createApp": "app.created",
    "amendApp": "app.changed",
    "deleteApp": "app.deleted",
    "decideApp": "app.{approval}",  # approved, rejected, suspended
    "createKey": "key.created",
    "amendKey": "key.changed",
    "rotateKey": "key.rotated",
    "endGeneration": "key.generation_ended",
    "revokeKey": "key.revoked",
    "putKeyLimits": "key.limits_changed",
    "deleteKeyLimits": "key.limits_changed",
    "createPlan": "plan.created",
    "replacePlan": "plan.changed",
    "deletePlan": "plan.deleted",
    "applyRoutes": "routes.published",
    "rollBackRoutes": "routes.rolled_back",
}

# Nobody else's business: how people and programs get in, and what is only a question to one person.
UNTOLD: Final = frozenset(
    {
        *("signIn", "signOut", "createAccessToken", "refreshAccessToken", "changePassword", "endMySession"),
        *("amendUser", "createPlatformInvitation", "createPlatformToken", "revokePlatformToken"),
        *("createInvitation", "revokeInvitation", "acceptInvitation", "acceptInvitationAsUser"),
    }
)

# What no operation makes: a share of a quota was used, told by the gateway (migration 0017).
QUOTA_REACHED: Final = "quota.reached"
