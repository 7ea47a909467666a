"""Published routes: a document checked, compared in meaning, applied as a numbered version, and what gateways make of it.

api           the operations
service       the rules
documents     a document checked and compared, off the event loop
consequences  what a change means for the keys there are
store         all its SQL
model         what goes in and out
"""

from ostiary.control_plane.routes.api import operations
from ostiary.control_plane.routes.service import Edited, InForce, Routes
from ostiary.control_plane.routes.store import lock, plans_in_force

__all__ = ["Edited", "InForce", "Routes", "lock", "operations", "plans_in_force"]
