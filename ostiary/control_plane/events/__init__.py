"""Events: what happened that others may want to hear of, in an order that can be followed.

api       the operation
service   which events
store     all its SQL
model     what goes out
kinds     which change is told as what
"""

from ostiary.control_plane.events.api import operations
from ostiary.control_plane.events.kinds import KINDS, UNTOLD
from ostiary.control_plane.events.service import Events
from ostiary.control_plane.events.store import EventOutbox

__all__ = ["KINDS", "UNTOLD", "EventOutbox", "Events", "operations"]
