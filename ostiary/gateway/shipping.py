"""The process that brings usage from the spool to Postgres, or to a stream: the shipper of `usage`, run as a child of the
supervisor."""

from __future__ import annotations

import asyncio
import logging
import socket
from pathlib import Path

from ostiary.core.model import Configuration
from ostiary.gateway.lifecycle import CannotStartService, ChildContext, Service
from ostiary.gateway.telemetry import Metrics
from ostiary.gateway.usage import PostgresSink, Sink, run_shipper

log = logging.getLogger("ostiary.gateway.shipping")


async def build(context: ChildContext) -> Service:
    """The process that brings usage from the spool to where it goes."""
    return Shipper(context)


class Shipper:
    """Serves no socket: it runs `run_shipper` until told to drain."""

    def __init__(self, context: ChildContext) -> None:
        self._context = context
        self._observer = ShipperMetrics(context.metrics)
        self._stop = asyncio.Event()
        self._shipping: asyncio.Task[None] | None = None

    async def start(self, sock: socket.socket | None) -> None:
        configuration = self._context.configuration
        self._shipping = asyncio.create_task(
            run_shipper(
                directory=Path(configuration.stores.spool),
                sink=sink_of(configuration),
                stop=self._stop,
                observe=self._observer,
            )
        )
        self._shipping.add_done_callback(self._ended)

    def reload(self, configuration: Configuration) -> None:
        """Nothing to do: a change of the stores needs a restart."""

    async def drain(self, deadline_seconds: float) -> None:
        self._stop.set()
        if self._shipping is not None:
            await asyncio.wait({self._shipping}, timeout=deadline_seconds)

    def status(self) -> dict[str, object]:
        return self._observer.status()

    def _ended(self, shipping: asyncio.Task[None]) -> None:
        if self._stop.is_set() or shipping.cancelled():
            return
        log.error("shipper_ended", exc_info=shipping.exception())
        self._context.give_up("the shipper ended unasked")


def sink_of(configuration: Configuration) -> Sink:
    """Where usage goes. Raises CannotStartService."""
    if configuration.usage.sink is not None:
        # The client of NATS, and what it imports, is for those who have a stream.
        from ostiary.gateway.usage.stream import ClientMissing, StreamSink

        try:
            return StreamSink(configuration.usage.sink)
        except ClientMissing as error:
            raise CannotStartService(str(error)) from error
    if configuration.stores.postgres is None:
        raise CannotStartService("stores.postgres is not set, so there is nowhere to ship usage to")
    return PostgresSink(configuration.stores.postgres)


class ShipperMetrics:
    """A `ShipperObserver`."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._values = metrics.values
        self._written = metrics.counter("usage_events_written_total")
        self._quarantined = metrics.counter("usage_segments_quarantined_total")
        self._bytes = metrics.gauge("usage_spool_bytes")
        self._last_failure: str | None = None

    def written(self, rows: int) -> None:
        self._written.add(rows)
        self._last_failure = None

    def failed(self, kind: str) -> None:
        self._metrics.counter("usage_ship_failures_total", kind=kind).add(1)
        self._last_failure = kind

    def quarantined(self, segments: int) -> None:
        self._quarantined.add(segments)

    def spool_bytes(self, count: int) -> None:
        self._values[self._bytes] = count

    def status(self) -> dict[str, object]:
        return {
            "written": self._written.total,
            "quarantined": self._quarantined.total,
            "spool_bytes": self._values[self._bytes],
            "failing": self._last_failure,
        }
