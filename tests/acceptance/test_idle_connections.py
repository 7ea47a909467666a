"""What a connection costs that does nothing."""

from __future__ import annotations

from pathlib import Path

from tests.acceptance import edge_site
from tests.acceptance.idle_connections import hold, raise_descriptor_limit

CONNECTIONS = 1500
BYTES_MAX = 10 * 1024


def test_an_idle_connection_costs_a_worker_at_most_ten_kibibytes(tmp_path: Path) -> None:
    """Row 36: twenty thousand are 200 MiB at that; buffers or dictionaries that a connection keeps would be gigabytes. The
    short version of `scripts/prove idle-connections`."""
    assert raise_descriptor_limit() > 2 * CONNECTIONS
    limits = "keepalive: 1h, connections_per_address: 20000"
    with edge_site.running_gateway(tmp_path, limits=limits) as gateway:
        held = hold(gateway, CONNECTIONS, ask=True)
    assert held.answered == CONNECTIONS + 1
    assert held.bytes_each <= BYTES_MAX
