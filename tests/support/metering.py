"""What a gateway of this process has metered, read from its spool as Postgres would read it."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path
from typing import NamedTuple

from ostiary.gateway.usage.record import COLUMNS
from ostiary.gateway.usage.segment import scan

_NUMBERS = frozenset({"occurred_at", "latency_us", "upstream_us", "key_generation", "bytes_in", "bytes_out", "status"})


class Metered(NamedTuple):
    """The columns that tests ask about."""

    status: int
    bytes_in: int
    bytes_out: int
    latency_us: int
    key_id: str | None
    complete: bool
    key_generation: int


def metered(directory: Path) -> list[Metered]:
    """Every call in the spool, in order."""
    records = [record for path in sorted(directory.glob("*.open")) for record in scan(path.read_bytes())[0]]
    return [_read(record) for record in records]


async def metered_calls(directory: Path, count: int, seconds: float = 5.0) -> list[Metered]:
    """As soon as there are `count` of them. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while len(calls := metered(directory)) < count:  # noqa: ASYNC110  the spool tells nobody
            await asyncio.sleep(0.01)
    return calls


def _read(record: bytes) -> Metered:
    """PostgreSQL's binary COPY: the number of fields, then each with its length before it."""
    at = 2
    values: dict[str, bytes | None] = {}
    for name in COLUMNS:
        (length,) = struct.unpack_from("!i", record, at)
        at += 4
        values[name] = record[at : at + length] if length >= 0 else None
        at += max(length, 0)
    numbers = {name: int.from_bytes(values[name] or b"") for name in _NUMBERS}
    key_id = values["key_id"]
    return Metered(
        status=numbers["status"],
        bytes_in=numbers["bytes_in"],
        bytes_out=numbers["bytes_out"],
        latency_us=numbers["latency_us"],
        key_id=key_id.decode() if key_id is not None else None,
        complete=values["complete"] == b"\x01",
        key_generation=numbers["key_generation"],
    )
