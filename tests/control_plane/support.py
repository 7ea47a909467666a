"""What the tests of the control plane share: a configuration, and an API client that speaks in documents."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import DummyCookieJar, web
from aiohttp.test_utils import TestClient, TestServer

from ostiary.control_plane.app import build_app
from ostiary.control_plane.http.listener import Listener
from ostiary.core.config.key_encryption import the_only_one
from ostiary.core.model import (
    Configuration,
    ControlPlaneSettings,
    GatewaySettings,
    Listen,
    Plan,
    Rate,
    Stores,
)

OPERATOR_TOKEN = "operator-token-for-tests-0123456789abcdef"
KEY_ENCRYPTION_KEY = bytes(range(32))
# What the control plane connects as, in every test that does not say otherwise; the tests themselves are the owner.
SERVICE_ROLE = "ostiary_service"


def configuration_for(
    database: str | None,
    *,
    operator_token: str | None = OPERATOR_TOKEN,
    key_encryption_key: bytes | None = KEY_ENCRYPTION_KEY,
    key_prefix: str = "",
    rate_per_actor: Rate | None = None,
    rate_per_address: Rate | None = None,
) -> Configuration:
    return Configuration(
        gateway=GatewaySettings(listen=Listen("127.0.0.1", 0), admin=Listen("127.0.0.1", 0)),
        control_plane=ControlPlaneSettings(
            listen=Listen("127.0.0.1", 0),
            operator_token=operator_token,
            key_prefix=key_prefix,
            rate_per_actor=rate_per_actor,
            rate_per_address=rate_per_address,
        ),
        stores=Stores(
            redis=None,
            redis_deadline_seconds=0.02,
            postgres=database,
            spool="/nonexistent",
            spool_bytes_max=1,
            key_encryption=None if key_encryption_key is None else the_only_one(key_encryption_key),
        ),
        plans={"standard": Plan("standard"), "free": Plan("free")},
        upstreams={},
        routes=(),
        keys={},
    )


def url_for(role: str, database: str) -> str:
    """The URL of the owner, for another role."""
    return re.sub(r"//[^@]*@", f"//{role}@", database)


class ListeningServer(TestServer):
    """aiohttp's test server, on the listening side that is used in earnest."""

    async def _make_runner(self, **_: Any) -> web.BaseRunner:
        return Listener(self.app)


@asynccontextmanager
async def serving(configuration: Configuration) -> AsyncIterator[Api]:
    """The control plane of `configuration` on a free port."""
    # Cookies are sent where a test says so.
    async with TestClient(ListeningServer(await build_app(configuration)), cookie_jar=DummyCookieJar()) as client:
        yield Api(client)


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def document(self) -> Any:
        return json.loads(self.text)

    @property
    def code(self) -> str:
        return str(self.document["code"])

    @property
    def fields(self) -> dict[str, str]:
        """Field and problem of a 422."""
        return {error["field"]: error["problem"] for error in self.document["errors"]}


class Api:
    """Calls with the operator token; paths are below /api/v1."""

    def __init__(self, client: TestClient[Any, Any]) -> None:
        self.client = client

    async def request(self, method: str, path: str, *, token: str | None = OPERATOR_TOKEN, **options: Any) -> Reply:
        headers = dict(options.pop("headers", {}))
        if token is not None:
            headers.setdefault("Authorization", f"Bearer {token}")
        base = (
            ""
            if path.startswith(("/docs", "/problems/", "/healthz", "/readyz", "/api/", "/.well-known/"))
            else "/api/v1"
        )
        async with self.client.request(method, base + path, headers=headers, **options) as response:
            return Reply(response.status, response.headers.copy(), await response.text())

    async def get(self, path: str, **options: Any) -> Reply:
        return await self.request("GET", path, **options)

    async def post(self, path: str, document: object, *, idempotency_key: str | None = None) -> Reply:
        headers = {} if idempotency_key is None else {"Idempotency-Key": idempotency_key}
        return await self.request("POST", path, json=document, headers=headers)

    async def post_text(self, path: str, body: bytes | str, **headers: str) -> Reply:
        return await self.request("POST", path, data=body, headers={"Content-Type": "application/json", **headers})

    async def organization(self, name: str = "Acme") -> str:
        reply = await self.post("/organizations", {"name": name})
        assert reply.status == 201, reply.text
        return str(reply.document["id"])

    async def app(self, organization_id: str | None = None, name: str = "Shop") -> str:
        organization_id = organization_id or await self.organization()
        reply = await self.post("/apps", {"organization_id": organization_id, "name": name})
        assert reply.status == 201, reply.text
        return str(reply.document["id"])

    async def key(self, app_id: str, **fields: object) -> dict[str, Any]:
        reply = await self.post(f"/apps/{app_id}/keys", {"name": "a key", **fields})
        assert reply.status == 201, reply.text
        document: dict[str, Any] = reply.document
        return document
