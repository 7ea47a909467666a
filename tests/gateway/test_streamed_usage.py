"""A gateway whose usage goes through a stream, as it is started from a shell."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from ostiary.core.usage import NatsStream
from ostiary.gateway.usage.reconcile import reconcile
from tests.gateway.test_worker import CONFIGURATION, calls, origin_port
from tests.gateway.usage.stream.streaming import consume_all, consumer_of
from tests.support.gateway_process import GatewayProcess, eventually
from tests.support.nats_server import NatsServer, create
from tests.support.samples import samples

__all__ = ["origin_port"]  # a fixture, which pytest finds by its name


@pytest.fixture
def settings(nats_server: NatsServer, tmp_path: Path) -> NatsStream:
    return nats_server.settings(f"gateway_{uuid4().hex}", tmp_path)


@pytest.fixture
def gateway(settings: NatsStream, tmp_path: Path, origin_port: int) -> Iterator[GatewayProcess]:
    """It has no Postgres: what it knows of keys stands in its file."""
    text = CONFIGURATION.format(redis="", postgres="", spool=tmp_path / "spool", origin=origin_port)
    text = re.sub(r" +(redis|postgres|redis_deadline):.*\n", "", text)
    path = tmp_path / "gateway.yaml"
    path.write_text(
        f"{text}usage: {{sink: {{nats: {{servers: ['{settings.servers[0]}'], stream: {settings.stream}}}}}}}\n"
    )
    gateway = GatewayProcess(["ostiary", "gateway", "-c", str(path)])
    yield gateway
    gateway.stop()


async def test_calls_of_a_gateway_without_postgres_reach_it_through_the_stream(
    gateway: GatewayProcess, settings: NatsStream, migrated_database: str, tmp_path: Path
) -> None:
    """The gateway is started before its stream is there: it serves, says what is wrong, and delivers once that is mended.
    Without it: a mistake in the stream stops the gateway, or loses what was called meanwhile."""
    await asyncio.to_thread(gateway.wait_ready)
    await asyncio.to_thread(calls, gateway, 20)

    def status() -> str:
        reported = json.loads(gateway.admin("/status")[1])["shipper"]["reported"]
        return str(reported["failing"]) if reported else "nothing yet"

    await asyncio.to_thread(eventually, lambda: status() == "stream_refused", "the shipper tells")
    refused = "usage_ship_failures_total", (("kind", "stream_refused"),)
    await asyncio.to_thread(
        eventually,
        lambda: samples(gateway.admin("/metrics")[1]).get(refused, 0) > 0,
        "and counts",
    )
    await create(settings)
    written = "usage_events_written_total", ()
    await asyncio.to_thread(
        eventually, lambda: samples(gateway.admin("/metrics")[1])[written] == 20, "usage is in the stream"
    )
    await asyncio.to_thread(eventually, lambda: status() == "None", "the shipper tells that it is mended")
    await asyncio.to_thread(calls, gateway, 5)
    gateway.signal(signal.SIGTERM)
    assert await asyncio.to_thread(gateway.wait) == 0

    consumer = consumer_of(settings, migrated_database)
    await consume_all(consumer)
    await consumer.close()
    connection = await asyncpg.connect(migrated_database)
    assert await connection.fetchval("SELECT count(DISTINCT request_id) FROM usage_events") == 25
    await connection.close()
    assert (await reconcile(tmp_path / "spool", migrated_database, stream=settings)).holds
    assert not [name for name in os.listdir(tmp_path / "spool") if "sealed" in name]
