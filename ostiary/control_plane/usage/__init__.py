"""What was metered, from the roll-ups that the shipper writes; and how long it is kept.

api       the operations
service   the rules
store     all its SQL
model     what goes in and out
retention upkeep  what is dropped, and when
"""

from ostiary.control_plane.usage.api import operations
from ostiary.control_plane.usage.service import Usage
from ostiary.control_plane.usage.upkeep import run_upkeep

__all__ = ["Usage", "operations", "run_upkeep"]
