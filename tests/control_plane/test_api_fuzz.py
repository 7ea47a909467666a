"""Row 128: thousands of made-up calls to a control plane, as its OpenAPI document has them and as it has them not."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.cli.conftest import OPERATOR_TOKEN
from tests.control_plane.fuzzing import fuzz, serving_for_fuzz

# At least so many: some 4 800 that go through the document keyword by keyword, whatever is chosen here, and these at random.
# How many they are depends a little on what is answered. One at random costs five times as much of the processor as one of
# the others, and `scripts/prove api-fuzz` makes thousands.
CASES = 5_000
EXAMPLES = 2


@pytest.mark.long
async def test_no_call_is_answered_against_the_document(database: str, tmp_path: Path) -> None:
    """Row 128: a fault, an answer that no client was told of, a wrong call that is taken, a call without credentials that is
    served.

    All calls are an operator's: whether one organization gets at what is another's, test_authorization_walk.py shows, which
    calls every operation as everyone who has a role in one and none in the other. The program's own check of that wants
    peers with sign-ins of their own, and would ask less: only what a made-up call happens to have read."""
    with serving_for_fuzz(tmp_path, database) as served:
        found = await asyncio.to_thread(fuzz, tmp_path, served.url, token=OPERATOR_TOKEN, seed=128, examples=EXAMPLES)
    assert not found.found, found.said
    assert found.cases >= CASES
