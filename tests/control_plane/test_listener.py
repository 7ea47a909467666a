"""Bytes that are not HTTP, and bodies that do not come: an answer, and nothing of the input repeated."""

from __future__ import annotations

import asyncio
import json

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from ostiary.control_plane.http import Problem
from ostiary.control_plane.http.reading import read_body
from ostiary.control_plane.log import JsonFormatter
from tests.control_plane.support import Api

CANARY = "operator-token-canary"


@pytest.mark.parametrize(
    "text",
    [
        f"GET /healthz HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {CANARY}\x01\r\n\r\n",
        f"GET /healthz HTTP/1.1\r\nHost: x\r\nAuthorization Bearer {CANARY}\r\n\r\n",
        f"{CANARY}\r\n\r\n",
        f"GET /{CANARY} HTTP/9.9\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: x\r\n{CANARY}: {'x' * 70_000}\r\n\r\n",
        f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\nX: {CANARY}\r\n\r\n",
        f"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\nX: {CANARY}\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_refused_and_repeated_nowhere(
    refusing_api: Api, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    """Row 132: the line that could not be parsed may be the one with the operator token."""
    caplog.set_level("DEBUG", "ostiary")
    server = refusing_api.client.server
    reader, writer = await asyncio.open_connection(server.host, server.port)
    writer.write(text.encode())
    async with asyncio.timeout(10):
        head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
    writer.close()
    assert head.startswith(("HTTP/1.0 400 ", "HTTP/1.1 400 "))
    assert json.loads(body)["code"] == "malformed_request"
    assert "application/problem+json" in head
    assert "aiohttp" not in head
    assert "X-Request-I" in head
    log = "\n".join(JsonFormatter().format(record) for record in caplog.records)
    assert '"not_http"' in log
    assert CANARY not in head + body + log


async def test_a_body_that_does_not_come_is_given_up() -> None:
    """Slow senders would hold every connection there is."""
    refused: asyncio.Future[Problem] = asyncio.get_running_loop().create_future()

    async def handler(request: web.Request) -> web.Response:
        try:
            await read_body(request, seconds=0.05)
        except Problem as problem:
            refused.set_result(problem)
        return web.Response()

    app = web.Application()
    app.router.add_post("/", handler)
    async with TestServer(app) as server:
        _, writer = await asyncio.open_connection(server.host, server.port)
        writer.write(b'POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"a"')
        problem = await asyncio.wait_for(refused, timeout=5)
        writer.close()
    assert problem.code.code == "request_timeout"
    assert ("Connection", "close") in problem.headers
