"""What was metered, per day, from the rollups that the shipper writes.

api       the operations
service   the rules
store     all its SQL
model     what goes in and out
"""

from ostiary.control_plane.usage.api import operations
from ostiary.control_plane.usage.service import Usage

__all__ = ["Usage", "operations"]
