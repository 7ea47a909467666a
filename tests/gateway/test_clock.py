"""A clock that is wrong, or is set while calls are made."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ostiary.gateway.clock import ASK_SECONDS, ClockWatch
from ostiary.gateway.telemetry.metrics import Metrics


class Machine:
    """Its clocks, and a Redis whose clock is right. `off` is by how much its wall clock is wrong."""

    def __init__(self) -> None:
        self.now = 5000.0
        self.off = 0.0
        self.away = False
        self.delay = 0.0

    def wall(self) -> float:
        return 1_800_000_000.0 + self.now + self.off

    def monotonic(self) -> float:
        return self.now

    def ask_time(self, told: Callable[[object], None]) -> bool:
        if self.away:
            return False
        right = 1_800_000_000.0 + self.now
        self.now += self.delay  # all of it on the way back
        told([str(int(right)).encode(), str(int(right % 1 * 1e6)).encode()])
        return True


def watch_of(machine: Machine) -> tuple[ClockWatch, Metrics]:
    metrics = Metrics.in_memory()
    watch = ClockWatch(machine, metrics=metrics, skew_seconds=300, wall=machine.wall, monotonic=machine.monotonic)
    return watch, metrics


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.name == "ostiary.gateway.clock"]


@pytest.mark.parametrize("off", [3600.0, -3600.0])
def test_a_clock_that_is_wrong_by_an_hour_raises_an_alarm_and_ends_it_when_it_is_right(
    off: float, caplog: pytest.LogCaptureFixture
) -> None:
    """Row 59: all signed calls are refused, and nothing would say that it is this machine."""
    machine = Machine()
    machine.off = off
    watch, metrics = watch_of(machine)
    watch.look()
    assert metrics.values[metrics.gauge("gateway_clock_offset_seconds")] == pytest.approx(3600, abs=0.01)
    assert watch.status()["offset_seconds"] == off
    machine.off = 0.0
    machine.now += 1
    watch.look()
    assert watch.status() == {"offset_seconds": 0.0, "steps": 1}
    assert events(caplog) == ["clock_off", "clock_stepped", "clock_right_again"]


def test_what_is_no_alarm_is_measured_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    """Row 59: a leap second; and a slow Redis is not a wrong clock."""
    machine = Machine()
    watch, _ = watch_of(machine)
    watch.look()
    machine.off, machine.now = -1.0, machine.now + 1  # the second that came twice
    watch.look()
    assert watch.status() == {"offset_seconds": -1.0, "steps": 1}
    machine.off, machine.delay, machine.now = 0.0, 0.8, machine.now + ASK_SECONDS
    watch.look()
    assert watch.offset_seconds == pytest.approx(0.4, abs=0.01)
    machine.delay, machine.now = 30.0, machine.now + ASK_SECONDS
    watch.look()
    assert watch.offset_seconds == pytest.approx(0.4, abs=0.01)
    assert "clock_off" not in events(caplog)


def test_a_step_is_seen_without_redis(caplog: pytest.LogCaptureFixture) -> None:
    """Row 59: a gateway without Redis has limits by its own clock."""
    machine = Machine()
    machine.away = True
    watch, metrics = watch_of(machine)
    watch.look()
    machine.off, machine.now = 3600.0, machine.now + 1
    watch.look()
    assert metrics.counter("gateway_clock_steps_total").total == 1
    assert watch.offset_seconds is None
    assert events(caplog) == ["clock_stepped"]
