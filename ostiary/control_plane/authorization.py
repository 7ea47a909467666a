"""Who may do what: the whole table, by operation. What is not in it can't be served, so nothing is open by oversight.

Operators may do everything, auditors read everything. A member may do what a row says of their role in the organization that
the thing belongs to; what belongs to another organization is answered 404, as if it were not there."""

from __future__ import annotations

from collections.abc import Mapping

from ostiary.control_plane.http.access import OPERATORS as _OPERATORS
from ostiary.control_plane.http.access import READERS, Access, Role, anyone, members, platform

OPERATORS = platform(_OPERATORS)
PLATFORM_READERS = platform(READERS)

MATRIX: Mapping[str, Access] = {
    # Organizations and apps
    "createOrganization": OPERATORS,
    "listOrganizations": PLATFORM_READERS,
    "getOrganization": members(Role.VIEWER, "organization_id", platform=READERS),
    "createApp": members(Role.DEVELOPER, "organization_id"),
    "listApps": PLATFORM_READERS,
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
    # Usage
    "usageSummary": PLATFORM_READERS,
    "usageDaily": PLATFORM_READERS,
    "usageEndpoints": PLATFORM_READERS,
    "usageErrors": PLATFORM_READERS,
    "usageOverage": PLATFORM_READERS,
    "usageShadow": PLATFORM_READERS,
    "usageQuotas": PLATFORM_READERS,
    "usageLogs": PLATFORM_READERS,
    "usageOfApp": members(Role.VIEWER, "app_id", platform=READERS),
    # Audit
    "listAudit": PLATFORM_READERS,
    "auditHead": PLATFORM_READERS,
    "listOrganizationAudit": members(Role.ADMIN, "organization_id", platform=READERS),
}
