"""Where clients come in: sockets that stay open while what TLS shows and asks on them changes.

An asyncio server has its TLS context for good. So another one begins to accept on the same sockets before the one before it
ends: no connection is refused in between, and whoever connects from then on is asked what the new context asks."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Sequence

from aiohttp import web

from ostiary.control_plane.http.listener import Listener

# A round trip or two, and whatever a person's smart card takes; after that the place is given to somebody else.
HANDSHAKE_SECONDS = 15.0
BACKLOG = 128


class Doors:
    """Of a listener that is set up. Once closed, they stay so."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._sockets: Sequence[socket.socket] = ()
        self._sites: Sequence[_Site] = ()

    async def open(self, host: str, port: int, tls: ssl.SSLContext | None) -> None:
        """Raises OSError when the address can't be listened on."""
        loop = asyncio.get_running_loop()
        # The loop binds as it ever does, all addresses of a name; of its server nothing is wanted but that.
        bound = await loop.create_server(asyncio.Protocol, host, port, start_serving=False)
        self._sockets = [socket.socket(fileno=os.dup(each.fileno())) for each in bound.sockets]
        bound.close()
        await self.change(tls)

    async def change(self, tls: ssl.SSLContext | None) -> None:
        """For connections that are made from now on. Raises OSError, and then nothing has changed."""
        fresh: list[_Site] = []
        try:
            for each in self._sockets:
                fresh.append(_Site(self._listener, each.dup(), tls))
                await fresh[-1].start()
        except OSError:
            await _stop(fresh)
            raise
        before, self._sites = self._sites, fresh
        await _stop(before)

    def close(self) -> None:
        """Before the listener is cleaned up, which ends what accepts here: else clients would wait for nobody."""
        for each in self._sockets:
            each.close()


async def _stop(sites: Sequence[_Site]) -> None:
    for site in sites:
        await site.stop()


class _Site(web.BaseSite):
    """Accepts on a socket, for the server of a runner; with a bound on handshakes, which aiohttp's own leaves to asyncio."""

    __slots__ = ("_socket",)

    def __init__(self, runner: web.BaseRunner, sock: socket.socket, tls: ssl.SSLContext | None) -> None:
        super().__init__(runner, ssl_context=tls, backlog=BACKLOG)
        self._socket = sock

    @property
    def name(self) -> str:
        return f"{'http' if self._ssl_context is None else 'https'}://{self._socket.getsockname()}"

    async def start(self) -> None:
        await super().start()
        assert self._runner.server is not None  # noqa: S101  the runner is set up
        self._server = await asyncio.get_running_loop().create_server(
            self._runner.server,
            sock=self._socket,
            ssl=self._ssl_context,
            backlog=self._backlog,
            ssl_handshake_timeout=None if self._ssl_context is None else HANDSHAKE_SECONDS,
        )

    async def stop(self) -> None:
        await super().stop()
        self._socket.close()
