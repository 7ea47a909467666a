"""The life of a child of the supervisor: start, tell how it goes, obey, end. What it serves is built by the caller."""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import logging
import os
import resource
import signal
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from ostiary import __version__
from ostiary.core.model import Configuration
from ostiary.gateway.channel import Channel, unpack_configuration
from ostiary.gateway.listening import HANDSHAKE_SECONDS, CannotListen, bind_shared, refuse_new_connections
from ostiary.gateway.overload import Watchdog
from ostiary.gateway.telemetry import Metrics, configure_logging
from ostiary.gateway.telemetry.log import tell_left_out

log = logging.getLogger("ostiary.gateway.lifecycle")

TICK_SECONDS = 1.0
# A service that has overrun its deadline gets this to close what is left; the supervisor waits longer still.
DRAIN_MARGIN_SECONDS = 1.0
# Objects made before the young ones are looked through. The request path makes few cycles, and its objects die by
# reference count; Python's default of 700 would look every few dozen requests. See docs/decisions/0006-processes.md.
GC_THRESHOLD = (20_000, 20, 50)


class CannotStartService(Exception):
    """The service can't begin, for a reason the operator can mend; the text names both."""


class Service(Protocol):
    """What a child runs."""

    async def start(self, sock: socket.socket | None) -> None:
        """Begins to accept on a bound socket that does not listen yet; owns it from then on. None for what serves no
        clients."""

    def reload(self, configuration: Configuration) -> None:
        """Brings a configuration in force, whole or not at all: after an exception the one before is in force."""

    async def drain(self, deadline_seconds: float) -> None:
        """Stops accepting, finishes what runs, closes what is left at the deadline."""

    def status(self) -> dict[str, object]:
        """What /status shows: no secrets, values that JSON takes."""


@dataclass(frozen=True, slots=True)
class ChildContext:
    """What a service is built from. `give_up` ends the process with a reason: the supervisor replaces it. `node` is the
    descriptor of what the workers of this node share (`node`), None for a child that is no worker."""

    name: str
    configuration: Configuration
    metrics: Metrics
    give_up: Callable[[str], None] = field(repr=False)
    node: int | None


Build = Callable[[ChildContext], Awaitable[Service]]


async def run_child(sock: socket.socket, build: Build) -> int:
    """Runs one child over its channel to the supervisor, once it is told to start; returns the exit status."""
    # Where it crashed or hung (the supervisor ends a hanging one with SIGABRT) stands on standard error.
    faulthandler.enable()
    raise_descriptor_limit()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    channel = await Channel.over(sock)
    received = await channel.receive()
    if received is None:  # never needed
        return 0
    start, payload = received
    configure_logging(start["name"])
    close_other_regions(start)
    if start["version"] != __version__:  # what is pickled by one version is not for another to guess at
        problem = f"the supervisor runs version {start['version']}, on disk is {__version__}; send it SIGUSR2"
        return await tell_failure(channel, problem)
    return await ChildRun(channel, start, unpack_configuration(payload)).run(build)


async def tell_failure(channel: Channel, problem: str) -> int:
    """Says why this process can't start; returns its exit status."""
    channel.send({"event": "failed", "problem": problem})
    await channel.drained()
    return 1


class ChildRun:
    """A child from its first message on."""

    def __init__(self, channel: Channel, start: dict[str, Any], configuration: Configuration) -> None:
        self._channel = channel
        self._start = start
        self._configuration = configuration
        self._gave_up: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def run(self, build: Build) -> int:
        start = self._start
        metrics = Metrics.attach(start["metrics_descriptor"])
        context = ChildContext(start["name"], self._configuration, metrics, self._give_up, start["node_descriptor"])
        try:
            service = await build(context)
            sock = bind_shared(*start["listen"]) if start["listen"] is not None else None
            await service.start(sock)
        except (CannotStartService, CannotListen) as error:
            return await tell_failure(self._channel, str(error))
        except Exception as error:
            log.exception("start_failed")
            return await tell_failure(self._channel, f"{type(error).__name__}, a defect; the log has it")
        settle_garbage_collection()
        watchdog = Watchdog(metrics)
        watchdog.start()
        obeying = asyncio.create_task(self._obey(service))
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, obeying.cancel)
        telling = asyncio.create_task(self._tell(service, metrics))
        self._channel.send({"event": "ready"})
        ends: set[asyncio.Future[Any]] = {obeying, self._gave_up}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if self._gave_up.done():
            log.error("gave_up", extra={"fields": {"reason": self._gave_up.result()}})
            return 1
        # SIGTERM to this process alone: it drains and is replaced.
        drain_seconds = self._configuration.gateway.drain_seconds if obeying.cancelled() else obeying.result()
        await self._drain(service, sock, drain_seconds)
        telling.cancel()
        watchdog.stop()
        return 0

    def _give_up(self, reason: str) -> None:
        if not self._gave_up.done():
            self._gave_up.set_result(reason)

    async def _obey(self, service: Service) -> float:
        """Takes commands until one ends this process, or the supervisor is gone. The seconds left for draining."""
        while (received := await self._channel.receive()) is not None:
            message, payload = received
            if message["do"] == "drain":
                return float(message["deadline"])
            if message["do"] == "reload":
                self._reload(service, message["generation"], payload)
        log.error("supervisor_gone")
        return self._configuration.gateway.drain_seconds

    def _reload(self, service: Service, generation: int, payload: bytes) -> None:
        try:
            configuration = unpack_configuration(payload)
            service.reload(configuration)
        except Exception as error:
            log.exception("reload_refused", extra={"fields": {"generation": generation}})
            self._channel.send({"event": "refused", "problem": f"{type(error).__name__}: {error}"})
            return
        self._configuration = configuration
        self._channel.send({"event": "reloaded", "generation": generation})

    async def _drain(self, service: Service, sock: socket.socket | None, seconds: float) -> None:
        if sock is not None and sock.fileno() >= 0 and refuse_new_connections(sock):
            await asyncio.sleep(min(HANDSHAKE_SECONDS, seconds))
        try:
            await asyncio.wait_for(service.drain(seconds), seconds + DRAIN_MARGIN_SECONDS)
        except TimeoutError:
            log.warning("drain_overran", extra={"fields": {"deadline_seconds": seconds}})

    async def _tell(self, service: Service, metrics: Metrics) -> None:
        """A status a second. How late the tick comes is how long the loop was held up."""
        loop = asyncio.get_running_loop()
        lag = metrics.gauge("event_loop_lag_seconds")
        while True:
            try:
                status = service.status()
            except Exception as error:  # a defect of a report must not look like a process that hangs
                log.exception("status_failed")
                status = {"status_failed": type(error).__name__}
            self._channel.send({"event": "status", "service": status})
            await self._channel.drained()
            tell_left_out()
            due = loop.time() + TICK_SECONDS
            await asyncio.sleep(TICK_SECONDS)
            metrics.values[lag] = max(0.0, loop.time() - due)


def settle_garbage_collection() -> None:
    """What start-up made lives as long as the process: it is set aside, so that no collection looks through it again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLD)


def raise_descriptor_limit() -> None:
    """Up to what the machine allows: the usual soft limit of 1 024 is for programs that use select(2)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):
            log.warning("descriptor_limit_stays", extra={"fields": {"soft": soft, "hard": hard}})


def close_other_regions(start: dict[str, Any]) -> None:
    """A spare inherits the metrics regions of all slots it may be put in; it needs the one of the slot it is in."""
    for descriptor in start["regions"]:
        if descriptor != start["metrics_descriptor"]:
            os.close(descriptor)


def take_channel_socket() -> socket.socket:
    """The channel is standard input at start. It is moved away, so that nothing reads from it by mistake."""
    sock = socket.socket(fileno=os.dup(0))
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    return sock
