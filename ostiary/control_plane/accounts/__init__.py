"""Organizations and their apps: who the keys belong to.

api       the operations
service   the rules
store     all its SQL
model     what goes in and out
"""

from ostiary.control_plane.accounts.api import audited_app, operations
from ostiary.control_plane.accounts.service import Accounts
from ostiary.control_plane.accounts.store import lock_app, lock_organization, organization_itself, organization_of_app

__all__ = [
    "Accounts",
    "audited_app",
    "lock_app",
    "lock_organization",
    "operations",
    "organization_itself",
    "organization_of_app",
]
