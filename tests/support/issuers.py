"""An issuer of tokens as they are in the world: it signs with joserfc, which the gateway does not use, and serves its keys
from a real server."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from aiohttp import web
from joserfc import jwt
from joserfc.jwk import ECKey, OKPKey, RSAKey

from ostiary.core.issuers import Algorithm, Issuer, KeysAt, KeysInFile

URL = "https://login.example.com/"
AUDIENCE = "https://api.example.com"
EVERY_ALGORITHM = frozenset(Algorithm)

Key = RSAKey | ECKey | OKPKey


@cache
def rsa_key(kid: str = "rsa", bits: int = 2048) -> RSAKey:
    """Made once: it takes a tenth of a second."""
    return RSAKey.generate_key(bits, {"kid": kid, "use": "sig"})


def ec_key(kid: str = "ec", curve: str = "P-256") -> ECKey:
    return ECKey.generate_key(curve, {"kid": kid, "use": "sig"})


def ed_key(kid: str = "ed") -> OKPKey:
    return OKPKey.generate_key("Ed25519", {"kid": kid, "use": "sig"})


def claims(**changes: object) -> dict[str, Any]:
    """Good ones, for five minutes; None leaves one out."""
    now = int(time.time())
    values: dict[str, object] = {
        "iss": URL,
        "aud": AUDIENCE,
        "sub": "user-1",
        "iat": now,
        "exp": now + 300,
        "scope": "read",
    }
    return {name: value for name, value in (values | changes).items() if value is not None}


def mint(key: Key, algorithm: str = "ES256", said: Mapping[str, Any] | None = None, **header: object) -> str:
    """A token by joserfc."""
    head = {"alg": algorithm, "kid": key.kid, "typ": "JWT"} | header
    head = {name: value for name, value in head.items() if value is not None}
    return jwt.encode(head, dict(claims() if said is None else said), key, algorithms=[algorithm])


def base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def document(*keys: Key) -> bytes:
    return json.dumps({"keys": [key.as_dict(private=False) for key in keys]}).encode()


def issuer(keys: KeysAt | KeysInFile | Iterable[Key], **changes: object) -> Issuer:
    if not isinstance(keys, KeysAt | KeysInFile):
        keys = KeysInFile("keys.json", document(*keys))
    values: dict[str, object] = {
        "name": "corp",
        "url": URL,
        "audiences": (AUDIENCE,),
        "keys": keys,
        "algorithms": EVERY_ALGORITHM,
        "environment": "live",
        "skew_seconds": 0.0,
    }
    return Issuer(**(values | changes))  # type: ignore[arg-type]  # a builder: the fields are checked where they are used


@dataclass
class KeyServer:
    """Answers every GET with `body`, once `hold` is set if there is one; `asked` are the paths it was asked for."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    port: int = 0
    scheme: str = "http"
    hold: asyncio.Event | None = None

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}/keys"

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        if self.hold is not None:
            await self.hold.wait()
        return web.Response(body=self.body, status=self.status, headers=self.headers)


@asynccontextmanager
async def key_server(*keys: Key, context: ssl.SSLContext | None = None) -> AsyncIterator[KeyServer]:
    server = KeyServer(document(*keys), scheme="http" if context is None else "https")
    application = web.Application()
    application.router.add_get("/{path:.*}", server.answer)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    server.port = runner.addresses[0][1]
    try:
        yield server
    finally:
        await runner.cleanup()
