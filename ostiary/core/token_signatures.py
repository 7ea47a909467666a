"""Whether a key of the issuer has signed a token. PyJWT does it, and looks at the claims once more by its own lights."""

from __future__ import annotations

from ostiary.core.issuers import Issuer
from ostiary.core.key_set import PublicKey
from ostiary.core.tokens import ParsedToken


class SignatureRefused(Exception):
    """The text says why; nothing of the token is in it."""


def verify_signature(issuer: Issuer, parsed: ParsedToken, token: bytes, key: PublicKey) -> None:
    """Raises SignatureRefused. `key` fits the token's algorithm, which is one that the issuer may use: PyJWT is given that
    one algorithm and a public key, so that it has nothing to choose (RFC 8725 §3.1)."""
    import jwt  # 40 ms where it is imported: gateways without issuers don't pay it

    required = ["iss", "aud", "exp"] if issuer.expiry_required else ["iss", "aud"]
    try:
        jwt.decode(
            token,
            key.public,
            algorithms=[parsed.algorithm],
            audience=list(issuer.audiences),
            issuer=issuer.url,
            leeway=issuer.skew_seconds,
            options={"require": required},
        )
    except jwt.InvalidSignatureError as error:
        raise SignatureRefused("the signature does not verify") from error
    except (jwt.PyJWTError, ValueError, TypeError) as error:
        raise SignatureRefused(f"not taken by PyJWT: {type(error).__name__}") from error
