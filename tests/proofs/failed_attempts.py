"""Proof: a million made-up keys take no memory, ask Postgres for next to none, and stop no caller whose key works.

First all from one address, which is told to wait; then from as many addresses as there are keys, which no bound by address
can stop: there the bounded memory of absent keys and one query at a time are what holds. A caller with a key of its own calls
all the time."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil
import uvloop

from ostiary.core.credentials import generate_secret
from ostiary.core.model import Environment
from ostiary.demo.stores import EmbeddedPostgres, EmbeddedValkey
from tests.endurance.origin import running_origin
from tests.endurance.site import Site, fresh_database
from tests.support.gateway_process import GatewayProcess

WORKERS = 2
CONNECTIONS = 32
PIPELINED = 16
MIB = 1 << 20
# What a worker may grow by: its memory of absent keys (3 MB), and what the allocator keeps of the requests under way.
GROWTH_MIB_MAX = 16
GOOD_PAUSE_SECONDS = 0.02


class Flood:
    """`keys` made-up keys over CONNECTIONS connections, from the addresses that `address` gives."""

    def __init__(self, port: int, keys: int, *, many: bool) -> None:
        self.statuses: Counter[bytes] = Counter()
        self._port = port
        self._left = keys
        self._many = many
        self._chance = random.Random(69)

    def _request(self) -> bytes:
        if self._many:
            number = self._chance.getrandbits(24)
            address = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
        else:
            address = "198.51.100.7"
        secret = generate_secret(Environment.LIVE)
        return (
            f"GET /local/x HTTP/1.1\r\nHost: gateway.test\r\nX-Forwarded-For: {address}\r\n"
            f"Authorization: Bearer {secret}\r\n\r\n"
        ).encode()

    async def run(self) -> None:
        await asyncio.gather(*(self._connection() for _ in range(CONNECTIONS)))

    async def _connection(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        while self._left > 0:
            count = min(PIPELINED, self._left)
            self._left -= count
            writer.write(b"".join(self._request() for _ in range(count)))
            for _ in range(count):
                head = await reader.readuntil(b"\r\n\r\n")
                self.statuses[head[9:12]] += 1
                at = head.lower().index(b"content-length: ") + 16
                await reader.readexactly(int(head[at:].split(b"\r\n", 1)[0]))
        writer.close()


async def good_caller(port: int, secret: str, seconds: list[float], over: asyncio.Event) -> Counter[bytes]:
    """From the address of the flood, on a connection to each worker that the kernel gives it."""
    statuses: Counter[bytes] = Counter()
    request = (
        f"GET /local/good HTTP/1.1\r\nHost: gateway.test\r\nX-Forwarded-For: 198.51.100.7\r\n"
        f"Authorization: Bearer {secret}\r\n\r\n"
    ).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while not over.is_set():
        began = time.monotonic()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        at = head.lower().index(b"content-length: ") + 16
        await reader.readexactly(int(head[at:].split(b"\r\n", 1)[0]))
        seconds.append(time.monotonic() - began)
        statuses[head[9:12]] += 1
        await asyncio.sleep(GOOD_PAUSE_SECONDS)
    writer.close()
    return statuses


def memory(gateway: GatewayProcess) -> list[int]:
    return [psutil.Process(pid).memory_info().rss for pid in gateway.worker_pids()]


def queries(gateway: GatewayProcess) -> int:
    workers = gateway.status()["workers"]
    return sum(int(worker["reported"]["keys"]["look_up_queries"]) for worker in workers)


async def prove(gateway: GatewayProcess, secret: str, keys: int, *, many: bool) -> list[str]:
    name = "as many addresses as keys" if many else "one address"
    before, asked = memory(gateway), queries(gateway)
    over, seconds = asyncio.Event(), list[float]()
    good = asyncio.create_task(good_caller(gateway.port, secret, seconds, over))
    await asyncio.sleep(2)
    alone = sorted(seconds)
    seconds.clear()
    flood = Flood(gateway.port, keys, many=many)
    began = time.monotonic()
    await flood.run()
    took = time.monotonic() - began
    over.set()
    statuses = await good
    await asyncio.sleep(2)
    grown = max(now - then for now, then in zip(memory(gateway), before, strict=True)) / MIB
    asked = queries(gateway) - asked
    beside = sorted(seconds)
    print(
        f"{name}: {keys} keys in {took:.0f} s ({keys / took:.0f}/s): {dict(flood.statuses)}; {asked} queries; a worker "
        f"grew by {grown:.1f} MiB; the good caller {dict(statuses)}, p50 {alone[len(alone) // 2] * 1e3:.1f} ms before and "
        f"{beside[len(beside) // 2] * 1e3:.1f} ms beside it, p99 {beside[len(beside) * 99 // 100] * 1e3:.1f} ms",
        flush=True,
    )
    failures = []
    if statuses.keys() != {b"200"}:
        failures.append(f"{name}: the caller whose key works was answered {dict(statuses)}")
    if grown > GROWTH_MIB_MAX:
        failures.append(f"{name}: a worker grew by {grown:.1f} MiB")
    allowed = 100 * (took / 60 + 1)
    if not many and flood.statuses[b"401"] > allowed * 1.1:
        failures.append(f"{name}: {flood.statuses[b'401']} attempts were let through, of {allowed:.0f}")
    return failures


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/prove failed-attempts", description=__doc__)
    parser.add_argument("--keys", type=int, default=1_000_000, help="from one address (default 1 000 000)")
    parser.add_argument("--many", type=int, default=300_000, help="each from another address (default 300 000)")
    chosen = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="ostiary-attempts-") as directory,
        EmbeddedPostgres(Path(directory) / "postgres") as postgres,
        EmbeddedValkey(Path(directory) / "valkey") as valkey,
        running_origin(Path(directory)) as origin,
    ):
        home = Path(directory) / "site"
        home.mkdir()
        site = Site(
            home, postgres=fresh_database(postgres), redis=valkey.url(), origin_port=origin.port, workers=WORKERS
        )
        site.write(site.text.replace("  failed_attempts: off", "  trusted_proxies: [127.0.0.1]"))
        with site.control_plane() as control_plane, site.gateway() as gateway:
            (key,) = control_plane.make_keys(1)
            failures = uvloop.run(prove(gateway, key["secret"], chosen.keys, many=False))
            failures += uvloop.run(prove(gateway, key["secret"], chosen.many, many=True))
    for failure in failures:
        print(f"FAILED: {failure}")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
