"""Invariants: a target is out exactly while its checks fail or it is ejected; out, it takes one trial at a time, none early;
an ejection is never longer than its bound, and always ends with a call that goes well."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ostiary.core.upstream import Ejection
from ostiary.gateway.resilience.target_health import TargetHealth, ejection_seconds

RULE = Ejection(after=3, seconds=10.0, seconds_max=60.0)


def ejected(now: float = 100.0) -> TargetHealth:
    health = TargetHealth()
    assert [health.failed(RULE, now, now) for _ in range(3)] == [0.0, 0.0, 10.0]
    assert health.out
    return health


def test_failures_in_a_row_eject_and_others_do_not() -> None:
    """One call of three that fails is a slow endpoint, not a dead server."""
    health = TargetHealth()
    for _ in range(50):
        assert not health.failed(RULE, 1.0, 1.0)
        assert not health.failed(RULE, 1.0, 1.0)
        assert not health.succeeded(1.0, 1.0)
    assert not health.out
    ejected()


def test_it_takes_one_trial_when_its_time_is_over() -> None:
    """All calls at once would bring down what just came up."""
    health = ejected(100.0)
    assert not health.trial_is_due(109.9)
    assert health.trial_is_due(110.0)
    health.begin_trial()
    assert not health.trial_is_due(200.0)
    assert health.succeeded(110.0, 110.1)
    assert not health.out


def test_a_trial_that_fails_ejects_for_twice_as_long_up_to_the_bound() -> None:
    """Each trial of a dead server is somebody's call."""
    health, now = ejected(100.0), 100.0
    lasted = []
    for _ in range(6):
        now += 60.0
        health.begin_trial()
        lasted.append(health.failed(RULE, now, now))
    assert lasted == [20.0, 40.0, 60.0, 60.0, 60.0, 60.0]


def test_a_target_that_was_well_for_long_begins_anew() -> None:
    """Two failures in a week are no reason to be out for the longest time."""
    health = ejected(100.0)
    health.begin_trial()
    assert health.succeeded(110.0, 110.0)
    assert [health.failed(RULE, 120.0, 120.0) for _ in range(3)][-1] == 20.0, "flapping: the row goes on"
    health.begin_trial()
    assert health.succeeded(140.0, 140.0)
    assert [health.failed(RULE, 200.0, 200.0) for _ in range(3)][-1] == 10.0, "well for a minute: forgotten"


def test_calls_from_before_an_ejection_neither_lengthen_nor_end_it() -> None:
    """A hundred calls that were under way fail with the third: it is one outage, counted once."""
    health = ejected(100.0)
    assert not any(health.failed(RULE, 99.0, 101.0) for _ in range(100))
    assert not health.succeeded(99.0, 101.0)
    assert health.ejected
    assert health.trial_is_due(110.0)


def test_a_trial_that_tells_nothing_makes_room_for_another() -> None:
    """A target would be lost once the client of its trial had gone."""
    health = ejected(100.0)
    health.begin_trial()
    health.end_trial()
    assert health.trial_is_due(110.0)


def test_active_checks_and_ejection_each_keep_a_target_out() -> None:
    """A health page may be all that still works, and may fail where calls do not."""
    health = ejected(100.0)
    health.checked(passes=False)
    assert not health.trial_is_due(500.0), "no call is sent to what fails its checks"
    health.checked(passes=True)
    assert health.out
    assert health.trial_is_due(500.0)
    health.begin_trial()
    health.checked(passes=False)
    assert health.succeeded(500.0, 500.0)
    assert health.out
    health.checked(passes=True)
    assert not health.out


def test_without_ejection_failures_are_counted_and_nothing_else() -> None:
    """The count is what tells a target that is known to work from one that is not."""
    health = TargetHealth()
    assert not any(health.failed(None, 1.0, 1.0) for _ in range(100))
    assert (health.failures, health.out) == (100, False)


@given(st.integers(1, 10**6), st.floats(0.1, 3600.0), st.floats(0.1, 86400.0))
def test_an_ejection_is_never_longer_than_its_bound(ejections: int, seconds: float, seconds_max: float) -> None:
    """Doubling that knows no bound is for ever."""
    assert 0 < ejection_seconds(Ejection(seconds=seconds, seconds_max=seconds_max), ejections) <= seconds_max


events = st.sampled_from(["good", "bad", "gone", "check_well", "check_ill"])


@given(st.lists(st.tuples(st.floats(0.0, 30.0, allow_subnormal=False), events), max_size=50))
def test_it_is_out_for_a_reason_and_comes_back(steps: list[tuple[float, str]]) -> None:
    """Whatever happens in whatever order."""
    health, now, out_until = TargetHealth(), 1000.0, 0.0
    for gap, event in steps:
        now += gap
        if event.startswith("check"):
            health.checked(passes=event == "check_well")
        elif not health.out or health.trial_is_due(now):
            if health.out:
                assert now >= out_until
                health.begin_trial()
                assert not health.trial_is_due(now)
            if event == "good":
                health.succeeded(now, now)
                assert not health.out
            elif event == "bad":
                if seconds := health.failed(RULE, now, now):
                    out_until = now + seconds
            else:
                health.end_trial()
        assert health.out == (health.ejected or not health.passes_checks)
    health.checked(passes=True)
    now += RULE.seconds_max
    if health.out:
        assert health.trial_is_due(now)
        health.begin_trial()
        assert health.succeeded(now, now)
    assert not health.out
