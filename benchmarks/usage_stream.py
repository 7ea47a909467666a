"""What a row costs on its way through a stream, against the direct way: shipper -> Postgres; shipper -> NATS -> consumer ->
Postgres.

    python -m benchmarks.usage_stream [--rows N] [--runs N]

CPU time of each process, by turns in each run on the same machine. The rows are those of `benchmarks.usage`. Consumers are
processes of their own in reality; here shipper and consumer take turns in one, so that each one's CPU is told apart."""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

import asyncpg
import psutil

from benchmarks.usage import MIGRATIONS, cpu_seconds, spool_rows
from ostiary.core.usage import NatsStream
from ostiary.demo.stores import EmbeddedPostgres
from ostiary.gateway.usage import PostgresSink, Sink
from ostiary.gateway.usage.__main__ import Unobserved
from ostiary.gateway.usage.shipper import Shipper
from ostiary.gateway.usage.stream import StreamSink
from ostiary.gateway.usage.stream.consumer import Consumer
from tests.support.nats_server import NatsServer, create, running_nats


class _Unobserved:
    def written(self, rows: int, lost: int, repeated: int) -> None: ...
    def failed(self, kind: str) -> None:
        raise AssertionError(kind)

    def quarantined(self, messages: int) -> None: ...
    def waiting(self, messages: int) -> None: ...


class _Costs:
    """CPU seconds since it was made, of this process, of Postgres and of NATS; and by the clock."""

    def __init__(self, postgres: EmbeddedPostgres, nats: NatsServer) -> None:
        self._postgres, self._nats = postgres, nats
        self._began = self._now()

    def _now(self) -> tuple[float, float, float, float]:
        nats = psutil.Process(self._nats.process.pid).cpu_times()
        return time.process_time(), cpu_seconds(self._postgres.pid), nats.user + nats.system, time.perf_counter()

    def a_row(self, rows: int) -> list[float]:
        """Microseconds."""
        return [(now - then) / rows * 1e6 for now, then in zip(self._now(), self._began, strict=True)]


async def _ship(directory: Path, sink: Sink, rows: int, measured: _Costs) -> list[float]:
    shipper = Shipper(directory=directory, sink=sink, observe=Unobserved())
    await shipper.ship()
    costs = measured.a_row(rows)  # before a process of Postgres ends, and its time is nobody's
    await shipper.close()
    return costs


async def _measure(
    root: Path, number: int, postgres: EmbeddedPostgres, nats: NatsServer, rows: int
) -> dict[str, list[float]]:
    connection = await asyncpg.connect(postgres.url())
    costs: dict[str, list[float]] = {}
    settings: NatsStream = nats.settings(f"usage_{number}", root)
    await create(settings, max_bytes=8 << 30)
    for way in ("direct", "streamed"):
        for migration in MIGRATIONS:
            await connection.execute(migration.read_text(encoding="utf-8"))
        directory = root / f"{way}-{number}"
        spool_rows(directory, rows)
        await connection.execute("CHECKPOINT")
        measured = _Costs(postgres, nats)
        if way == "direct":
            costs["shipper -> Postgres"] = await _ship(directory, PostgresSink(postgres.url()), rows, measured)
        else:
            costs["shipper -> stream"] = await _ship(directory, StreamSink(settings), rows, measured)
            consumer = Consumer(settings=settings, postgres_url=postgres.url(), observe=_Unobserved())
            measured = _Costs(postgres, nats)
            while await consumer.consume(wait_seconds=0.1):
                pass
            costs["consumer -> Postgres"] = measured.a_row(rows)
            await consumer.close()
        assert await connection.fetchval("SELECT count(*) FROM usage_events") == rows
        await connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    await connection.close()
    return costs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    best: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="ostiary-") as scratch:
        root = Path(scratch)
        with EmbeddedPostgres(root / "postgres") as postgres, running_nats(root / "nats") as nats:
            for number in range(options.runs):
                for name, row in asyncio.run(_measure(root, number, postgres, nats, options.rows)).items():
                    best[name] = min(best.get(name, row), row, key=lambda costs: sum(costs[:3]))
    print(f"{options.rows} rows, the best of {options.runs} runs; microseconds of CPU a row")
    for name, (own, database, server, clock) in best.items():
        total = own + database + server
        print(
            f"{name:<22} Python {own:5.2f}  Postgres {database:5.2f}  NATS {server:5.2f}  "
            f"{1e6 / total:>9,.0f} rows per second of one core ({1e6 / clock:,.0f} by the clock)"
        )


if __name__ == "__main__":
    main()
