"""Invariant: a rolling count holds everything of the last nine tenths of its window, and nothing older than the window."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ostiary.gateway.resilience.window import PARTS, RollingCounts

SECONDS = 10.0
gaps = st.lists(st.tuples(st.floats(0.0, 12.0, allow_subnormal=False), st.booleans()), max_size=40)


@given(gaps, st.floats(0.0, 1e6))
def test_a_count_is_of_the_last_seconds(moments: list[tuple[float, bool]], now: float) -> None:
    """An error of yesterday would open a breaker today; one that is forgotten at once would never."""
    counts = RollingCounts(SECONDS)
    added: list[float] = []
    marked: list[float] = []
    for gap, bad in moments:
        now += gap
        counts.add(now)
        added.append(now)
        if bad:
            counts.mark(now)
            marked.append(now)
        part = SECONDS / PARTS
        for count, times in ((counts.total, added), (counts.marked, marked)):
            surely = sum(now - at < SECONDS - part - 1e-6 for at in times)
            at_most = sum(now - at <= SECONDS + 1e-6 for at in times)
            assert surely <= count <= at_most


@given(gaps)
def test_a_count_that_is_only_read_ends_as_well(moments: list[tuple[float, bool]]) -> None:
    """A breaker that is asked an hour later must not remember."""
    counts = RollingCounts(SECONDS)
    now = 5.0
    for gap, _ in moments:
        now += gap
        counts.add(now)
    counts.roll(now + SECONDS + 1e-6)
    assert (counts.total, counts.marked) == (0, 0)
