"""The gateway of one worker: the request path, the connections, the snapshot in force.

Collaborators (metrics, spool, keys, limiter) are made and closed by whoever makes this (`worker.py`)."""

from __future__ import annotations

import asyncio
import logging
import socket
import time

from ostiary.core.errors import GatewayError
from ostiary.core.model import Configuration, Target, Upstream
from ostiary.gateway.edge_tls import server_context
from ostiary.gateway.health import HealthChecks
from ostiary.gateway.keys import KeyRing
from ostiary.gateway.limits import Limiter
from ostiary.gateway.overload import Accepting, Overload
from ostiary.gateway.phases.admit import RequestIds
from ostiary.gateway.phases.fail import render
from ostiary.gateway.phases.record import Recorder
from ostiary.gateway.pipeline import Pipeline
from ostiary.gateway.snapshot import Snapshot
from ostiary.gateway.telemetry.meters import RouteMeters
from ostiary.gateway.telemetry.metrics import Metrics
from ostiary.gateway.upstreams import UpstreamGroup
from ostiary.gateway.usage import Spool
from ostiary.gateway.wire.client import ClientConnection
from ostiary.gateway.wire.deadlines import Deadlines
from ostiary.gateway.wire.pool import TargetPool, as_protocol

logger = logging.getLogger("ostiary.gateway")

BACKLOG = 4096
IDLE_GRACE_SECONDS = 0.5
UNROUTED = "none"  # the route label of requests that no route took


class Gateway:
    """Accepts connections on a socket and answers them. `reload` swaps the configuration between two requests."""

    def __init__(
        self,
        *,
        configuration: Configuration,
        metrics: Metrics,
        spool: Spool | None,
        keys: KeyRing,
        limiter: Limiter,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.clock = self._loop.time
        self._metrics = metrics
        self._keys = keys
        self._meters: dict[str, RouteMeters] = {}
        self._pools: dict[tuple[Target, float], TargetPool] = {}
        self.deadlines = Deadlines(every_sweep=self._every_sweep)
        self.limits = configuration.gateway.client_limits
        self.connections: set[ClientConnection] = set()
        self.draining = False
        self._overload = Overload(
            metrics=metrics, limits=self.limits, connections=self.connections, pools=lambda: self._pools.values()
        )
        self.connections_max = self._overload.connections_max
        self.shut = False
        self._ids = RequestIds()
        self._open_connections = metrics.gauge("client_connections")
        self._unrouted = self._meters_of(UNROUTED)
        self._recorder = Recorder(metrics=metrics, spool=spool, unrouted=self._unrouted)
        self.snapshot = self._compile(configuration)
        self._health = HealthChecks(metrics=metrics)
        self._accepting: Accepting | None = None
        self.handle = Pipeline(
            keys=keys,
            limiter=limiter,
            recorder=self._recorder,
            shedder=self._overload.shedder,
            ids=self._ids,
            clock=self.clock,
        ).handle

    # --- configuration

    def _meters_of(self, route: str) -> RouteMeters:
        meters = self._meters.get(route)
        if meters is None:
            meters = self._meters[route] = RouteMeters(self._metrics, route)
        return meters

    def _pool_of(self, target: Target, connect_seconds: float) -> TargetPool:
        """Targets that stay over a reload keep their connections."""
        key = (target, connect_seconds)
        pool = self._pools.get(key)
        if pool is None:
            pool = TargetPool(target, connect_seconds=connect_seconds, deadlines=self.deadlines)
            self._pools[key] = pool
        return pool

    def _group_of(self, upstream: Upstream) -> UpstreamGroup:
        seconds = upstream.timeouts.connect_seconds
        return UpstreamGroup(upstream, tuple(self._pool_of(target, seconds) for target in upstream.targets))

    def _compile(self, configuration: Configuration) -> Snapshot:
        return Snapshot(configuration, group=self._group_of, meters=self._meters_of)

    def reload(self, configuration: Configuration) -> None:
        """Puts a checked configuration in force: for every request that begins after this call."""
        self.snapshot = self._compile(configuration)
        self.limits = configuration.gateway.client_limits
        self._overload.follow(self.limits)
        self._keys.forget_prepared()
        used = {
            (target, upstream.timeouts.connect_seconds)
            for upstream in configuration.upstreams.values()
            for target in upstream.targets
        }
        for key in self._pools.keys() - used:
            self._pools.pop(key).close()
        self._health.follow(self.snapshot.groups.values())

    # --- life

    async def start(self, sock: socket.socket) -> None:
        """Begins to accept on `sock`, which is bound and not yet listening."""
        listen = self.snapshot.configuration.gateway.listen
        self.deadlines.start()
        self._health.follow(self.snapshot.groups.values())
        self._accepting = Accepting(
            sock,
            factory=lambda: as_protocol(ClientConnection(self)),
            backlog=BACKLOG,
            tls=server_context(listen.tls),
        )
        await self._accepting.start()
        self._overload.start(self._accepting)

    async def drain(self, deadline_seconds: float) -> None:
        """Stops accepting, lets what runs finish, closes everything. Returns after at most `deadline_seconds`."""
        self.draining = True
        if self._accepting is not None:
            self._accepting.close()
        for connection in list(self.connections):
            connection.end_soon(IDLE_GRACE_SECONDS)
        deadline = self.clock() + deadline_seconds
        while self.connections and self.clock() < deadline:  # noqa: ASYNC110  a drain is rare, an event per close is not
            await asyncio.sleep(0.02)
        for connection in list(self.connections):
            connection.abort()
        await asyncio.sleep(0)  # lets the aborted exchanges record themselves
        await self._health.close()
        for pool in self._pools.values():
            pool.close()
        self.deadlines.stop()
        self._overload.stop()

    def status(self) -> dict[str, object]:
        return {
            "connections": len(self.connections),
            "draining": self.draining,
            "overload": self._overload.status(),
            "upstreams": {
                name: [
                    {"target": pool.target.authority, "healthy": pool.healthy, "in_flight": pool.in_flight}
                    for pool in group.pools
                ]
                for name, group in self.snapshot.groups.items()
            },
        }

    def _every_sweep(self) -> None:
        self._metrics.values[self._open_connections] = len(self.connections)
        self._recorder.wall_clock_offset = time.time() - self.clock()
        overload = self._overload
        overload.sweep()
        self.connections_max, self.shut = overload.connections_max, overload.shut

    # --- what connections ask (wire.client.RequestPath)

    def on_full(self) -> None:
        self._overload.on_full()

    def refuse(self, client: ClientConnection, error: GatewayError) -> bytes:
        self._unrouted.request(b"", error.code.value.status, 0.0)
        self._recorder.count_error(error.code)
        request_id = self._ids.new()
        logger.info(
            error.code.code,
            extra={"fields": {"reason": error.reason, "ip": client.peer, "request_id": request_id.decode()}},
        )
        pages = self.snapshot.problem_pages
        return render(error, pages=pages, request_id=request_id, accept=None, keep_alive=False)
