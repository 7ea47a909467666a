"""The rule of replacement, over a clock that the test turns."""

from __future__ import annotations

from ostiary.gateway.deaths import DEATHS_FREE, DELAY_MAX_SECONDS, TRUSTED_AFTER_SECONDS, DeathRecord


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_loop_of_deaths_is_slowed_down_exponentially_up_to_a_bound() -> None:
    """Row 109: a crash loop without a growing delay eats the machine; without a bound it would never recover."""
    record = DeathRecord(Clock())
    delays = []
    for _ in range(100):
        record.born()
        delays.append(record.died())
    assert delays[:9] == [0, 0, 0, 0, 0.125, 0.25, 0.5, 1, 2]
    assert delays[12:] == [DELAY_MAX_SECONDS] * 88


def test_deaths_far_apart_are_replaced_at_once_for_ever() -> None:
    """A rare defect must not add up over months to a slow restart."""
    clock = Clock()
    record = DeathRecord(clock)
    for _ in range(50):
        record.born()
        clock.now += TRUSTED_AFTER_SECONDS
        assert record.died() == 0
        assert not record.keeps_dying


def test_a_process_is_not_trusted_for_the_time_it_was_dead() -> None:
    """The wait before a restart must not count as life, or readiness would turn green while nothing runs."""
    clock = Clock()
    record = DeathRecord(clock)
    for _ in range(DEATHS_FREE + 1):
        record.born()
        record.died()
    assert record.keeps_dying
    clock.now += 100
    assert record.keeps_dying
    record.born()
    clock.now += TRUSTED_AFTER_SECONDS - 0.001
    assert record.keeps_dying
    clock.now += 0.001
    assert not record.keeps_dying
