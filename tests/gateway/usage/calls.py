"""Builders: a call to be metered, a spool full of them, and waiting for what must come true."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

import asyncpg

import ostiary.control_plane
from ostiary.core.usage import SpoolSettings
from ostiary.gateway.usage import NOTHING_TOLD, ClientFields, Spool, caller_part, encode, encode_begun, route_part
from ostiary.gateway.usage.record import COLUMNS, COLUMNS_OF, EVERYTHING
from ostiary.gateway.usage.segment import HEADER_BYTES, RECORD_BYTES_MAX, read_header

_MIGRATIONS = sorted((Path(ostiary.control_plane.__file__).parent / "db" / "migrations").glob("*.sql"))
# All of them: whatever a migration adds to the tables of usage, a shipper writes.
SCHEMA = "\n".join(path.read_text(encoding="utf-8") for path in _MIGRATIONS)

Rows: TypeAlias = "asyncpg.Connection[asyncpg.Record]"  # text: only the stubs of asyncpg know the parameter

SMALL_SEGMENT_BYTES = HEADER_BYTES + 4 * RECORD_BYTES_MAX  # the smallest there is: some 250 calls
APP = "0b0e8400-e29b-41d4-a716-446655440000"
ORGANIZATION = "1c0e8400-e29b-41d4-a716-446655440000"
CALLER = caller_part("ak_test_abc123", APP, ORGANIZATION, "test", 1)
ROUTE = route_part("clients", "/v1/clients/{id}")


def call(
    request_id: str | bytes = "req-1",
    *,
    caller: bytes = CALLER,
    route: bytes = ROUTE,
    occurred_at: float | None = None,
    method: bytes = b"GET",
    status: int = 200,
    latency_us: int = 1500,
    upstream_us: int = 1200,
    bytes_in: int = 0,
    bytes_out: int = 121,
    ip: str = "192.0.2.7",
    user_agent: bytes | None = b"curl/8.5.0",
    overage: bool = False,
    complete: bool = True,
    told: bytes = NOTHING_TOLD,
    client: ClientFields = EVERYTHING,
) -> bytes:
    """The record of a call; a plain one unless told otherwise."""
    return encode(
        caller,
        route,
        request_id.encode() if isinstance(request_id, str) else request_id,
        time.time() if occurred_at is None else occurred_at,
        method,
        status,
        latency_us,
        upstream_us,
        bytes_in,
        bytes_out,
        ip,
        user_agent,
        overage,
        complete,
        told,
        client,
    )


def begin(spool: Spool, name: str, *, user_agent: bytes = b"curl/8.5.0") -> int:
    """The slot of a call of `call` that goes upstream."""
    begun = encode_begun(CALLER, ROUTE, name.encode(), b"GET", "192.0.2.7", user_agent)
    return spool.open(begun, len(name), time.time(), False)


def as_version_1(record: bytes) -> bytes:
    """The same call as a gateway of before wrote it: without the columns that came since."""
    at, kept = 2, [len(COLUMNS_OF[1]).to_bytes(2)]
    for column in COLUMNS:
        length = max(0, int.from_bytes(record[at : at + 4], signed=True)) + 4
        if column in COLUMNS_OF[1]:
            kept.append(record[at : at + length])
        at += length
    return b"".join(kept)


def mark_version_1(segment: Path) -> None:
    content = bytearray(segment.read_bytes())
    header = replace(read_header(bytes(content)), version=1).pack()
    content[: len(header)] = header
    segment.write_bytes(content)


def open_spool(
    directory: Path,
    *,
    worker: str = "0",
    segment_bytes: int = SMALL_SEGMENT_BYTES,
    bytes_max: int = 1 << 30,
    settings: SpoolSettings | None = None,
) -> Spool:
    """A spool of small segments, so that a few calls fill several."""
    return Spool(
        directory=directory, worker=worker, segment_bytes=segment_bytes, bytes_max=bytes_max, settings=settings
    )


def spool_calls(directory: Path, names: list[str], *, worker: str = "0") -> None:
    """One whole run of a worker that metered calls with these request ids."""
    spool = open_spool(directory, worker=worker)
    for name in names:
        assert spool.append(call(name))
    spool.close()


def segment_files(directory: Path, state: str) -> list[Path]:
    return sorted(directory.glob(f"*.{state}"))


@dataclass
class Observed:
    """Remembers what a shipper told."""

    rows: int = 0
    failures: list[str] = field(default_factory=list)
    quarantines: int = 0
    bytes: list[int] = field(default_factory=list)

    def written(self, rows: int) -> None:
        self.rows += rows

    def failed(self, kind: str) -> None:
        self.failures.append(kind)

    def quarantined(self, segments: int) -> None:
        self.quarantines += segments

    def spool_bytes(self, count: int) -> None:
        self.bytes.append(count)


async def until(holds: Callable[[], Awaitable[bool]], what: str, seconds: float = 20.0) -> None:
    """Returns as soon as `holds` does; fails, naming `what`, when it does not in time."""
    deadline = time.monotonic() + seconds
    while not await holds():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.01)
