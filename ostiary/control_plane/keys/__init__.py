"""Keys of apps: made with a secret that is shown once, listed, changed, rotated, revoked, given limits of their own.

api       the operations
service   the rules
store     all its SQL
model     what goes in and out
limits    limits in place of the plan's
sealing   sealing a secret, also when that waits for a service
rewrap    wrapping data keys anew under another key-encryption key
"""

from ostiary.control_plane.keys.api import operations
from ostiary.control_plane.keys.service import Keys, the_plans
from ostiary.control_plane.keys.store import lock_key, organization_of_key

__all__ = ["Keys", "lock_key", "operations", "organization_of_key", "the_plans"]
