"""The plans of the configuration, to be read: their limits are the gateways' configuration, and are changed there.

api     the operations
model   what goes out, and how it is made of the configuration
"""

from ostiary.control_plane.plans.api import operations

__all__ = ["operations"]
