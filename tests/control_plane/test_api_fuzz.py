"""Row 128: thousands of made-up calls to a control plane, as its OpenAPI document has them and as it has them not."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.cli.conftest import OPERATOR_TOKEN
from tests.control_plane.fuzzing import fuzz, serving_for_fuzz

CASES = 5_000
# Of each operation in each phase: enough for that many cases.
EXAMPLES = 40


@pytest.mark.long
async def test_no_call_is_answered_against_the_document(database: str, tmp_path: Path) -> None:
    """Row 128: a fault, an answer that no client was told of, a wrong call that is taken, a call without credentials that is
    served."""
    with serving_for_fuzz(tmp_path, database) as served:
        found = await asyncio.to_thread(fuzz, tmp_path, served.url, token=OPERATOR_TOKEN, seed=128, examples=EXAMPLES)
    assert not found.found, found.said
    assert found.cases >= CASES
