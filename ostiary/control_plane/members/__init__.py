"""Members of organizations, and invitations into an organization or the platform.

api       the operations
service   the rules: who may give which role, and that an organization keeps an owner
store     all its SQL
model     what goes in and out
"""

from ostiary.control_plane.members.api import operations
from ostiary.control_plane.members.service import Members
from ostiary.control_plane.members.store import lock_invitation, lock_member, organization_of_invitation

__all__ = ["Members", "lock_invitation", "lock_member", "operations", "organization_of_invitation"]
