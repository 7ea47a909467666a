"""A table of very many keys, and what it costs a worker to find one, to go through all, and to know some.

Importable with its parameters, so that the proof needs no other code than the test."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psutil

from ostiary.core.credentials import generate_key_id, generate_secret, secret_sha256
from ostiary.core.model import Environment
from ostiary.gateway.keys import KeyRing
from tests.gateway.keys.conftest import KeyDatabase, answer

# Of one COPY.
_ROWS = 20_000
# Look-ups under way at once when a ring goes through all keys: four queries' worth.
_AT_ONCE = 1_024
_COLUMNS = (
    *("id", "app_id", "name", "environment", "secret_sha256", "secret_sealed", "data_key_wrapped", "secret_hint", "scopes"),
)  # fmt: skip


@dataclass(frozen=True)
class ManyKeys:
    """Their ids, and their secrets in the same order."""

    ids: list[str]
    secrets: list[bytes]


async def fill(database: KeyDatabase, count: int, progress: Callable[[int], None] = lambda _: None) -> ManyKeys:
    """So many live keys in force, each usable by every scheme. Nothing is announced of them."""
    ids: list[str] = []
    secrets: list[bytes] = []
    app_id = await database.connection.fetchval("SELECT id FROM apps")
    await database.silence()
    while len(ids) < count:
        rows = []
        for _ in range(min(_ROWS, count - len(ids))):
            key_id, secret = generate_key_id(Environment.LIVE), generate_secret(Environment.LIVE).encode()
            sealed, wrapped = database.envelope.seal(secret, key_id=key_id)
            hint = secret[-4:].decode()
            rows.append((key_id, app_id, "one of many", "live", secret_sha256(secret), sealed, wrapped, hint, ["read"]))
            ids.append(key_id)
            secrets.append(secret)
        await database.connection.copy_records_to_table("api_keys", records=rows, columns=_COLUMNS)
        progress(len(ids))
    await database.connection.execute("ALTER TABLE api_keys ENABLE TRIGGER api_keys_announce")
    await database.connection.execute("VACUUM ANALYZE api_keys")
    return ManyKeys(ids, secrets)


async def cold_look_ups(ring: KeyRing, keys: ManyKeys, count: int) -> list[float]:
    """Seconds of so many look-ups of keys that the ring does not know, one after the other, by id and by secret in turns,
    in order of their length."""
    found = []
    for turn, number in enumerate(random.Random(1).sample(range(len(keys.ids)), count)):
        started = time.perf_counter()
        known = await answer(ring.find(keys.ids[number]) if turn % 2 else ring.find_by_secret(keys.secrets[number]))
        found.append(time.perf_counter() - started)
        assert known is not None
        assert known.key.id == keys.ids[number]
    return sorted(found)


@dataclass(frozen=True)
class Passage:
    """What a ring holds after going through all keys, and by how much its process had grown when the cache was full for the
    first time, half-way, and at the end. Between the first two the holes that evicted keys of other lengths leave come to
    their share; from then on nothing must grow."""

    known: int
    by_secret: int
    evicted: int
    full_bytes: int
    half_bytes: int
    end_bytes: int


async def go_through(ring: KeyRing, keys: ManyKeys) -> Passage:
    """Asks for every key once, by its secret."""
    process = psutil.Process()
    before = process.memory_info().rss
    full = half = 0
    for start in range(0, len(keys.secrets), _AT_ONCE):
        batch: Sequence[bytes] = keys.secrets[start : start + _AT_ONCE]
        assert None not in await asyncio.gather(*(answer(ring.find_by_secret(secret)) for secret in batch))
        if not full and ring._cache.evicted:
            full = process.memory_info().rss - before
        if not half and start >= len(keys.secrets) // 2:
            half = process.memory_info().rss - before
    cache = ring._cache
    return Passage(
        len(cache.known), len(cache.by_secret), cache.evicted, full, half, process.memory_info().rss - before
    )
