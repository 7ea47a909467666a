"""kill -9 of the shipper, of consumers and of NATS, at random points under load."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from pathlib import Path

import pytest

from ostiary.gateway.usage.reconcile import reconcile
from tests.gateway.usage.calls import until
from tests.gateway.usage.stream.killing import ACK_WAIT_SECONDS, delivered, installation, kill_at_random
from tests.support.nats_server import NatsServer, create

pytestmark = pytest.mark.long

KILLS = 12  # `scripts/prove usage-stream` has more of them, and more load


async def test_nothing_is_lost_and_nothing_counted_twice_whoever_is_killed(
    tmp_path: Path, database: str, own_nats: NatsServer
) -> None:
    """Rows 87 and 90, of a stream: shipper, two consumers and the server of NATS killed at random points. Every call that
    the spool took is in Postgres once."""
    settings = own_nats.settings("usage", tmp_path, ack_wait_seconds=float(ACK_WAIT_SECONDS))
    await create(settings)
    async with installation(tmp_path, database, own_nats, settings, calls_per_second=1000) as running:
        killed = await kill_at_random(running, kills=KILLS, seed=90, pause_seconds=0.8)
    assert killed.keys() >= {"shipper", "nats"}, killed
    counts = await delivered(database)
    expected = Counter(running.appended)
    assert counts == expected, {"lost": expected - counts, "twice": counts - expected}
    result = await reconcile(running.spool, database, stream=settings)
    assert result.holds, result
    assert sum(run.accepted for run in result.runs) == len(running.appended)


async def test_processes_end_in_good_order_when_told_to(tmp_path: Path, database: str, own_nats: NatsServer) -> None:
    """Without it: a rolling deployment is a series of kills."""
    settings = own_nats.settings("usage", tmp_path, ack_wait_seconds=float(ACK_WAIT_SECONDS))
    await create(settings)
    async with installation(tmp_path, database, own_nats, settings, calls_per_second=200, consumers=1) as running:

        async def some_delivered() -> bool:
            return bool(await delivered(database))

        await until(some_delivered, "shipper and consumer are at work", 60)
        for process in running.processes.values():
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), 60) == 0
        for name in list(running.processes):
            await running.start(name)
    assert Counter(running.appended) == await delivered(database)
    assert "usage_consumed" in (tmp_path / "consumer-0.log").read_text()
