"""What becomes of an app: changed, approved or suspended, deleted. (It is made, read and listed in `accounts`.)

api       the operations
service   the rules
store     all its SQL
model     what goes in
"""

from ostiary.control_plane.apps.api import operations
from ostiary.control_plane.apps.service import Apps

__all__ = ["Apps", "operations"]
