"""Invariant: whatever comes in whatever order, no more further tries are granted than a tenth of the calls of the last ten
seconds, or the floor."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ostiary.gateway.resilience.budget import FLOOR, WINDOW_SECONDS, RetryBudget

steps = st.lists(st.tuples(st.floats(0.0, 3.0, allow_subnormal=False), st.booleans(), st.integers(1, 40)), max_size=25)


@given(steps, st.sampled_from([0.0, 0.1, 0.5, 1.0]))
def test_further_tries_stay_within_their_share(moments: list[tuple[float, bool, int]], share: float) -> None:
    """Row 106: what is granted past the share is the storm that keeps an upstream down."""
    budget, now = RetryBudget(share), 100.0
    calls: list[float] = []
    granted: list[float] = []
    for gap, is_call, times in moments:
        now += gap
        for _ in range(times):
            if is_call:
                budget.call(now)
                calls.append(now)
            elif budget.take(now):
                recent = sum(now - at <= WINDOW_SECONDS + 1e-6 for at in calls)
                surely = sum(now - at < WINDOW_SECONDS * 0.9 - 1e-6 for at in granted)
                granted.append(now)
                assert surely + 1 <= max(FLOOR if share else 0, share * recent)


@given(st.integers(1, 600))
def test_the_share_is_there_to_be_used(calls: int) -> None:
    """A budget that is never granted in full would be no budget."""
    budget = RetryBudget(0.1)
    for _ in range(calls):
        budget.call(1.0)
    granted = sum(budget.take(1.0) for _ in range(calls + FLOOR))
    assert granted == max(FLOOR, int(calls * 0.1 + 1e-9))


def test_a_worker_with_little_to_do_may_try_again_too() -> None:
    """A tenth of one call is none: its target that was restarted would cost it an error each time."""
    budget = RetryBudget(0.1)
    budget.call(1.0)
    assert [budget.take(1.0) for _ in range(FLOOR + 1)] == [True] * FLOOR + [False]
    budget.call(1.0 + WINDOW_SECONDS + 0.1)
    assert budget.take(1.0 + WINDOW_SECONDS + 0.1)
