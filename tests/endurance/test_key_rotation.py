"""A key that is rotated while it calls: both secrets for the grace, in every worker; and who uses which can be told."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

from tests.endurance.callers import Call, Callers, broken
from tests.endurance.conftest import MakeSite
from tests.endurance.site import ControlPlane, stream, wait_until_connected
from tests.support.gateway_process import eventually

WORKERS = 3
GRACE_SECONDS = 3
# From the commit of a rotation to its announcement in every worker. The end of a grace needs no announcement.
HOLDS_WITHIN_SECONDS = 1.0
# Between the reading of the clock by the caller and by the worker.
SLACK_NS = 50_000_000


def monotonic_ns(moment: str) -> int:
    """A time of day on the clock of the callers."""
    return int(datetime.fromisoformat(moment).timestamp() * 1e9) - time.time_ns() + time.monotonic_ns()


def used(control_plane: ControlPlane, key_id: str) -> list[dict[str, Any]]:
    """Its generations, once both have been used."""

    def question() -> list[dict[str, Any]] | None:
        generations: list[dict[str, Any]] = control_plane.call("GET", f"/keys/{key_id}")["generations"]
        return generations if all(each["last_used_at"] for each in generations) else None

    return eventually(question, "a use of each generation")


def test_an_old_secret_ends_with_its_grace_in_every_worker_and_a_new_one_works_at_once(
    make_site: MakeSite, callers: Callers
) -> None:
    """Row 66: a caller would be cut off before its time, or a secret that was given up work on in some worker."""
    site = make_site(workers=WORKERS)
    with site.control_plane() as control_plane, site.gateway() as gateway:
        (key,) = control_plane.make_keys(1)
        old = stream("old", gateway, "local", site.bearer(key["secret"]), connections=4)
        callers.start([old])
        ports = wait_until_connected(gateway, callers.connections([old]))
        assert sum(map(bool, ports.values())) > 1, "several workers know the key"
        callers.wait_until_answered(100)
        rotated = control_plane.post(f"/keys/{key['key_id']}/rotate", {"grace_seconds": GRACE_SECONDS})
        rotated_ns = time.monotonic_ns()
        ends_ns = monotonic_ns(rotated["generations"][1]["ends_at"])
        first = control_plane.call("GET", f"/keys/{key['key_id']}")
        assert first["state"] == "rotating"
        eventually(lambda: time.monotonic_ns() > ends_ns + 5 * SLACK_NS, "the end of the grace")
        old_calls = callers.stop()

        new = stream("new", gateway, "local", site.bearer(rotated["secret"]), connections=4)
        callers.start([new])
        callers.wait_until_answered(200)
        new_calls = callers.stop()
        present, before = used(control_plane, key["key_id"])
        assert (present["last_used_ip"], before["last_used_ip"]) == ("127.0.0.1", "127.0.0.1")
        # A use is told by when its call ended, which may be some time after it was let in.
        assert monotonic_ns(before["last_used_at"]) < ends_ns + SLACK_NS < monotonic_ns(present["last_used_at"])

    assert broken(old_calls) == broken(new_calls) == []
    assert statuses(new_calls) == {200}
    assert statuses([call for call in old_calls if call.ended_ns < ends_ns - SLACK_NS]) == {200}
    late = [call for call in old_calls if call.began_ns > ends_ns + SLACK_NS]
    assert {(call.status, call.code) for call in late} == {(401, "credentials_invalid")}
    assert {call.local_port for call in late} == {call.local_port for call in old_calls}, "on every connection"
    assert ends_ns - rotated_ns > 1e9 * (GRACE_SECONDS - 1)


def statuses(calls: list[Call]) -> set[int]:
    return {call.status for call in calls}


def test_a_generation_that_is_ended_early_is_refused_by_every_worker_within_a_second(
    make_site: MakeSite, callers: Callers
) -> None:
    """Rows 66, 70: whoever has the leaked secret would go on until the week is over; and who has changed over already must
    not notice."""
    site = make_site(workers=WORKERS)
    with site.control_plane() as control_plane, site.gateway() as gateway:
        (key,) = control_plane.make_keys(1)
        rotated = control_plane.post(f"/keys/{key['key_id']}/rotate", {})
        load = [
            stream(name, gateway, "local", site.bearer(secret), connections=3)
            for name, secret in (("old", key["secret"]), ("new", rotated["secret"]))
        ]
        callers.start(load)
        wait_until_connected(gateway, callers.connections(load))
        callers.wait_until_answered(200)
        control_plane.call("DELETE", f"/keys/{key['key_id']}/generations/1")
        answered_ns = time.monotonic_ns()
        until_ns = answered_ns + (HOLDS_WITHIN_SECONDS + 0.3) * 1e9
        eventually(lambda: time.monotonic_ns() > until_ns, "calls after the second")
        calls = callers.stop()

    assert broken(calls) == []
    assert statuses([call for call in calls if call.stream == "new"]) == {200}
    of_old = [call for call in calls if call.stream == "old"]
    late = [call for call in of_old if call.began_ns > answered_ns + HOLDS_WITHIN_SECONDS * 1e9]
    assert statuses(late) == {401}
    assert {call.local_port for call in late} == {call.local_port for call in of_old}
    last_ns = max(call.began_ns for call in of_old if call.status == 200)
    print(f"last let in {(last_ns - answered_ns) / 1e6:+.1f} ms after the answer")
