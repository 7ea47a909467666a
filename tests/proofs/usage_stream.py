"""Proof: usage that goes through NATS JetStream is neither lost nor counted twice while the shipper, two consumers and the
server of NATS are killed (kill -9) at random points under load. Every call that the
spool took is in Postgres exactly once, and the books balance."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import asyncpg

from ostiary.demo.stores import EmbeddedPostgres
from ostiary.gateway.usage.reconcile import reconcile
from tests.gateway.usage.calls import SCHEMA
from tests.gateway.usage.stream.killing import ACK_WAIT_SECONDS, delivered, installation, kill_at_random
from tests.support.nats_server import NatsServer, create, running_nats


async def _prove(
    directory: Path, postgres: EmbeddedPostgres, nats: NatsServer, options: argparse.Namespace
) -> list[str]:
    connection = await asyncpg.connect(postgres.url())
    await connection.execute(SCHEMA)
    await connection.close()
    settings = nats.settings("usage", directory, ack_wait_seconds=float(ACK_WAIT_SECONDS))
    await create(settings, max_bytes=4 << 30)
    began = time.monotonic()
    async with installation(
        directory, postgres.url(), nats, settings, calls_per_second=options.rate, consumers=options.consumers
    ) as running:
        killed = await kill_at_random(running, kills=options.kills, seed=options.seed, pause_seconds=options.pause)
    seconds = time.monotonic() - began
    counts, expected = await delivered(postgres.url()), Counter(running.appended)
    lost, twice = expected - counts, counts - expected
    result = await reconcile(running.spool, postgres.url(), stream=settings)
    who = ", ".join(f"{name} {count}" for name, count in sorted(killed.items()))
    print(
        f"{len(running.appended)} calls at {options.rate} a second, {killed.total()} kills ({who}) in {seconds:.0f} s: "
        f"{lost.total()} lost, {twice.total()} twice; the books {'balance' if result.holds else 'DO NOT BALANCE'}"
    )
    findings = [f"lost: {name}" for name in list(lost)[:10]] + [f"twice: {name}" for name in list(twice)[:10]]
    return findings if result.holds else [*findings, repr(result)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="default: %(default)s; some five minutes")
    parser.add_argument("--rate", type=int, default=2000, help="calls a second (default: %(default)s)")
    parser.add_argument("--consumers", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--pause", type=float, default=4.0, help="longest time between kills, in seconds")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 31))
    options = parser.parse_args()
    print(f"seed {options.seed}")
    with tempfile.TemporaryDirectory(prefix="ostiary-") as scratch:
        root = Path(scratch)
        with EmbeddedPostgres(root / "postgres") as postgres, running_nats(root / "nats") as nats:
            findings = asyncio.run(_prove(root, postgres, nats, options))
    for finding in findings:
        print(f"FINDING: {finding}")
    sys.exit(1 if findings else 0)


if __name__ == "__main__":
    main()
