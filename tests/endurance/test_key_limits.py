"""Limits of one key, changed over the API while it calls: in force in every worker within a second."""

from __future__ import annotations

import http.client
import time
from typing import Any

import pytest

from tests.endurance.conftest import MakeSite
from tests.endurance.site import ControlPlane
from tests.support.gateway_process import GatewayProcess, eventually

pytestmark = pytest.mark.alone

WORKERS = 3
HOLDS_WITHIN_SECONDS = 1.0
USED = 20


def call(gateway: GatewayProcess, secret: str) -> tuple[int, int, int]:
    """Status, limit and what remains of it, on a connection of its own: the kernel gives it to any of the workers."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=10)
    try:
        connection.request("GET", "/local/x", headers={"Authorization": f"Bearer {secret}"})
        answer = connection.getresponse()
        answer.read()
        limit, remaining = answer.headers["X-RateLimit-Limit"], answer.headers["X-RateLimit-Remaining"]
        return answer.status, int(limit), int(remaining)
    finally:
        connection.close()


def changed(control_plane: ControlPlane, method: str, path: str, body: dict[str, Any] | None = None) -> None:
    """Returns when the change has to hold."""
    control_plane.call(method, path, body)
    until = time.monotonic() + HOLDS_WITHIN_SECONDS
    eventually(lambda: time.monotonic() > until, "the second")


def test_limits_of_a_key_hold_in_every_worker_within_a_second(make_site: MakeSite) -> None:
    """Row 81: a caller whose limit was lowered would go on at the old one, or be shown that less than nothing remains; or
    begin anew with each change."""
    site = make_site(workers=WORKERS)
    with site.control_plane() as control_plane, site.gateway() as gateway:
        (key,) = control_plane.make_keys(1)
        path, secret = f"/keys/{key['key_id']}/limits", key["secret"]
        assert {call(gateway, secret)[:2] for _ in range(USED)} == {(200, 10_000_000)}

        changed(control_plane, "PUT", path, {"limits": [{"requests": 50, "per": "minute"}], "reason": "less"})
        seen = [call(gateway, secret) for _ in range(10)]
        assert {answer[:2] for answer in seen} == {(200, 50)}
        assert [remaining for _, _, remaining in seen] == [50 - USED - 1 - number for number in range(10)]

        changed(control_plane, "PUT", path, {"limits": [{"requests": 10, "per": "minute"}], "reason": "less than used"})
        assert {call(gateway, secret) for _ in range(10)} == {(429, 10, 0)}

        changed(control_plane, "DELETE", f"{path}?reason=enough")
        seen = [call(gateway, secret) for _ in range(10)]
        assert {answer[:2] for answer in seen} == {(200, 10_000_000)}
        assert control_plane.call("GET", path)["reason"] == "enough"
