"""How somebody becomes known: by a password, a session of a browser, a token of ours, or one of a configured outside issuer.

api               the operations
service           the rules: what signing in makes, and what ends it
store             all its SQL
model             what goes in and out
attempts          how often it may fail
access_tokens     JWTs of ours: made and verified
signing_keys      what signs them, made here and renewed
outside_issuer    JWTs of a configured issuer, and its keys
authentication    from a token or a cookie to who calls
"""

from ostiary.control_plane.sign_in.access_tokens import AccessTokens
from ostiary.control_plane.sign_in.api import operations
from ostiary.control_plane.sign_in.authentication import Authentication
from ostiary.control_plane.sign_in.outside_issuer import OutsideIssuer
from ostiary.control_plane.sign_in.service import Cookie, SignIn
from ostiary.control_plane.sign_in.signing_keys import SigningKeys
from ostiary.control_plane.sign_in.store import lock_session

__all__ = [
    "AccessTokens",
    "Authentication",
    "Cookie",
    "OutsideIssuer",
    "SignIn",
    "SigningKeys",
    "lock_session",
    "operations",
]
