"""Tokens for the bench: of one issuer, by RS256, which most issuers use; as large as those of a common one."""

from __future__ import annotations

import json
import time
from pathlib import Path

from joserfc import jwt
from joserfc.jwk import RSAKey

_PADDING = 8  # claims that nobody reads here: a token of 900 bytes


class BenchIssuer:
    """Writes its keys where `ostiary-callers.yaml` names them."""

    def __init__(self, directory: Path) -> None:
        self._key = RSAKey.generate_key(2048, {"kid": "2026-11", "use": "sig"})
        (directory / "keys.json").write_text(json.dumps({"keys": [self._key.as_dict(private=False)]}))

    def token(self, subject: str = "user-1") -> str:
        now = int(time.time())
        claims = {
            "iss": "https://login.example.com/",
            "aud": "https://api.example.com",
            "sub": subject,
            "iat": now,
            "exp": now + 3600,
            "scope": "clients:read profile",
            **{f"claim-{number}": "0123456789abcdef" for number in range(_PADDING)},
        }
        return jwt.encode({"alg": "RS256", "kid": "2026-11", "typ": "at+jwt"}, claims, self._key, algorithms=["RS256"])
