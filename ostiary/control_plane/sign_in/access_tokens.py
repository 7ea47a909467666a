"""Access tokens: JWTs that programs call with, for fifteen minutes. They say who calls, and nothing of what that one may do:
roles are read with every call, so that one that was taken away is gone at once, whatever a token said."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from uuid import UUID

import jwt

from ostiary.control_plane.sign_in.signing_keys import SigningKeys
from ostiary.core.issuers import Algorithm, Issuer, KeysInFile
from ostiary.core.key_set import PublicKey
from ostiary.core.token_signatures import SignatureRefused, verify_signature
from ostiary.core.tokens import ParsedToken, TokenRefused, check_claims

LIFETIME_SECONDS = 15 * 60
AUDIENCE = "ostiary-control-plane"
# A name of our own (RFC 8725 §3.11): no other kind of token, ours or another's, can be taken for one of these.
TYPE = "ostiary-access+jwt"


@dataclass(frozen=True, slots=True)
class AccessClaims:
    """What a token of ours says once it has verified."""

    user_id: str
    session_id: str


class AccessTokens:
    """`url` is what `iss` says."""

    def __init__(self, *, url: str, keys: SigningKeys) -> None:
        self._keys = keys
        self.issuer = Issuer(
            name="ostiary",
            url=url,
            audiences=(AUDIENCE,),
            keys=KeysInFile("", b""),  # they are in the database
            algorithms=frozenset({Algorithm.EDDSA}),
            environment="",
            token_types=frozenset({TYPE}),
            lifetime_seconds_max=float(LIFETIME_SECONDS),
            skew_seconds=10.0,  # the clocks are those of control planes alone
        )

    async def made(self, *, user_id: str, session_id: str) -> str:
        """Raises Problem."""
        key = await self._keys.current()
        now = int(time.time())
        claims = {
            "iss": self.issuer.url,
            "aud": AUDIENCE,
            "sub": user_id,
            "sid": session_id,
            "iat": now,
            "exp": now + LIFETIME_SECONDS,
            "jti": secrets.token_hex(16),
        }
        return jwt.encode(claims, key.private, algorithm="EdDSA", headers={"kid": key.kid, "typ": TYPE})

    async def verified(self, parsed: ParsedToken, token: bytes) -> AccessClaims:
        """Raises TokenRefused, and Problem when keys can't be read now."""
        check_claims(self.issuer, parsed, time.time())
        if parsed.kid is None or (public := await self._keys.public(parsed.kid)) is None:
            raise TokenRefused("kid is none of ours")
        key = PublicKey(parsed.kid, frozenset({"EdDSA"}), (), public)
        try:
            verify_signature(self.issuer, parsed, token, key)
        except SignatureRefused as error:
            raise TokenRefused(str(error)) from error
        user_id, session_id = parsed.claims.get("sub"), parsed.claims.get("sid")
        try:
            return AccessClaims(str(UUID(str(user_id))), str(UUID(str(session_id))))
        except ValueError as error:
            raise TokenRefused("sub or sid is no id of ours") from error
