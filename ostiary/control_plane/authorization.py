"""Who may do what: the whole table, by operation. What is not in it can't be served, so nothing is open by oversight.

Operators may do everything, auditors read everything. A member may do what a row says of their role in the organization that
the thing belongs to; what belongs to another organization is answered 404, as if it were not there."""

from __future__ import annotations

from collections.abc import Mapping

from ostiary.control_plane.http.access import OPERATORS as _OPERATORS
from ostiary.control_plane.http.access import READERS, Access, Role, anyone, members, oneself, platform, unknown

OPERATORS = platform(_OPERATORS)
PLATFORM_READERS = platform(READERS)

# Whoever is known; what is shown, and changed, is theirs alone. To a role over the platform everything is.
THEIR_OWN = anyone()
# What is theirs as a person or a program, also of those with a role over the platform.
OF_ONESELF = oneself()
EVERYONE = unknown()

MATRIX: Mapping[str, Access] = {
    # What makes somebody known: by a password, by a refresh token, by an invitation's
    "signIn": EVERYONE,
    "createAccessToken": EVERYONE,
    "refreshAccessToken": EVERYONE,
    "acceptInvitation": EVERYONE,
    # Of oneself
    "signOut": OF_ONESELF,
    "getMe": OF_ONESELF,
    "changePassword": OF_ONESELF,
    "listMySessions": OF_ONESELF,
    "getMySession": OF_ONESELF,
    "endMySession": OF_ONESELF,
    "acceptInvitationAsUser": OF_ONESELF,
    "leaveOrganization": OF_ONESELF,
    # Users and the platform
    "listUsers": PLATFORM_READERS,
    "getUser": PLATFORM_READERS,
    "amendUser": OPERATORS,
    "createPlatformInvitation": OPERATORS,
    "listAllInvitations": PLATFORM_READERS,
    "createPlatformToken": OPERATORS,
    "listPlatformTokens": PLATFORM_READERS,
    "getPlatformToken": PLATFORM_READERS,
    "revokePlatformToken": OPERATORS,
    # Members. Nobody gives or takes a role above their own: `members` sees to that
    "listMembers": members(Role.VIEWER, "organization_id", platform=READERS),
    "getMember": members(Role.VIEWER, "organization_id", platform=READERS),
    "amendMember": members(Role.ADMIN, "organization_id"),
    "removeMember": members(Role.ADMIN, "organization_id"),
    "createInvitation": members(Role.ADMIN, "organization_id"),
    "listInvitations": members(Role.ADMIN, "organization_id", platform=READERS),
    "getInvitation": members(Role.ADMIN, "invitation_id", platform=READERS),
    "revokeInvitation": members(Role.ADMIN, "invitation_id"),
    # Organizations and apps
    "createOrganization": OPERATORS,
    "listOrganizations": THEIR_OWN,
    "getOrganization": members(Role.VIEWER, "organization_id", platform=READERS),
    "amendOrganization": members(Role.ADMIN, "organization_id"),
    "deleteOrganization": members(Role.OWNER, "organization_id"),
    "createApp": members(Role.DEVELOPER, "organization_id"),
    "listApps": THEIR_OWN,
    "getApp": members(Role.VIEWER, "app_id", platform=READERS),
    "amendApp": members(Role.DEVELOPER, "app_id"),
    "deleteApp": members(Role.ADMIN, "app_id"),
    # An organization asks, the platform decides.
    "decideApp": OPERATORS,
    # Keys
    "createKey": members(Role.DEVELOPER, "app_id"),
    "listKeys": members(Role.VIEWER, "app_id", platform=READERS),
    "getKey": members(Role.VIEWER, "key_id", platform=READERS),
    "amendKey": members(Role.DEVELOPER, "key_id"),
    "rotateKey": members(Role.DEVELOPER, "key_id"),
    "endGeneration": members(Role.DEVELOPER, "key_id"),
    "revokeKey": members(Role.DEVELOPER, "key_id"),
    # What a key may do beyond its plan is the platform's to give.
    "getKeyLimits": members(Role.VIEWER, "key_id", platform=READERS),
    "putKeyLimits": OPERATORS,
    "deleteKeyLimits": OPERATORS,
    # Plans: nobody's secret
    "listPlans": anyone(),
    "getPlan": anyone(),
    "createPlan": OPERATORS,
    "replacePlan": OPERATORS,
    "deletePlan": OPERATORS,
    # Published routes. Comparing is reading.
    "getRoutes": PLATFORM_READERS,
    "listRouteVersions": PLATFORM_READERS,
    "getRouteVersion": PLATFORM_READERS,
    "diffRoutes": PLATFORM_READERS,
    "routesStatus": PLATFORM_READERS,
    "applyRoutes": OPERATORS,
    "rollBackRoutes": OPERATORS,
    # Usage
    "usageSummary": THEIR_OWN,
    "usageDaily": THEIR_OWN,
    "usageEndpoints": THEIR_OWN,
    "usageErrors": THEIR_OWN,
    "usageOverage": THEIR_OWN,
    "usageShadow": THEIR_OWN,
    "usageQuotas": THEIR_OWN,
    "usageQuotaEvents": THEIR_OWN,
    "usageLogs": THEIR_OWN,
    "usageOfApp": members(Role.VIEWER, "app_id", platform=READERS),
    # Events
    "listEvents": THEIR_OWN,
    # Audit
    "listAudit": PLATFORM_READERS,
    "auditHead": PLATFORM_READERS,
    "listOrganizationAudit": members(Role.ADMIN, "organization_id", platform=READERS),
}
