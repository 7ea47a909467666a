"""Invariant: whatever Redis is told has an end, so its memory is bounded by who has called lately."""

from __future__ import annotations

import redis.asyncio

from ostiary.demo.stores import EmbeddedValkey
from tests.gateway.limits.many_keys import NAMES_A_CALLER, crowd, until_empty

CALLERS = 20_000
# Four names of a caller take 550 bytes as Valkey 9 keeps them.
BYTES_A_NAME_MAX = 300


async def test_the_memory_of_redis_is_bounded_by_the_time_to_live_of_what_callers_used(
    own_valkey: EmbeddedValkey,
) -> None:
    """Row 80: a million callers that never come back would fill Redis, and then nobody has limits."""
    url = own_valkey.url()
    seen = await crowd(url, callers=CALLERS, window_seconds=30)
    print(f"{seen.names} names of {seen.bytes_a_name:.0f} bytes, none lives longer than {seen.longest_ms} ms")
    assert CALLERS * NAMES_A_CALLER <= seen.names <= CALLERS * NAMES_A_CALLER + 3, "and what the gateway has for itself"
    assert seen.immortal == 0
    assert 0 < seen.longest_ms <= seen.expected_ms
    assert seen.bytes_a_name <= BYTES_A_NAME_MAX

    # Time can't be hurried, but ends can be brought near: all of them, as far as they have one.
    async with redis.asyncio.Redis.from_url(url) as store:
        names = [name async for name in store.scan_iter(count=1000)]
        for first in range(0, len(names), 1000):
            pipeline = store.pipeline(transaction=False)
            for name in names[first : first + 1000]:
                pipeline.pexpire(name, 1, xx=True)
            await pipeline.execute()
    left, bytes_left = await until_empty(url, seconds=10)
    assert left == 0
    assert bytes_left - seen.bytes_before < (seen.bytes_then - seen.bytes_before) / 4
