"""One worker: which parts it is made of, and the order in which they start, change and end. How a process lives is in
`lifecycle`, who starts it is `supervisor`."""

from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path

from ostiary.core.encryption import Envelope
from ostiary.core.model import Configuration
from ostiary.gateway.clock import ClockWatch
from ostiary.gateway.failed_attempts import Gate
from ostiary.gateway.keys import KeyRing
from ostiary.gateway.lifecycle import CannotStartService, ChildContext, Service
from ostiary.gateway.limits import Limiter
from ostiary.gateway.node import BUCKETS_ALONE, NodeMemory
from ostiary.gateway.service import Gateway
from ostiary.gateway.telemetry import Metrics
from ostiary.gateway.telemetry.limiter_meters import LimiterMeters
from ostiary.gateway.usage import ClientRecording, CountryDatabaseError, Spool, SpoolError
from ostiary.key_encryption import CannotUseKeyEncryption, key_wrappers
from ostiary.tls import CertificateRefused

# A record is safe from the moment it is appended; sealing hands it to the shipper. So often, usage is in Postgres within
# half a second, and an idle worker makes no segments because an empty one is not sealed.
SEAL_SECONDS = 0.25


async def build(context: ChildContext) -> Service:
    """The gateway with its keys, limits and spool. Raises CannotStartService."""
    configuration, stores = context.configuration, context.configuration.stores
    spool, clients = None, None
    if configuration.metered:
        try:
            spool = Spool(
                directory=Path(stores.spool),
                worker=context.name,
                bytes_max=stores.spool_bytes_max,
                settings=configuration.usage.spool,
            )
            clients = ClientRecording(configuration.usage.recording, directory=Path(stores.spool), now=time.time())
        except (SpoolError, CountryDatabaseError) as error:
            raise CannotStartService(str(error)) from error
    node = NodeMemory.create(buckets=BUCKETS_ALONE) if context.node is None else NodeMemory(context.node)
    gate = Gate(
        node.attempts(),
        settings=configuration.gateway.failed_attempts,
        trusted=configuration.gateway.trusted_proxies,
        metrics=context.metrics,
    )
    try:
        envelope = None if stores.key_encryption is None else Envelope(key_wrappers(stores.key_encryption))
    except CannotUseKeyEncryption as error:
        raise CannotStartService(str(error)) from error
    keys = KeyRing(
        file_keys=configuration.keys,
        postgres_url=stores.postgres,
        envelope=envelope,
        stale_seconds=configuration.gateway.key_stale_seconds,
        gate=gate,
    )
    limiter = Limiter(
        url=stores.redis,
        deadline_seconds=stores.redis_deadline_seconds,
        workers=configuration.gateway.listen.workers,
        observe=LimiterMeters(context.metrics),
        node=node,
        skew_seconds=configuration.gateway.signature_skew_seconds,
    )
    try:
        gateway = Gateway(
            configuration=configuration, metrics=context.metrics, spool=spool, keys=keys, limiter=limiter, gate=gate
        )
    except CertificateRefused as error:
        raise CannotStartService(str(error)) from error
    if clients is not None:
        gateway.record_clients(clients.fields)
    # Neither waits for its store: a gateway starts, and serves what it can, while they are away.
    await keys.start()
    await limiter.start()
    gateway.heed_skews(limiter.smaller_skews)
    return Worker(
        gateway=gateway,
        keys=keys,
        limiter=limiter,
        gate=gate,
        spool=spool,
        clients=clients,
        metrics=context.metrics,
    )


class Worker:
    """The `Service` of a worker."""

    def __init__(
        self,
        *,
        gateway: Gateway,
        keys: KeyRing,
        limiter: Limiter,
        gate: Gate,
        spool: Spool | None,
        clients: ClientRecording | None,
        metrics: Metrics,
    ) -> None:
        self._gateway = gateway
        self._keys = keys
        self._limiter = limiter
        self._gate = gate
        self._spool = spool
        self._clients = clients
        self._values = metrics.values
        self._clock = ClockWatch(limiter, metrics=metrics, skew_seconds=gateway.snapshot.skew.seconds)
        self._active_keys = metrics.gauge("active_api_keys")
        self._away = metrics.gauge("rate_limit_store_away")
        self._nodes = metrics.gauge("gateway_nodes")
        self._spool_full = metrics.gauge("usage_spool_full")
        self._sync_failures = metrics.counter("usage_sync_failures_total")
        self._sync_failures_told = 0
        self._keeping: asyncio.Task[None] | None = None

    async def start(self, sock: socket.socket | None) -> None:
        assert sock is not None  # noqa: S101  the supervisor gives every worker one
        await self._gateway.start(sock)
        self._clock.start()
        self._keeping = asyncio.create_task(self._keep())

    def reload(self, configuration: Configuration) -> None:
        """One step of the event loop: no request sees the routes of one configuration with the keys of another."""
        self._gateway.reload(configuration)  # the only one that can refuse, so it comes first
        self._clock.skew_seconds = configuration.gateway.signature_skew_seconds
        self._limiter.judge_by(configuration.gateway.signature_skew_seconds)
        self._keys.replace_file_keys(configuration.keys)
        self._keys.forget_prepared()
        if self._clients is not None:
            self._gateway.record_clients(self._clients.follow(configuration.usage.recording, time.time()))

    async def drain(self, deadline_seconds: float) -> None:
        await self._gateway.drain(deadline_seconds)
        self._clock.close()
        if self._keeping is not None:
            self._keeping.cancel()
        if self._spool is not None:
            self._spool.seal()
            self._spool.close()
        await self._limiter.close()
        await self._keys.close()

    def status(self) -> dict[str, object]:
        spool = self._spool
        return {
            "gateway": self._gateway.status(),
            "keys": self._keys.status(),
            "limiter": self._limiter.status(),
            "clock": self._clock.status(),
            "spool": None if spool is None else spool.status(),
        }

    async def _keep(self) -> None:
        """What is due every so often: hands usage to the shipper, heeds smaller skews, counts the keys, tells how limits
        are decided."""
        while True:
            await asyncio.sleep(SEAL_SECONDS)
            self._gate.refresh()
            self._gateway.heed_skews(self._limiter.smaller_skews)
            if self._spool is not None:
                self._seal(self._spool)
            if self._clients is not None and (fields := self._clients.renewed(time.time())) is not None:
                self._gateway.record_clients(fields)
            keys = self._keys.status()
            counts = (keys.get(name) for name in ("file_keys", "known_keys"))
            self._values[self._active_keys] = sum(count for count in counts if isinstance(count, int))
            self._values[self._away] = float(self._limiter.away)
            self._values[self._nodes] = self._limiter.nodes

    def _seal(self, spool: Spool) -> None:
        spool.seal()
        self._values[self._spool_full] = float(spool.full)
        if spool.sync is not None and (failures := spool.sync.failures) != self._sync_failures_told:
            self._sync_failures.add(failures - self._sync_failures_told)
            self._sync_failures_told = failures
