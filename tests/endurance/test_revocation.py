"""A revoked key is refused everywhere within a second, however busy the gateway is."""

from __future__ import annotations

import time

import pytest

from tests.endurance.callers import Callers, broken
from tests.endurance.conftest import MakeSite
from tests.endurance.site import stream, wait_until_connected
from tests.support.gateway_process import eventually

pytestmark = pytest.mark.alone

WORKERS = 3
KEYS = 3
HOLDS_WITHIN_SECONDS = 1.0


def test_a_revoked_key_is_refused_by_every_worker_within_a_second(make_site: MakeSite, callers: Callers) -> None:
    """Row 70: whoever has stolen a key would go on using it after its owner was told that it is revoked."""
    site = make_site(workers=WORKERS)
    with site.control_plane() as control_plane, site.gateway() as gateway:
        keys = control_plane.make_keys(KEYS)
        load = [stream(key["key_id"], gateway, "local", site.bearer(key["secret"]), connections=2) for key in keys]
        callers.start(load)
        ports = wait_until_connected(gateway, callers.connections(load))
        assert sum(map(bool, ports.values())) > 1, "several workers know the keys"
        answered_ns: dict[str, int] = {}
        for key in keys:
            callers.wait_until_answered(100)
            control_plane.revoke(key)
            answered_ns[key["key_id"]] = time.monotonic_ns()
        # Calls that begin this long after the answer must all be refused; there have to be some.
        until = time.monotonic() + HOLDS_WITHIN_SECONDS + 0.3
        eventually(lambda: time.monotonic() > until, "calls after the second")
        calls = callers.stop()

    assert broken(calls) == []
    for name, moment_ns in answered_ns.items():
        of_key = [call for call in calls if call.stream == name]
        last_ns = max(call.began_ns for call in of_key if call.status == 200)
        print(f"last accepted call began {(last_ns - moment_ns) / 1e6:+.1f} ms after the answer to the revocation")
        late = [call for call in of_key if call.began_ns > moment_ns + HOLDS_WITHIN_SECONDS * 1e9]
        assert {call.local_port for call in late} == {call.local_port for call in of_key}, "on every connection"
        assert {(call.status, call.code) for call in late} == {(401, "credentials_invalid")}
