"""A service as small as can be, with which the processes of the gateway are tested: HTTP/1.1, keep-alive, no bodies.

    GET /            200, the pid of the worker
    GET /slow        200, half of the body at once and the other half once there is a file `release`, or at 10 s
    GET /crash       the worker is gone, unanswered
    GET /hang        the event loop stands still
    GET /stall       the event loop stands still for half a second
    GET /text        200, what the configuration says: the names of its routes

A file `cannot_start` or `crash_at_start` beside the spool makes the next process end so."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from pathlib import Path

from ostiary.core.model import Configuration
from ostiary.gateway.lifecycle import CannotStartService, ChildContext


async def build(context: ChildContext) -> TinyService:
    directory = Path(context.configuration.stores.spool)
    if (directory / "crash_at_start").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    if (directory / "cannot_start").exists():
        raise CannotStartService("the file cannot_start is there; remove it")
    return TinyService(context, directory)


class TinyService:
    def __init__(self, context: ChildContext, directory: Path) -> None:
        self._configuration = context.configuration
        self._requests = context.metrics.counter("http_requests_total", route="tiny", method="GET", status="200")
        self._directory = directory
        self._draining = False
        self._running: set[asyncio.Task[None]] = set()
        self._idle: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def start(self, sock: socket.socket | None) -> None:
        self._server = await asyncio.start_server(self._connected, sock=sock, backlog=1024)

    def reload(self, configuration: Configuration) -> None:
        if any(route.name == "refused-by-worker" for route in configuration.routes):
            raise ValueError("this worker does not take the route refused-by-worker")
        self._configuration = configuration

    async def drain(self, deadline_seconds: float) -> None:
        self._draining = True
        assert self._server is not None
        self._server.close()
        for writer in self._idle:
            writer.close()
        if self._running:
            await asyncio.wait(self._running, timeout=deadline_seconds)

    def status(self) -> dict[str, object]:
        return {"requests": self._requests.total}

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            # A connection that was accepted gets one answer, also while draining.
            while True:
                self._idle.add(writer)
                head = await reader.readuntil(b"\r\n\r\n")
                self._idle.discard(writer)
                self._running.add(task)
                await self._answer(head.split(b" ", 2)[1].decode(), writer)
                self._running.discard(task)
                if self._draining:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._running.discard(task)
            self._idle.discard(writer)
            writer.close()

    async def _answer(self, path: str, writer: asyncio.StreamWriter) -> None:
        body = f"{os.getpid():10}"
        if path == "/crash":
            os.kill(os.getpid(), signal.SIGKILL)
        if path == "/hang":
            time.sleep(3600)  # noqa: ASYNC251  the point of it
        if path == "/stall":
            time.sleep(0.5)  # noqa: ASYNC251  the point of it
        if path == "/text":
            body = ",".join(route.name for route in self._configuration.routes)
        self._requests.add(1)  # before the client can have the answer
        connection = "close" if self._draining else "keep-alive"
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: {connection}\r\n\r\n"
        half = len(body) // 2
        if path == "/slow":
            writer.write((head + body[:half]).encode())
            await self._released()
            writer.write(body[half:].encode())
        else:
            writer.write((head + body).encode())
        await writer.drain()

    async def _released(self) -> None:
        deadline = time.monotonic() + 10
        while not (self._directory / "release").exists() and time.monotonic() < deadline:  # noqa: ASYNC110  a file reaches every worker
            await asyncio.sleep(0.01)
