"""What the control plane answers besides its operations: their description, the pages about problems, health, and the keys
that sign access tokens."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

import asyncpg
from aiohttp import web

from ostiary.control_plane.authorization import MATRIX
from ostiary.control_plane.db import Pool
from ostiary.control_plane.http import documentation, interactive, openapi, problem_pages
from ostiary.control_plane.http.edge import KEY_DOCUMENT_PATH, expect_later
from ostiary.control_plane.http.operations import BASE, AnyOperation
from ostiary.control_plane.http.problems import Problem, ProblemCode
from ostiary.control_plane.sign_in import SigningKeys

# /readyz is asked by machines that wait for it; a slow yes is a no.
READY_SECONDS = 1.0


def add_pages(
    app: web.Application, declared: Sequence[AnyOperation], pool: Pool, warnings: Sequence[str], cookie: str
) -> None:
    """`declared` is what they describe, `warnings` what /readyz tells, `cookie` the name of the one that has a session."""
    unknown = [each.id for each in declared if MATRIX[each.id].unknown]
    described = json.dumps(openapi.document(declared, unknown=unknown, cookie=cookie)).encode()
    # By path: the description of this API, and of each error code of the gateway.
    pages = {
        interactive.REFERENCE: documentation.page(declared, unknown=unknown),
        **problem_pages.pages(problem_pages.installed_text()),
    }
    assets = interactive.assets()
    tried = interactive.page()
    page_policy = {"Content-Security-Policy": documentation.content_security_policy()}

    async def openapi_document(_: web.Request) -> web.Response:
        return web.Response(body=described, content_type="application/json")

    async def page(request: web.Request) -> web.Response:
        return web.Response(text=pages[request.path], content_type="text/html", headers=page_policy)

    async def docs(_: web.Request) -> web.Response:
        policy = {"Content-Security-Policy": interactive.CONTENT_SECURITY_POLICY}
        return web.Response(text=tried, content_type="text/html", headers=policy)

    async def asset(request: web.Request) -> web.Response:
        found = assets[request.path]
        # Changes with a release of Swagger UI at most; an hour spares a reader the 2 MB.
        caching = {"Cache-Control": "public, max-age=3600"}
        return web.Response(body=found.content, content_type=found.content_type, headers=caching)

    async def healthz(_: web.Request) -> web.Response:
        # That this process answers. Not Postgres: to restart the control plane would not bring it back.
        return web.json_response({"status": "ok"})

    async def readyz(_: web.Request) -> web.Response:
        try:
            async with asyncio.timeout(READY_SECONDS), pool.acquire() as connection:
                await connection.fetchval("SELECT 1")
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise Problem(ProblemCode.DATABASE_UNAVAILABLE) from error
        return web.json_response({"status": "ready", **({"warnings": list(warnings)} if warnings else {})})

    for path, handler in (
        (f"{BASE}/openapi.json", openapi_document),
        ("/docs", docs),
        *((path, asset) for path in assets),
        *((path, page) for path in pages),
        ("/healthz", healthz),
        ("/readyz", readyz),
    ):
        app.router.add_route("GET", path, handler, expect_handler=expect_later)


def add_key_document(app: web.Application, keys: SigningKeys) -> None:
    """What others verify our access tokens by."""

    async def key_document(_: web.Request) -> web.Response:
        # Short: a key is published ten minutes before it signs.
        headers = {"Cache-Control": "public, max-age=300"}
        return web.json_response(await keys.document(), headers=headers, content_type="application/jwk-set+json")

    app.router.add_route("GET", KEY_DOCUMENT_PATH, key_document, expect_handler=expect_later)
