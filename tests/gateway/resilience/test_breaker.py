"""Invariants: an open breaker lets nothing through before its time; half open it never has more than its trials out; what an
earlier epoch tells changes nothing; and it always comes back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ostiary.core.upstream import Breaker
from ostiary.gateway.resilience.breaker import BreakerState, CircuitBreaker

RULE = Breaker(errors_share=0.5, calls=4, window_seconds=10.0, open_seconds=5.0, trials=2)


def state_of(breaker: CircuitBreaker) -> BreakerState:
    """For mypy, which takes the state for the one that was asserted last."""
    return breaker.state


def call(breaker: CircuitBreaker, now: float, *, well: bool) -> None:
    assert breaker.refuses(now) == 0.0
    (breaker.succeeded if well else breaker.failed)(breaker.epoch, now)


def opened(now: float = 100.0) -> CircuitBreaker:
    breaker = CircuitBreaker(RULE)
    for _ in range(4):
        call(breaker, now, well=False)
    assert state_of(breaker) is BreakerState.OPEN
    return breaker


def test_it_opens_at_its_share_of_errors_and_not_below_its_volume() -> None:
    """One failed call of one would be a share of all."""
    breaker = CircuitBreaker(RULE)
    for _ in range(3):
        call(breaker, 100.0, well=False)
    assert state_of(breaker) is BreakerState.CLOSED
    call(breaker, 100.0, well=True)
    assert state_of(breaker) is BreakerState.CLOSED  # it opens with an error, never with a call that went well
    call(breaker, 100.0, well=False)
    assert state_of(breaker) is BreakerState.OPEN


def test_errors_below_the_share_leave_it_closed() -> None:
    """An API whose one endpoint fails is not an API that is down."""
    breaker = CircuitBreaker(RULE)
    for number in range(400):
        call(breaker, 100.0 + number * 0.01, well=number % 5 != 0)
    assert state_of(breaker) is BreakerState.CLOSED


def test_errors_that_are_long_ago_are_forgotten() -> None:
    """Four errors in a week are no outage."""
    breaker = CircuitBreaker(RULE)
    for number in range(40):
        call(breaker, 100.0 + number * 11.0, well=False)
    assert state_of(breaker) is BreakerState.CLOSED


def test_open_it_says_how_long_to_wait_and_then_lets_its_trials_through() -> None:
    """A caller that is told nothing asks at once; an upstream that just comes up would fall under all of them."""
    breaker = opened(100.0)
    assert breaker.refuses(102.0) == 3.0
    assert breaker.refuses(104.9) > 0.0
    assert [breaker.refuses(105.0) > 0.0 for _ in range(5)] == [False, False, True, True, True]


def test_it_closes_when_all_trials_went_well_and_opens_with_the_first_that_did_not() -> None:
    """A single good answer of an upstream that half works would let everyone in."""
    breaker = opened(100.0)
    assert not breaker.refuses(105.0)
    assert not breaker.refuses(105.0)
    trial = breaker.epoch
    breaker.succeeded(trial, 105.1)
    assert state_of(breaker) is BreakerState.HALF_OPEN
    breaker.failed(trial, 105.2)
    assert state_of(breaker) is BreakerState.OPEN
    call(breaker, 110.3, well=True)
    call(breaker, 110.4, well=True)
    assert state_of(breaker) is BreakerState.CLOSED
    call(breaker, 110.5, well=False)
    assert state_of(breaker) is BreakerState.CLOSED, "the errors before it opened are forgotten"


def test_a_trial_that_tells_nothing_makes_room_for_another() -> None:
    """A breaker would stay half open for ever once the clients of its trials had gone."""
    breaker = opened(100.0)
    for _ in range(20):
        assert not breaker.refuses(105.0)
        breaker.abandoned(breaker.epoch)
    assert state_of(breaker) is BreakerState.HALF_OPEN


def test_a_call_from_before_tells_nothing_of_now() -> None:
    """The slow calls that began before it opened all fail while it is half open: they are no trials."""
    breaker = CircuitBreaker(RULE)
    old = breaker.epoch
    for _ in range(4):
        call(breaker, 100.0, well=False)
    assert not breaker.refuses(105.0)
    for _ in range(10):
        breaker.failed(old, 105.1)
        breaker.succeeded(old, 105.1)
        breaker.abandoned(old)
    assert state_of(breaker) is BreakerState.HALF_OPEN
    assert [breaker.refuses(105.2) > 0.0 for _ in range(3)] == [False, True, True]


@given(
    st.lists(
        st.tuples(st.floats(0.0, 4.0, allow_subnormal=False), st.sampled_from(["begin", "good", "bad", "gone"])),
        max_size=80,
    )
)
def test_no_more_than_the_trials_are_out_and_nothing_passes_while_it_is_open(steps: list[tuple[float, str]]) -> None:
    """Whatever calls begin and end in whatever order."""
    breaker, now = CircuitBreaker(RULE), 100.0
    out: list[int] = []
    opened_at = 0.0
    for gap, step in steps:
        now += gap
        before = breaker.state
        if step == "begin":
            if breaker.refuses(now):
                assert before is not BreakerState.CLOSED
            else:
                assert before is not BreakerState.OPEN or now >= opened_at + RULE.open_seconds
                out.append(breaker.epoch)
        elif out:
            epoch = out.pop(0)
            {"good": breaker.succeeded, "bad": breaker.failed}.get(step, lambda e, _: breaker.abandoned(e))(epoch, now)
        if breaker.state is BreakerState.OPEN and before is not BreakerState.OPEN:
            opened_at = now
        if breaker.state is BreakerState.HALF_OPEN:
            assert out.count(breaker.epoch) <= RULE.trials
    # And it always comes back, however it was left: whoever is out ends, then calls go well.
    for epoch in out:
        breaker.abandoned(epoch)
    for _ in range(10):
        now += RULE.open_seconds
        if not breaker.refuses(now):
            breaker.succeeded(breaker.epoch, now)
    assert state_of(breaker) is BreakerState.CLOSED
