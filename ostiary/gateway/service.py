"""The gateway of one worker: the request path, the connections, the snapshot in force.

Collaborators (metrics, spool, keys, limiter, gate) are made and closed by whoever makes this (`worker.py`)."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime

from ostiary.core.errors import GatewayError
from ostiary.core.model import Configuration
from ostiary.core.signing import Skew
from ostiary.core.upstream import Connections, Target, Upstream
from ostiary.gateway.failed_attempts import Gate
from ostiary.gateway.health import HealthChecks
from ostiary.gateway.keys import KeyRing
from ostiary.gateway.limits import Limiter
from ostiary.gateway.overload import Accepting, Overload
from ostiary.gateway.phases.admit import RequestIds
from ostiary.gateway.phases.fail import render
from ostiary.gateway.phases.record import Recorder
from ostiary.gateway.pipeline import Pipeline
from ostiary.gateway.resilience.memory import UpstreamMemory
from ostiary.gateway.snapshot import Snapshot
from ostiary.gateway.target_tls import TargetContexts
from ostiary.gateway.telemetry.meters import RouteMeters
from ostiary.gateway.telemetry.metrics import Metrics
from ostiary.gateway.telemetry.upstream_meters import UpstreamMeters
from ostiary.gateway.tokens import TokenRing
from ostiary.gateway.upstream_status import breaker_status, upstream_status
from ostiary.gateway.upstreams import UpstreamGroup
from ostiary.gateway.usage import ClientFields, Spool
from ostiary.gateway.wire.client import ClientConnection
from ostiary.gateway.wire.deadlines import Deadlines
from ostiary.gateway.wire.dialing import Dialer
from ostiary.gateway.wire.handshake import Handshake
from ostiary.gateway.wire.held_body import HeldBodies
from ostiary.gateway.wire.pool import TargetPool, as_protocol
from ostiary.gateway.wire.resolver import Resolver
from ostiary.gateway.wire.room import Room
from ostiary.tls import server_context

logger = logging.getLogger("ostiary.gateway")

BACKLOG = 4096
IDLE_GRACE_SECONDS = 0.5  # in which a client may still send a request, when its connection is to end
# A drain lets tunnels go on, for no one knows when they would end by themselves; this long before its deadline their ends
# get all that is on its way to them, and a FIN instead of a reset.
TUNNEL_CLOSE_SECONDS = 2.5
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
        gate: Gate,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        # The loop's clock, to the microsecond: uvloop's own tells whole milliseconds.
        self.clock = time.monotonic
        self._metrics = metrics
        self._keys = keys
        self._gate = gate
        self._meters: dict[str, RouteMeters] = {}
        self._pools: dict[tuple[Target, float, Connections], TargetPool] = {}
        self._memory: dict[str, UpstreamMemory] = {}
        self._resolver = Resolver()
        self._target_contexts = TargetContexts()
        self.deadlines = Deadlines(every_sweep=self._every_sweep)
        self.limits = configuration.gateway.client_limits
        self.connections: set[ClientConnection] = set()
        self.handshakes: set[Handshake] = set()
        self.room = Room(
            limits=self.limits, trusted=configuration.gateway.trusted_proxies, refused=self._count_refused_client
        )
        self.draining = False
        self._tls = server_context(configuration.gateway.listen.tls)
        self._overload = Overload(
            metrics=metrics, limits=self.limits, connections=self.connections, pools=lambda: self._pools.values()
        )
        self.connections_max = self._overload.connections_max
        self.shut = False
        self._ids = RequestIds()
        self._open_connections = metrics.gauge("client_connections")
        self._unrouted = self._meters_of(UNROUTED)
        self._recorder = Recorder(
            metrics=metrics, spool=spool, unrouted=self._unrouted, quota_events=limiter.quota_events
        )
        self._held_bodies = HeldBodies(configuration.stores.spool, self.limits.held_body_bytes)
        self._held_body_bytes = metrics.gauge("held_body_bytes")
        self._tokens = TokenRing(directory=configuration.stores.state, metrics=metrics, gate=gate)
        self._tokens.follow(configuration.issuers)
        self.snapshot = self._compile(configuration, Skew(configuration.gateway.signature_skew_seconds))
        self._health = HealthChecks()
        self._accepting: Accepting | None = None
        self.handle = Pipeline(
            keys=keys,
            limiter=limiter,
            recorder=self._recorder,
            shedder=self._overload.shedder,
            gate=gate,
            claims=spool if spool is not None and spool.blocks else None,
            ids=self._ids,
            clock=self.clock,
        ).handle

    # --- configuration

    def _meters_of(self, route: str) -> RouteMeters:
        meters = self._meters.get(route)
        if meters is None:
            meters = self._meters[route] = RouteMeters(self._metrics, route)
        return meters

    def _pool_of(self, target: Target, upstream: Upstream) -> TargetPool:
        """Targets that stay over a reload keep their connections."""
        key = _pool_key(target, upstream)
        pool = self._pools.get(key)
        if pool is None:
            dialer = Dialer(
                target,
                seconds=upstream.timeouts.connect_seconds,
                resolver=self._resolver,
                tls=self._target_contexts.of(target),
            )
            pool = self._pools[key] = TargetPool(
                target, dialer=dialer, deadlines=self.deadlines, connections=upstream.connections
            )
        return pool

    def _group_of(self, upstream: Upstream) -> UpstreamGroup:
        """Upstreams that stay over a reload keep what was learnt of them."""
        memory = self._memory.get(upstream.name)
        if memory is None:
            memory = self._memory[upstream.name] = UpstreamMemory()
        targets = upstream.targets
        meters = UpstreamMeters(self._metrics, upstream.name, [target.label for target in targets])
        return UpstreamGroup(
            upstream,
            [self._pool_of(target, upstream) for target in targets],
            health=[memory.health_of(target) for target in targets],
            guard=memory.guard(upstream, meters),
            meters=meters,
        )

    def _compile(self, configuration: Configuration, skew: Skew) -> Snapshot:
        return Snapshot(
            configuration,
            group=self._group_of,
            meters=self._meters_of,
            held_bodies=self._held_bodies,
            tokens=self._tokens,
            skew=skew,
        )

    def reload(self, configuration: Configuration) -> None:
        """Puts a checked configuration in force: for every request that begins after this call, and every connection that is
        made after it. Raises CertificateRefused."""
        tls = server_context(configuration.gateway.listen.tls)  # what can refuse comes first
        self._target_contexts.make(configuration.upstreams.values())
        skew = self.snapshot.skew.changed_to(configuration.gateway.signature_skew_seconds, time.time())
        self.snapshot = self._compile(configuration, skew)
        self._tokens.follow(configuration.issuers)
        self._tls = tls
        self.limits = configuration.gateway.client_limits
        self._held_bodies.bytes_max = self.limits.held_body_bytes
        self.room.follow(self.limits, configuration.gateway.trusted_proxies)
        self._overload.follow(self.limits)
        self._gate.follow(configuration.gateway.failed_attempts, configuration.gateway.trusted_proxies)
        self._keys.forget_prepared()
        upstreams = configuration.upstreams
        used = {_pool_key(target, upstream) for upstream in upstreams.values() for target in upstream.targets}
        for key in self._pools.keys() - used:
            self._pools.pop(key).close()
        self._target_contexts.keep({target.tls for target, *_ in used if target.scheme == "https"})
        for name in self._memory.keys() - upstreams.keys():
            del self._memory[name]
        for name, memory in self._memory.items():
            memory.keep(upstreams[name])
        # What runs on a route that is gone has its meters; their series stay, should the route come back.
        names = (UNROUTED, *(route.name for route in configuration.routes))
        self._meters = {name: self._meters[name] for name in names}
        self._health.follow(self.snapshot.groups.values())
        self._end_revoked()

    def _end_revoked(self) -> None:
        """A certificate that is revoked now was good when its connection was made: that ends with its next answer."""
        certificates = self.snapshot.certificates
        soon = replace(self.limits, keepalive_seconds=min(IDLE_GRACE_SECONDS, self.limits.keepalive_seconds))
        for connection in self.connections:
            if connection.certificate is not None and certificates.is_revoked(connection.certificate):
                connection.end_soon(soon)

    def heed_skews(self, smaller: Iterable[tuple[int, int]]) -> None:
        """What the limiter has heard of calls that others, or this gateway before a restart, took by a smaller skew."""
        for seconds, until in smaller:
            self.snapshot.skew = self.snapshot.skew.heeding(seconds, until, time.time())

    def record_clients(self, fields: ClientFields) -> None:
        """What is recorded of the clients of calls that end from now on."""
        self._recorder.client_fields = fields

    # --- life

    async def start(self, sock: socket.socket) -> None:
        """Begins to accept on `sock`, which is bound and not yet listening."""
        self.deadlines.start()
        self._health.follow(self.snapshot.groups.values())
        self._tokens.start()
        self._accepting = Accepting(sock, factory=self._protocol, backlog=BACKLOG)
        await self._accepting.start()
        self._overload.start(self._accepting)

    def _protocol(self) -> asyncio.Protocol:
        tls = self._tls
        return as_protocol(ClientConnection(self) if tls is None else Handshake(self, tls))

    async def drain(self, deadline_seconds: float) -> None:
        """Stops accepting, lets what runs finish, closes everything. Returns after at most `deadline_seconds`."""
        self.draining = True
        if self._accepting is not None:
            self._accepting.close()
        deadline = self.clock() + deadline_seconds
        # Those that were let in and begin only now have the same grace.
        self.limits = replace(self.limits, keepalive_seconds=min(IDLE_GRACE_SECONDS, self.limits.keepalive_seconds))
        for connection in list(self.connections):
            connection.end_soon(self.limits)
        await self._all_closed(deadline - min(TUNNEL_CLOSE_SECONDS, deadline_seconds / 2))
        for connection in list(self.connections):
            if connection.tunnel is not None:
                connection.tunnel.cut()
        await self._all_closed(deadline)
        for handshake in list(self.handshakes):
            handshake.abort()
        for connection in list(self.connections):
            connection.abort()
        await asyncio.sleep(0)  # lets the aborted exchanges record themselves
        await self._health.close()
        self._tokens.close()
        for pool in self._pools.values():
            pool.close()
        self.deadlines.stop()
        self._overload.stop()

    async def _all_closed(self, deadline: float) -> None:
        """Until no connection is left, or the deadline."""
        while self._occupied and self.clock() < deadline:  # noqa: ASYNC110  a drain is rare, an event per close is not
            await asyncio.sleep(0.02)

    @property
    def _occupied(self) -> bool:
        return bool(self.connections or self.handshakes)

    def status(self) -> dict[str, object]:
        return {
            "connections": len(self.connections),
            "draining": self.draining,
            "signature_skew": _skew_status(self.snapshot.skew),
            "overload": self._overload.status(),
            "upstreams": upstream_status(self.snapshot.groups.values()),
            "breakers": breaker_status(self.snapshot.groups.values()),
            "tokens": self._tokens.status(),
        }

    def _every_sweep(self) -> None:
        self._metrics.values[self._open_connections] = len(self.connections)
        self._metrics.values[self._held_body_bytes] = self._held_bodies.bytes_on_disk
        self._recorder.wall_clock_offset = time.time() - self.clock()
        overload = self._overload
        overload.sweep()
        self.connections_max, self.shut = overload.connections_max, overload.shut

    # --- what connections ask (wire/surroundings.py)

    def shaken(self, result: str) -> None:
        self._metrics.counter("tls_handshakes_total", result=result).add(1)

    def _count_refused_client(self, reason: str) -> None:
        self._metrics.counter("client_connections_refused_total", reason=reason).add(1)

    def on_full(self) -> None:
        self._overload.on_full()

    def refuse(self, client: ClientConnection, error: GatewayError, *, bodiless: bool) -> bytes:
        self._unrouted.request(b"", error.code.value.status, 0.0)
        self._recorder.count_error(error.code)
        request_id = self._ids.new()
        logger.info(
            error.code.code,
            extra={"fields": {"reason": error.reason, "ip": client.peer, "request_id": request_id.decode()}},
        )
        pages = self.snapshot.problem_pages
        edge = self.snapshot.edge
        lines = b"" if edge is None else edge.own_lines(None, secure=client.secure)
        return render(
            error,
            pages=pages,
            request_id=request_id,
            accept=None,
            keep_alive=False,
            bodiless=bodiless,
            lines=lines,
        )


def _skew_status(skew: Skew) -> dict[str, object]:
    """With the smaller one by which calls of before some time are judged still, if there is such a time."""
    if skew.before_until <= time.time() - skew.seconds:
        return {"seconds": skew.seconds, "smaller": None}
    dated_before = datetime.fromtimestamp(skew.before_until, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "seconds": skew.seconds,
        "smaller": {"seconds": skew.before_seconds, "for_calls_dated_before": dated_before},
    }


def _pool_key(target: Target, upstream: Upstream) -> tuple[Target, float, Connections]:
    return target, upstream.timeouts.connect_seconds, upstream.connections
