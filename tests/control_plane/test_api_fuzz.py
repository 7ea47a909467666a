"""Rows 126, 128: thousands of made-up calls to a control plane, as its OpenAPI document has them and as it has them not."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.cli.conftest import OPERATOR_TOKEN
from tests.control_plane.fuzzing import by_operator, fuzz, serving_for_fuzz
from tests.control_plane.fuzzing_owners import FOR_IDS, OF_OTHERS, asked_by_the_second, by_two_owners, two_owners

# At least so many: some 4 900 that go through the document keyword by keyword, whatever is chosen here, and these at random.
# How many they are depends a little on what is answered. One at random costs five times as much of the processor as one of
# the others, and `scripts/prove api-fuzz` makes thousands.
CASES = 5_000
EXAMPLES_OF_OWNERS = 2
EXAMPLES_OF_OPERATOR = 1

# Of some ten operations the second owner asks for what the first has read; which they are is up to chance.
ASKED = 4


@pytest.mark.long
async def test_no_call_is_answered_against_the_document(database: str, tmp_path: Path) -> None:
    """Rows 126, 128: a fault, an answer that no client was told of, a wrong call that is taken, a call without credentials
    that is served, something of one organization that the owner of another gets.

    What members may call, the owner of an organization calls, and the owner of another asks for what they have read; the rest
    an operator calls. It is only as far as chance gets that this finds one organization at another's things:
    test_authorization_walk.py asks for every operation, in every role."""
    with serving_for_fuzz(tmp_path, database) as served:
        owners = await asyncio.to_thread(two_owners, served.url, OPERATOR_TOKEN)
        callers = by_two_owners(tmp_path, owners)
        of_members = await asyncio.to_thread(fuzz, tmp_path, served.url, callers, seed=128, examples=EXAMPLES_OF_OWNERS)
        assert not of_members.found, of_members.said
        callers = by_operator(OPERATOR_TOKEN, OF_OTHERS, for_ids=FOR_IDS)
        others = await asyncio.to_thread(fuzz, tmp_path, served.url, callers, seed=128, examples=EXAMPLES_OF_OPERATOR)
        assert not others.found, others.said
    assert of_members.cases + others.cases >= CASES
    asked = asked_by_the_second(tmp_path, owners)
    assert len(asked) >= ASKED, f"two owners are as one who gets nowhere: {asked}"
