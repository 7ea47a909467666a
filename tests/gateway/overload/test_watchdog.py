"""A loop that stands still is told while it does, with the place, and counted."""

from __future__ import annotations

import time
from pathlib import Path

from ostiary.gateway.overload.watchdog import STALL_SECONDS
from tests.support.gateway_process import TinyGateway, eventually
from tests.support.samples import samples


def test_a_blocked_loop_is_logged_with_its_place_and_counted(tmp_path: Path) -> None:
    """Row 113: half a second in a callback is half a second for every client, and leaves no other trace."""
    with TinyGateway(tmp_path, workers=1) as gateway:
        gateway.wait_ready()
        before = time.monotonic()
        gateway.get("/stall")
        assert time.monotonic() - before >= 0.5
        hangs = gateway.wait_for_log("event_loop_hangs", process="worker-0")
        assert "tiny_service.py" in hangs["stack"][0]
        assert hangs["stack"][0].endswith(" _answer")
        stalled = gateway.wait_for_log("event_loop_stalled", process="worker-0")
        assert STALL_SECONDS <= hangs["seconds"] <= stalled["seconds"]

        def counted() -> bool:
            stalls = samples(gateway.admin("/metrics")[1])
            return stalls["event_loop_stalls_total", ()] >= 1

        eventually(counted, "the stall in the metrics")
        assert gateway.logged("process_hangs") == []
        assert gateway.admin("/readyz")[0] == 200
