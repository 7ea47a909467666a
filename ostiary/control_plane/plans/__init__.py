"""Plans: those of the configuration, to be read; those that are published, to be changed too, each change a version.

api       the operations
service   the rules, and how a change becomes a version
store     who has a plan
model     what goes in and out
"""

from ostiary.control_plane.plans.api import operations
from ostiary.control_plane.plans.service import Plans
from ostiary.control_plane.plans.store import share

__all__ = ["Plans", "operations", "share"]
