"""Invariant: allowed ≤ limit in every span, whichever node and worker is asked, by Redis's clock."""

from __future__ import annotations

from pathlib import Path

from ostiary.demo.stores import EmbeddedValkey
from tests.endurance.nodes import HTTP_SUBJECTS, hammer_nodes
from tests.gateway.limits.decision_log import merged
from tests.gateway.limits.verifier import verify

CALLS = 8_000


def test_two_nodes_of_two_workers_together_keep_every_limit(own_valkey: EmbeddedValkey, tmp_path: Path) -> None:
    """Rows 71, 72: nodes that count for themselves let in twice the limit, and answer what was not decided."""
    hammered = hammer_nodes(own_valkey.port, tmp_path, calls=CALLS)
    assert hammered.failures == []
    assert hammered.answered == CALLS
    for verdict in verify(merged(hammered.logs), HTTP_SUBJECTS):
        print(verdict.line())
        assert verdict.findings == []
        assert verdict.admitted > 0
