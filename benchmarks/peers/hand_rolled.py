"""What a team writes for itself: an aiohttp application, ClientSession, redis-py, prometheus_client.

    python hand_rolled.py PORT UPSTREAM_PORT REDIS_PORT LIMIT_SCRIPT KEY_ID   (the secret comes in the environment, SECRET)

As the other reference peers it checks a signature over method, target and body, with no timestamp and no nonce, sends no
identity upstream, and its usage records stay in memory and are thrown away."""

from __future__ import annotations

import hmac
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import redis.asyncio
import uvloop
from aiohttp import ClientSession, TCPConnector, web
from prometheus_client import Counter, Histogram

REQUESTS = Counter("http_requests", "Requests.", ["route", "status"])
DURATION = Histogram("http_request_duration_seconds", "Duration.", ["route"])
DROPPED_HEADERS = {
    *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailers", "transfer-encoding"),
    *("upgrade", "host", "content-length", "x-api-key"),
}


async def build(upstream_port: int, redis_port: int, limit_script: str, keys: dict[str, bytes]) -> web.Application:
    session = ClientSession(connector=TCPConnector(limit=0, keepalive_timeout=600), auto_decompress=False)
    limit: Callable[..., Awaitable[list[int]]]
    limit = redis.asyncio.Redis(port=redis_port).register_script(limit_script)
    usage: list[tuple[str, str, str, int, float, int]] = []

    async def handle(request: web.Request) -> web.Response:
        started = time.monotonic()
        body = await request.read() if request.body_exists else b""
        key_id, _, signature = request.headers.get("X-API-Key", "").partition(":")
        secret = keys.get(key_id)
        if secret is None:
            return web.Response(status=401)
        message = b"%b\n%b\n%b" % (request.method.encode(), request.path_qs.encode(), body)
        if not hmac.compare_digest(hmac.new(secret, message, "sha256").hexdigest(), signature):
            return web.Response(status=401)
        allowed, remaining, _ = await limit(keys=["rl:" + key_id], args=[1000000000, 3600000, 1000000000, 1000000000])
        if not allowed:
            return web.Response(status=429)
        headers = {name: value for name, value in request.headers.items() if name.lower() not in DROPPED_HEADERS}
        headers["X-Forwarded-For"] = request.remote or ""
        url = f"http://127.0.0.1:{upstream_port}{request.path_qs}"
        async with session.request(
            request.method, url, headers=headers, data=body or None, allow_redirects=False
        ) as answer:
            content = await answer.read()
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in DROPPED_HEADERS}
            kept["RateLimit-Remaining"] = str(remaining)
            seconds = time.monotonic() - started
            usage.append((key_id, request.path, request.method, answer.status, seconds, len(content)))
            if len(usage) > 5000:
                usage.clear()
            REQUESTS.labels("clients", answer.status).inc()
            DURATION.labels("clients").observe(seconds)
            return web.Response(status=answer.status, body=content, headers=kept)

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handle)
    return application


if __name__ == "__main__":
    port, upstream_port, redis_port, limit_script, key_id = sys.argv[1:]
    web.run_app(
        build(
            int(upstream_port), int(redis_port), Path(limit_script).read_text(), {key_id: os.environ["SECRET"].encode()}
        ),
        host="127.0.0.1",
        port=int(port),
        access_log=None,
        loop=uvloop.new_event_loop(),
    )
