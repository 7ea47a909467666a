"""Starts, ends and reloads under load: no call fails that had been let in."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.gateway_process import TinyGateway
from tests.support.load import Load


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[TinyGateway]:
    with TinyGateway(tmp_path) as running:
        yield running.wait_ready()


def test_sigterm_under_load_breaks_no_call_that_was_let_in(tmp_path: Path) -> None:
    """Row 108: SIGTERM under load: readiness is red first, all calls let in are answered whole, and the exit status is 0."""
    for round_number in range(3):
        directory = tmp_path / str(round_number)
        directory.mkdir()
        with TinyGateway(directory) as gateway:
            load = Load(gateway.wait_ready().port)
            load.wait_until_answered(200)
            assert gateway.admin("/readyz")[0] == 200  # from now on it knows that someone watches
            gateway.signal(signal.SIGTERM)
            gateway.wait_for_log("draining")
            load.wait_until_answered(20)  # not ready, and still serving whoever comes
            assert load.refused_at is None
            assert gateway.admin("/readyz")[0] == 503
            assert gateway.wait() == 0
            load.join()
        assert load.failures == []
        assert load.refused_at is not None, "the port is closed"


def test_recycling_workers_under_load_breaks_no_call(gateway: TinyGateway) -> None:
    """Row 108: a worker that drains closes its socket; those in its queue must not be reset."""
    load = Load(gateway.port)
    for round_number in range(4):
        load.wait_until_answered(100)
        pid = gateway.worker_pids()[round_number % 2]
        os.kill(pid, signal.SIGTERM)
        gateway.wait_for_workers(without=pid)
    load.stop()
    assert load.failures == []
    assert load.refused_at is None


def test_reloads_under_load_break_no_call(gateway: TinyGateway) -> None:
    """A reload swaps the configuration between two calls, never within one."""
    load = Load(gateway.port)
    for generation in range(2, 12):
        gateway.write(f"route-{generation}")
        gateway.signal(signal.SIGHUP)
        gateway.wait_for_log("reloaded", generation=generation)
    load.wait_until_answered(100)
    load.stop()
    assert load.failures == []
    assert load.refused_at is None
    assert gateway.logged("process_ended") == []
