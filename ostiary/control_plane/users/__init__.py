"""Users: people who work with the platform or with an organization, their passwords and their roles over the platform.

api             the operations
service         the rules
store           all its SQL
model           what goes in and out
passwords       argon2id, a few at a time
password_rules  which passwords are taken
"""

from ostiary.control_plane.users.api import operations
from ostiary.control_plane.users.passwords import Passwords
from ostiary.control_plane.users.service import Users
from ostiary.control_plane.users.store import lock_user

__all__ = ["Passwords", "Users", "lock_user", "operations"]
