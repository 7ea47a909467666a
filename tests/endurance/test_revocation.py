"""A revoked key is refused everywhere within a second, however busy the gateways are."""

from __future__ import annotations

import pytest

from tests.endurance.callers import Callers
from tests.endurance.conftest import MakeSite
from tests.endurance.revoking import HOLDS_WITHIN_SECONDS, revoke_under_load, second_node

pytestmark = pytest.mark.alone

WORKERS = 2


def test_a_revoked_key_is_refused_by_every_worker_of_two_nodes_within_a_second(
    make_site: MakeSite, callers: Callers
) -> None:
    """Row 70: whoever has stolen a key would go on using it after its owner was told that it is revoked."""
    site = make_site(workers=WORKERS)
    with site.control_plane() as control_plane, site.gateway() as first, second_node(site) as second:
        found = revoke_under_load(
            site, control_plane, [first, second], callers, runs=3, connections=3, interval_seconds=0.03
        )
    for revocation in found:
        print(f"last let in {revocation.last_ms:+.1f} ms after the answer; {revocation.calls} calls")
        assert revocation.failures == ()
        assert revocation.last_ms < 1000 * HOLDS_WITHIN_SECONDS
    assert max(revocation.workers for revocation in found) > WORKERS, "workers of both nodes had the key in use"
