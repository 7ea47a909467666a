"""What metering costs: a call in the worker, and a row on its way to Postgres.

    python -m benchmarks.usage [--rows N] [--runs N] [--json] [--in-turn]

Both in CPU time, so that other work on the machine disturbs little; for the row, of the shipper and of Postgres (all its
processes) together, which is what one core can do. The best of many short runs is what the code costs, the median what it
costs among neighbours."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import asyncpg
import psutil

import ostiary.control_plane
from ostiary.demo.stores import EmbeddedPostgres
from ostiary.gateway.usage import Spool, caller_part, encode, route_part
from ostiary.gateway.usage.__main__ import Unobserved
from ostiary.gateway.usage.postgres_sink import PostgresSink
from ostiary.gateway.usage.shipper import Shipper

MIGRATIONS = sorted((Path(ostiary.control_plane.__file__).parent / "db" / "migrations").glob("*.sql"))
_AGENT = b"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36"


def _measure(name: str, work: Callable[[], object], *, calls: int = 2000, records: int = 1) -> None:
    costs = []
    for _ in range(150):
        begun = time.process_time_ns()
        for _ in range(calls):
            work()
        costs.append((time.process_time_ns() - begun) / calls / records)
    print(f"{name:<52} {min(costs):6.0f} ns   median {statistics.median(costs):6.0f} ns")


def measure_worker(directory: Path) -> None:
    """Prints what a call costs the worker, and what a write instead of the mapping would."""
    caller = caller_part("ak_test_0123456789012345678901", str(uuid.uuid4()), str(uuid.uuid4()), "test", 1)
    route = route_part("clients", "/v1/clients/{id}")

    def record() -> bytes:
        return encode(
            caller,
            route,
            b"0123456789abcdef0123456789abcdef",
            1.7e9,
            b"GET",
            200,
            1234,
            1100,
            0,
            121,
            "192.0.2.7",
            _AGENT,
            False,
            True,
        )

    one = record()
    spool = Spool(directory=directory, worker="bench", bytes_max=8 << 30)
    descriptor = os.open(directory / "plain", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    fifty = [one] * 50
    print(f"a record of {len(one)} bytes; CPU time, the loop that measures (some 30 ns) included")
    _measure("encode", record)
    _measure("append, page faults and new segments included", lambda: spool.append(one))
    _measure("encode and append", lambda: spool.append(record()))
    _measure("os.write of the bare record, per record", lambda: os.write(descriptor, one))
    _measure(
        "os.write of 50 joined, per record",
        lambda: os.write(descriptor, b"".join(fifty)),
        calls=40,
        records=50,
    )
    spool.close()
    os.close(descriptor)


def cpu_seconds(postgres_pid: int) -> float:
    """Of all processes of Postgres that run."""
    postmaster = psutil.Process(postgres_pid)
    total = 0
    for process in (postmaster, *postmaster.children(recursive=True)):
        for task in Path(f"/proc/{process.pid}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def spool_rows(directory: Path, rows: int) -> None:
    """One run of a worker: 100 keys, 3 routes, 2 status classes."""
    chance = random.Random(1)
    callers = [
        caller_part(
            f"ak_test_{key:022d}", str(uuid.UUID(int=key // 2 + 1)), str(uuid.UUID(int=key // 4 + 1)), "test", 1
        )
        for key in range(100)
    ]
    routes = [route_part(f"route-{number}", f"/v1/route-{number}/{{id}}") for number in range(3)]
    spool = Spool(directory=directory, worker="bench", bytes_max=8 << 30)
    for _ in range(rows):
        spool.append(
            encode(
                chance.choice(callers),
                chance.choice(routes),
                uuid.uuid4().hex.encode(),
                time.time(),
                b"GET",
                chance.choice((200, 200, 200, 404)),
                chance.randrange(500, 50_000),
                chance.randrange(400, 40_000),
                0,
                121,
                f"192.0.2.{chance.randrange(250)}",
                _AGENT,
                False,
                True,
            )
        )
    spool.close()


@dataclass(frozen=True, slots=True)
class Shipped:
    """So many rows from the spool to Postgres, and the seconds that took: CPU of the shipper and of Postgres, and by the
    clock."""

    rows: int
    shipper_seconds: float
    postgres_seconds: float
    wall_seconds: float

    @property
    def rows_per_core_second(self) -> float:
        return self.rows / (self.shipper_seconds + self.postgres_seconds)

    def __str__(self) -> str:
        shipper, postgres = (1e6 * seconds / self.rows for seconds in (self.shipper_seconds, self.postgres_seconds))
        return (
            f"{self.rows} rows: shipper {shipper:.2f} us, Postgres {postgres:.2f} us a row; {self.rows_per_core_second:,.0f} "
            f"rows per second of one core ({self.rows / self.wall_seconds:,.0f} by the clock)"
        )


async def measure_shipping(directory: Path, server: EmbeddedPostgres, rows: int) -> Shipped:
    """What a row costs from the spool to Postgres."""
    connection = await asyncpg.connect(server.url())
    for migration in MIGRATIONS:
        await connection.execute(migration.read_text(encoding="utf-8"))
    spool_rows(directory, rows)
    await connection.execute("CHECKPOINT")
    shipper = Shipper(directory=directory, sink=PostgresSink(server.url()), observe=Unobserved())
    own, postgres, begun = time.process_time(), cpu_seconds(server.pid), time.perf_counter()
    written = await shipper.ship()
    wall = time.perf_counter() - begun
    own, postgres = time.process_time() - own, cpu_seconds(server.pid) - postgres
    await shipper.close()
    await connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    await connection.close()
    return Shipped(written, own, postgres, wall)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="only the rows, a line of JSON for each run")
    parser.add_argument("--in-turn", action="store_true", help="wait for a line on standard input before each run")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ostiary-usage-") as scratch:
        if not options.json:
            measure_worker(Path(scratch) / "worker")
        with EmbeddedPostgres(Path(scratch) / "postgres") as server:
            for run in range(options.runs):
                if options.in_turn and not sys.stdin.readline():
                    return
                shipped = asyncio.run(measure_shipping(Path(scratch) / f"spool-{run}", server, options.rows))
                print(json.dumps(asdict(shipped)) if options.json else shipped, flush=True)


if __name__ == "__main__":
    main()
