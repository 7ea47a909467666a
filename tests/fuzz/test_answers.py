"""Spoiled answers, by seed. A failure prints a case for test_findings.py."""

from __future__ import annotations

from tests.fuzz.answers import run
from tests.fuzz.memory import MemoryLoop
from tests.fuzz.stage import Stage

ANSWERS = 2_500
SEED = 20261125


def test_a_spoiled_answer_is_relayed_as_it_is_meant_or_refused_or_visibly_broken_off() -> None:
    """Rows 98, 99, 100, 102, 103: whatever an upstream sends, no client takes a part for the whole, one answer for another,
    or garbage for an answer."""
    loop = MemoryLoop()

    async def all_of_them() -> None:
        await run(Stage(loop), SEED, ANSWERS)

    try:
        loop.run_until_complete(all_of_them())
    finally:
        loop.close()
