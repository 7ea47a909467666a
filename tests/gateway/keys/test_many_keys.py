"""A table of many keys: each is found by an index, and a worker keeps no more of them than it may."""

from __future__ import annotations

import json

from ostiary.gateway.keys import store
from tests.gateway.keys.conftest import KeyDatabase, RingMaker, follow
from tests.gateway.keys.many_keys import cold_look_ups, fill, go_through

KEYS = 3_000
CAPACITY = 500


async def test_a_worker_finds_each_of_many_keys_and_keeps_no_more_than_it_may(
    database: KeyDatabase, ring_of: RingMaker
) -> None:
    """A worker before a million keys would read them all for each that it does not know, or grow until it is killed."""
    keys = await fill(database, KEYS)
    ring = ring_of(database.url, database.envelope, capacity=CAPACITY)
    await follow(ring)
    seconds = await cold_look_ups(ring, keys, 200)
    print(f"cold look-ups: {seconds[100] * 1000:.2f} ms (median), {seconds[-1] * 1000:.2f} ms (at most)")
    passage = await go_through(ring, keys)
    assert (passage.known, passage.by_secret) == (CAPACITY, CAPACITY)
    assert passage.evicted >= KEYS - CAPACITY


async def test_every_way_to_a_key_is_an_index(database: KeyDatabase) -> None:
    """A look-up would take longer the more keys there are; here, by the secret before, which few rows have."""
    await fill(database, KEYS)
    # For parameters that are not known yet, as Postgres plans a statement that it has seen some times.
    await database.connection.execute("SET plan_cache_mode = force_generic_plan")
    await database.connection.execute(f"PREPARE load (text[], bytea[]) AS {store._LOAD}")
    plan = await database.connection.fetchval("EXPLAIN (FORMAT JSON) EXECUTE load ('{x}', '{x}')")
    scans = _scans(json.loads(plan)[0]["Plan"])
    assert ("Seq Scan", "api_keys") not in scans, scans
    assert {index for kind, index in scans if kind == "Bitmap Index Scan"} == {
        *("api_keys_pkey", "api_keys_secret_sha256_key", "api_keys_by_previous_secret"),
    }


def _scans(node: dict[str, object]) -> list[tuple[str, str]]:
    inner = node.get("Plans", [])
    assert isinstance(inner, list)
    name = str(node.get("Index Name") or node.get("Relation Name") or "")
    return [(str(node["Node Type"]), name), *(scan for each in inner for scan in _scans(each))]
