"""Slow clients of every kind, beside good ones that must not notice."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance import edge_site
from tests.acceptance.slow_clients import MODES, Outcome, measure

SECONDS = 5


@pytest.mark.full
def test_good_clients_lose_no_call_while_slow_ones_hold_their_connections(tmp_path: Path) -> None:
    """Row 35: whoever opens connections and sends next to nothing would keep everybody else out. The short version of
    `scripts/prove slow-clients`, which compares latencies too."""
    limits = "head_timeout: 2s, body_timeout: 2s, write_timeout: 2s, connections_per_address: 100000"
    with edge_site.running_gateway(tmp_path, limits=limits) as gateway:
        outcomes: list[Outcome] = [measure(gateway, mode, connections=200, seconds=SECONDS) for mode in MODES]
    for outcome in outcomes:
        assert outcome.failures == (), outcome
        assert outcome.calls > 200, outcome
        assert outcome.left <= 10, outcome  # the good ones' own, that are kept
    # Fifty come a second, and each is let hold its connection for two.
    assert outcomes[0].most > 60, "slowhttptest did hold its connections"
