"""The listening side: aiohttp's server, with our answer to bytes that are not HTTP.

aiohttp's own answer quotes the line it could not parse, in the answer and in the log. That line may hold the operator
token, so here nothing of the input is repeated."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any
from uuid import uuid4

from aiohttp import web

from ostiary.control_plane.http.edge import SECURITY_HEADERS, SERVER
from ostiary.control_plane.http.problems import Problem, ProblemCode, answer

log = logging.getLogger("ostiary.control_plane")


class _Protocol(web.RequestHandler):
    __slots__ = ("ending",)

    ending: bool  # with its next answer

    def end_soon(self, *, look_again: bool = True) -> None:
        """With the answer to the call that is under way; at once if there is none. Not by `close`: what a client sends after
        that is thrown away, the rest of a body included, and the connection stays open without anybody to answer."""
        if self._waiter is not None and self.transport is not None:
            self.transport.close()
            return
        self.ending = True
        if look_again:  # it has only just been made, and waits for a call in a moment
            self._loop.call_soon(partial(self.end_soon, look_again=False))

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if request.writer.output_size > 0:
            raise ConnectionError("an answer is under way already")
        code = ProblemCode.INTERNAL_ERROR if status >= 500 else ProblemCode.MALFORMED_REQUEST
        detail = None if status >= 500 else "This is not a valid HTTP/1.1 request."
        fields = {"error": type(exc).__qualname__, "client": request.remote}
        log.warning("not_http", extra={"fields": fields})
        request_id = uuid4().hex
        response = answer(Problem(code, detail), request_id)
        response.headers["X-Request-Id"] = request_id
        response.headers["Server"] = SERVER
        response.headers.update(SECURITY_HEADERS)
        response.force_close()
        return response


class _Server(web.Server):
    def __init__(self, inner: web.Server, **options: Any) -> None:
        super().__init__(inner.request_handler, request_factory=inner.request_factory, **options)
        self._options = options

    def __call__(self) -> web.RequestHandler:
        protocol = _Protocol(self, loop=self._loop, **self._options)
        protocol.ending = False
        return protocol


class Listener(web.AppRunner):
    """Runs `app`. The keep-alive and shutdown times are bounds, in seconds: see the constants' reasons."""

    __slots__ = ()

    # Longer than the idle time of usual proxies (60 s), so that they close first and lose no call.
    KEEPALIVE_SECONDS = 75.0
    # Every call ends within this: it has 10 s for its body, 2 s for a connection, 10 s for its statements.
    DRAIN_SECONDS = 25.0

    # After a refusal, how long to read on from a client that is still sending its body, so that it gets to see the answer.
    LINGER_SECONDS = 1.0

    def __init__(self, app: web.Application) -> None:
        super().__init__(app, access_log=None, shutdown_timeout=self.DRAIN_SECONDS)

    def end_connections(self) -> None:
        """All that there are: who wants to go on connects anew."""
        for connection in self.server.connections if self.server is not None else ():
            if isinstance(connection, _Protocol):
                connection.end_soon()

    async def _make_server(self) -> web.Server:
        inner = await super()._make_server()
        return _Server(
            inner,
            access_log=None,
            keepalive_timeout=self.KEEPALIVE_SECONDS,
            lingering_time=self.LINGER_SECONDS,
            auto_decompress=False,  # see `reading.read_body`
        )
