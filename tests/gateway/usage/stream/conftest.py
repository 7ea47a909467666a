"""A stream of each test's own on a real server, a gateway's side of it and a consumer, each told what to do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest

from ostiary.core.usage import NatsStream
from ostiary.gateway.usage.shipper import Shipper
from ostiary.gateway.usage.stream import StreamSink
from ostiary.gateway.usage.stream.consumer import Consumer
from tests.gateway.usage.calls import Observed
from tests.gateway.usage.stream.streaming import ConsumerObserved, consumer_of
from tests.support.nats_server import NatsServer, create


@pytest.fixture
def unmade(nats_server: NatsServer, tmp_path: Path) -> NatsStream:
    """Settings of a stream that is not there yet."""
    return nats_server.settings(f"usage_{uuid4().hex}", tmp_path)


@pytest.fixture
async def stream(unmade: NatsStream) -> NatsStream:
    await create(unmade)
    return unmade


@pytest.fixture
async def streaming(spool_directory: Path, stream: NatsStream, observed: Observed) -> AsyncIterator[Shipper]:
    """Ships to the stream when told to."""
    shipper = Shipper(directory=spool_directory, sink=StreamSink(stream), observe=observed)
    yield shipper
    await shipper.close()


@pytest.fixture
def consumed() -> ConsumerObserved:
    return ConsumerObserved()


@pytest.fixture
async def consumer(stream: NatsStream, database: str, consumed: ConsumerObserved) -> AsyncIterator[Consumer]:
    """Consumes when told to."""
    consumer = consumer_of(stream, database, consumed)
    yield consumer
    await consumer.close()
