"""What was metered, from the roll-ups that the shipper writes; what is left of quotas; and how long usage is kept.

api       the operations
service   the rules
store calls   all its SQL
quotas counters quota_calls  what is left of which quota, from Redis or the roll-ups
model     what goes in and out
retention upkeep  what is dropped, and when
"""

from ostiary.control_plane.usage.api import operations
from ostiary.control_plane.usage.counters import Counters
from ostiary.control_plane.usage.quotas import Quotas
from ostiary.control_plane.usage.service import Usage
from ostiary.control_plane.usage.upkeep import run_upkeep

__all__ = ["Counters", "Quotas", "Usage", "operations", "run_upkeep"]
