"""Platform tokens: what programs that manage the platform, or one organization, call the API with.

api       the operations
service   the rules, and from a token to who calls
store     all its SQL
model     what goes in and out
"""

from ostiary.control_plane.platform_tokens.api import operations
from ostiary.control_plane.platform_tokens.service import PlatformTokens
from ostiary.control_plane.platform_tokens.store import lock_token

__all__ = ["PlatformTokens", "lock_token", "operations"]
