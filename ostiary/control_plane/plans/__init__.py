"""The plans of the configuration, or of the published routes, to be read: they are changed there.

api     the operations
model   what goes out, and how it is made of the configuration
"""

from ostiary.control_plane.plans.api import of_the_file, operations

__all__ = ["of_the_file", "operations"]
