"""Spoiled requests, by seed. A failure prints a case for test_findings.py."""

from __future__ import annotations

from tests.fuzz.memory import MemoryLoop
from tests.fuzz.requests import run
from tests.fuzz.stage import Stage

REQUESTS = 50_000
SEED = 20261125


def test_no_spoiled_request_breaks_the_gateway_or_reaches_the_upstream_as_another() -> None:
    """Rows 1, 5, 9, 12, 15, 27, 28, 37: whatever a client sends, however sliced, nothing crashes, hangs or is smuggled."""
    loop = MemoryLoop()

    async def all_of_them() -> None:
        await run(Stage(loop), SEED, REQUESTS)

    try:
        loop.run_until_complete(all_of_them())
    finally:
        loop.close()
