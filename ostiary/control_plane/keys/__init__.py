"""Keys of apps: made with a secret that is shown once, listed, revoked.

api       the operations
service   the rules
store     all its SQL
model     what goes in and out
"""

from ostiary.control_plane.keys.api import operations
from ostiary.control_plane.keys.service import Keys

__all__ = ["Keys", "operations"]
