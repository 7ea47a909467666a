"""Proof: a million callers that call once and never again cost Redis memory for as long as their limits remember them, and
no longer.

Each has a plan (bucket, window, calls under way), a nonce, and a limit by its address: four names in Redis. Every one of them
is looked at for its time to live; then all there is to do is to wait until Redis is empty."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import uvloop

from ostiary.demo.stores import EmbeddedValkey
from tests.gateway.limits.many_keys import crowd, until_empty

MIB = 1 << 20
PROGRESS_SECONDS = 10.0
# Beyond the longest life of a name: Redis removes what has expired in small steps.
EXPIRY_SECONDS = 60.0
# Of what the callers took, when all has been forgotten: tables that shrink later, and what the allocator keeps.
REST_PART_MAX = 0.25


async def prove(url: str, *, callers: int, window_seconds: int) -> list[str]:
    said_at = began = time.monotonic()

    def say(called: int) -> None:
        nonlocal said_at
        if (now := time.monotonic()) - said_at >= PROGRESS_SECONDS:
            said_at = now
            print(f"  {called} callers have called", flush=True)

    seen = await crowd(url, callers=callers, window_seconds=window_seconds, progress=say)
    grown = seen.bytes_then - seen.bytes_before
    print(
        f"{callers} callers in {time.monotonic() - began:.0f} s: {seen.names} names, {grown / MIB:.0f} MiB, "
        f"{seen.bytes_a_name:.0f} bytes a name"
    )
    print(
        f"of {seen.seen} names that were left when they were counted {seen.immortal} have no time to live; the longest has "
        f"{seen.longest_ms / 1000:.1f} s, of {seen.expected_ms / 1000:.1f} s at most",
        flush=True,
    )
    waited_from = time.monotonic()
    left, bytes_left = await until_empty(url, seconds=seen.expected_ms / 1000 + EXPIRY_SECONDS)
    rest = bytes_left - seen.bytes_before
    print(f"after {time.monotonic() - waited_from:.0f} s more: {left} names, {rest / MIB:.1f} MiB above the beginning")
    failures = []
    if seen.immortal:
        failures.append(f"{seen.immortal} names live for ever")
    if seen.longest_ms > seen.expected_ms:
        failures.append(f"a name lives {seen.longest_ms} ms")
    if left or rest > REST_PART_MAX * grown:
        failures.append("the memory did not come back")
    return failures


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/prove limits-memory", description=__doc__)
    parser.add_argument("--callers", type=int, default=1_000_000, help="(default 1 000 000)")
    parser.add_argument("--window", type=int, default=120, help="of their limits, in seconds (default 120)")
    chosen = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="ostiary-memory-") as directory,
        EmbeddedValkey(Path(directory) / "v") as valkey,
    ):
        failures = uvloop.run(prove(valkey.url(), callers=chosen.callers, window_seconds=chosen.window))
    for failure in failures:
        print(f"FAILED: {failure}")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
