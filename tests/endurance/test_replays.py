"""No signed call is let in twice, whichever worker of whichever node gets the copy, and when."""

from __future__ import annotations

from tests.endurance.conftest import MakeSite
from tests.endurance.replaying import replay


def test_no_replay_passes_on_two_nodes_before_or_after_their_restart(make_site: MakeSite) -> None:
    """Row 57: a recorded call could be sent again to another worker, to the other node, or after a deployment."""
    found = replay(make_site(workers=2), calls=100, pairs=50)
    assert found.failures() == []
    assert found.replays == 400
    assert found.workers > 4, "workers of both nodes, before and after"
