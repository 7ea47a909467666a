"""The admin listener: what operators, load balancers and Prometheus ask the gateway, answered by the supervisor.

It is apart from the workers, so it answers while they are overloaded, starting or dead. It has no authentication: it
listens where the configuration says, by default on the loopback address, and shows no secret."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web

from ostiary.gateway.listening import CannotListen
from ostiary.gateway.telemetry.exposition import Exposition

_LINGER_SECONDS = 1.0
# An answer takes a millisecond, /metrics with ten thousand series some fifty.
_ANSWER_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Readiness:
    """`reasons` says why not; empty when ready."""

    reasons: tuple[str, ...]

    @property
    def ready(self) -> bool:
        return not self.reasons


class AdminListener:
    """Serves /metrics, /healthz, /readyz and /status on one socket."""

    def __init__(
        self,
        *,
        exposition: Exposition,
        readiness: Callable[[], Readiness],
        status: Callable[[], dict[str, object]],
    ) -> None:
        self._exposition = exposition
        self._readiness = readiness
        self._status = status
        # When a load balancer asked last (loop time), and when it was last told that the gateway is not ready.
        self.readiness_asked_at = float("-inf")
        self.refusal_told = asyncio.Event()
        application = web.Application()
        application.router.add_get("/metrics", self._metrics)
        application.router.add_get("/healthz", self._healthz)
        application.router.add_get("/readyz", self._readyz)
        application.router.add_get("/status", self._state)
        application.on_response_prepare.append(_harden)
        self._site: web.SockSite | None = None
        self._runner = web.AppRunner(
            application, access_log=None, handle_signals=False, shutdown_timeout=_LINGER_SECONDS
        )
        self.port = 0

    async def start(self, sock: socket.socket, host: str) -> None:
        """Listens on a socket bound by `listening.reserve`. Raises CannotListen."""
        if self._runner.server is None:
            await self._runner.setup()
        self._site = web.SockSite(self._runner, sock)
        try:
            await self._site.start()
        except OSError as error:
            raise CannotListen(f"can't listen on {host}: {error.strerror}") from error
        self.port = int(sock.getsockname()[1])

    async def pause(self) -> None:
        """Accepts no more, and lets what was accepted be answered. New connections wait in the queue of the socket, if
        another descriptor holds it open, until `start` is called with that one."""
        if self._site is not None:
            await self._site.stop()
            self._site = None
            await asyncio.sleep(_ANSWER_SECONDS)

    async def close(self) -> None:
        await self._runner.cleanup()

    async def _metrics(self, request: web.Request) -> web.Response:
        # In a thread: some ten thousand series take a while to write, and liveness must not wait for them.
        body, content_type = await asyncio.to_thread(self._exposition.render, request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _healthz(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, request: web.Request) -> web.Response:
        readiness = self._readiness()
        self.readiness_asked_at = asyncio.get_running_loop().time()
        if not readiness.ready:
            self.refusal_told.set()
        return web.json_response(
            {"ready": readiness.ready, "reasons": list(readiness.reasons)}, status=200 if readiness.ready else 503
        )

    async def _state(self, request: web.Request) -> web.Response:
        return web.json_response(self._status())


async def _harden(request: web.BaseRequest, response: web.StreamResponse) -> None:
    response.headers["Server"] = "ostiary"
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Content-Type-Options"] = "nosniff"
