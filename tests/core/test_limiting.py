"""Invariants: no span of a window ever holds more than its limit; no bucket gives more than burst and refill; a wait that is
told is a wait that suffices."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ostiary.core.limiting import (
    SECOND_US,
    WINDOW_SLOTS,
    CalendarQuota,
    Counter,
    Limit,
    LimitOutOfRange,
    SlidingWindow,
    TokenBucket,
    carry_over,
    period_end_us,
    share,
)
from ostiary.core.model import Overage, Period, Quota, Rate, Window
from ostiary.core.standing import amend, examine, take
from tests.support.spans import most_in_any_span

START_US = 1_753_000_000 * SECOND_US

gaps_us = st.lists(st.integers(0, 3 * SECOND_US), min_size=1, max_size=120)


def admitted(limits: Sequence[Limit], moments_us: Sequence[int]) -> list[int]:
    counters: list[Counter] = [limit.counter(moments_us[0]) for limit in limits]
    let_in = []
    for now_us in moments_us:
        standing = examine(counters, now_us)
        if not standing.refused:
            take(counters, standing, now_us)
            let_in.append(now_us)
    return let_in


def moments(gaps: Sequence[int]) -> list[int]:
    now, result = START_US, []
    for gap in gaps:
        now += gap
        result.append(now)
    return result


@given(gaps_us, st.integers(0, 40), st.integers(1, 5))
def test_no_span_of_a_window_holds_more_than_its_limit(gaps: list[int], requests: int, seconds: int) -> None:
    """Row 72: with two fixed windows a burst at their border is let in twice."""
    window = SlidingWindow.of(Window(requests, seconds))
    assert most_in_any_span(admitted([window], moments(gaps)), window.window_us) <= requests


@given(gaps_us, st.integers(1, 5), st.integers(1, 4000))
def test_no_span_holds_more_than_its_limit_with_slots_of_any_width(
    gaps: list[int], requests: int, slot_ms: int
) -> None:
    """The oldest slot must count whole: weighting it by the part that is still inside lets bursts through."""
    window = SlidingWindow(requests, 2 * SECOND_US, slot_ms * 1000)
    assert most_in_any_span(admitted([window], moments(gaps)), window.window_us) <= requests


def test_a_window_at_its_limit_gets_at_least_99_percent_of_it() -> None:
    """Slots that are too wide would take from callers what they paid for."""
    window = SlidingWindow.of(Window(1000, 60))
    step_us = 6_000  # ten times the limit
    let_in = admitted([window], [START_US + step * step_us for step in range(100_000)])
    windows = 100_000 * step_us / window.window_us
    assert len(let_in) >= 0.99 * 1000 * windows
    assert most_in_any_span(let_in, window.window_us) <= 1000


def test_a_small_window_is_exact_to_the_microsecond() -> None:
    """A caller with 3 calls a second would wait up to 8 ms too long with slots."""
    window = SlidingWindow.of(Window(3, 1))
    calls = [START_US, START_US + 1, START_US + 2]
    assert admitted([window], [*calls, START_US + SECOND_US]) == calls
    assert admitted([window], [*calls, START_US + SECOND_US + 1])[-1] == START_US + SECOND_US + 1


@given(gaps_us, st.integers(1, 100_000))
@settings(max_examples=50)
def test_a_window_remembers_a_bounded_number_of_slots(gaps: list[int], requests: int) -> None:
    """A subject's state would grow with its traffic."""
    window = SlidingWindow.of(Window(requests, 1))
    counter = window.counter(START_US)
    for now_us in moments([gap // 1000 for gap in gaps]):
        counter.settle(now_us)
        if counter.left() > 0:
            counter.take(now_us, 1)
        assert len(counter.slots) <= WINDOW_SLOTS + 2


@given(gaps_us, st.integers(1, 500), st.integers(1, 90), st.integers(1, 20))
def test_a_bucket_gives_no_more_than_its_burst_and_refill(
    gaps: list[int], requests: int, per_seconds: int, burst: int
) -> None:
    """Rounding the refill up would let a little more through for ever."""
    bucket = TokenBucket.of(Rate(requests, per_seconds, burst))
    let_in = admitted([bucket], moments(gaps))
    for first in range(len(let_in)):
        for last in range(first, len(let_in)):
            span_ms = let_in[last] // 1000 - let_in[first] // 1000
            assert last - first + 1 <= burst + span_ms * requests / (per_seconds * 1000) + 1e-9


limits_of_all_kinds = st.lists(
    st.one_of(
        st.builds(
            lambda requests, seconds, burst: TokenBucket.of(Rate(requests, seconds, burst)),
            st.integers(1, 50),
            st.integers(1, 60),
            st.integers(1, 9),
        ),
        st.builds(
            lambda requests, seconds: SlidingWindow.of(Window(requests, seconds)),
            st.integers(1, 200),
            st.integers(1, 9),
        ),
        st.builds(
            lambda requests, period: CalendarQuota.of(Quota(requests, period), Overage.BLOCK),
            st.integers(1, 50),
            st.sampled_from(Period),
        ),
    ),
    min_size=1,
    max_size=4,
)


@given(limits_of_all_kinds, gaps_us)
def test_a_call_made_after_the_told_wait_is_within_the_limits(limits: list[Limit], gaps: list[int]) -> None:
    """Row 82: a Retry-After that is too short makes well-behaved clients fail twice."""
    now_us = START_US
    counters: list[Counter] = [limit.counter(now_us) for limit in limits]
    for gap in gaps:
        now_us += gap // 20
        standing = examine(counters, now_us)
        if standing.refused:
            assert standing.reset_seconds >= 1
            later_us = now_us + standing.reset_seconds * SECOND_US
            standing = examine(counters, later_us)
            assert not standing.refused
            now_us = later_us
        take(counters, standing, now_us)


@given(limits_of_all_kinds, gaps_us)
def test_a_refused_call_costs_nothing(limits: list[Limit], gaps: list[int]) -> None:
    """A busy client would never recover if what it was refused counted against it."""
    patient: list[Counter] = [limit.counter(START_US) for limit in limits]
    pushing: list[Counter] = [limit.counter(START_US) for limit in limits]
    for now_us in moments([gap // 20 for gap in gaps]):
        standing = examine(pushing, now_us)
        if standing.refused:
            for _ in range(3):
                assert examine(pushing, now_us) == standing
            continue
        assert take(patient, examine(patient, now_us), now_us) == take(pushing, standing, now_us)


@given(
    st.lists(st.tuples(st.integers(0, SECOND_US), st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=80),
    st.integers(6, 40),
    st.sampled_from([1, 300_000]),
)
def test_no_span_costs_more_than_its_limit_though_calls_are_settled_for_less(
    calls: list[tuple[int, int, int]], most: int, slot_us: int
) -> None:
    """What is given back must be forgotten with the call it belongs to, or a later span would hold too much."""
    counter = SlidingWindow(most, 2 * SECOND_US, slot_us).counter(START_US)
    now_us, spent = START_US, []
    for gap_us, cost, given_back in calls:
        taken_us = now_us = now_us + gap_us
        standing = examine([counter], now_us, cost)
        if standing.refused:
            continue
        take([counter], standing, now_us, cost)
        now_us += gap_us // 3
        amend([counter], -min(cost, given_back), taken_us, now_us)
        spent.append((taken_us, cost - min(cost, given_back)))
    for first, (begins_us, _) in enumerate(spent):
        assert sum(cost for at_us, cost in spent[first:] if at_us - begins_us < 2 * SECOND_US) <= most


def test_what_was_settled_is_owed_until_it_is_paid() -> None:
    """A limit that forgot its debt would make a dear call free."""
    limits: list[Limit] = [
        TokenBucket.of(Rate(1, 1, 10)),
        SlidingWindow.of(Window(10, 60)),
        CalendarQuota.of(Quota(10, Period.HOUR), Overage.BLOCK),
    ]
    for limit, wait_seconds in zip(limits, (16, 61, 3600 - START_US // SECOND_US % 3600), strict=True):
        counter = limit.counter(START_US)
        take([counter], examine([counter], START_US, 5), START_US, 5)
        amend([counter], 20, START_US, START_US)
        refused = examine([counter], START_US)
        assert (refused.refused, refused.remaining, counter.left()) == (True, 0, -15)
        assert examine([counter], START_US, 0).refused  # nothing is free while something is owed
        assert abs(refused.reset_seconds - wait_seconds) <= 1
        assert not examine([counter], START_US + refused.reset_seconds * SECOND_US).refused


def test_overage_is_let_in_and_flagged() -> None:
    """A plan that charges past its quota would refuse what it could bill."""
    quota = CalendarQuota.of(Quota(2, Period.DAY), Overage.CHARGE)
    counters: list[Counter] = [quota.counter(START_US)]
    flags = []
    for _ in range(4):
        standing = examine(counters, START_US)
        flags.append((standing.refused, standing.overage, standing.remaining))
        take(counters, standing, START_US)
    assert flags == [(False, False, 1), (False, False, 0), (False, True, 0), (False, True, 0)]


def test_a_clock_set_back_gives_nothing_away() -> None:
    """Row 73: an NTP step of an hour back would otherwise empty windows, or refill buckets twice."""
    limits: list[Limit] = [TokenBucket.of(Rate(1, 1, 3)), SlidingWindow.of(Window(3, 60))]
    counters: list[Counter] = [limit.counter(START_US) for limit in limits]
    for back_us in (0, 1800 * SECOND_US, 3600 * SECOND_US):
        standing = examine(counters, START_US - back_us)
        assert not standing.refused
        take(counters, standing, START_US - back_us)
    assert examine(counters, START_US - 3600 * SECOND_US).refused
    assert examine(counters, START_US).refused


@given(st.datetimes(datetime(1990, 1, 1), datetime(2200, 1, 1)), st.sampled_from(Period))
def test_a_period_ends_at_the_next_utc_border(moment: datetime, period: Period) -> None:
    """Row 83: a quota that ends an hour or a day off is a quota of another size."""
    now = moment.replace(tzinfo=UTC)
    now_us = int((now - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(microseconds=1))
    ends = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=period_end_us(period, now_us))
    assert ends > now
    last = ends - timedelta(microseconds=1)
    fields = {Period.HOUR: 4, Period.DAY: 3, Period.MONTH: 2}[period]
    assert now.timetuple()[:fields] == last.timetuple()[:fields] != ends.timetuple()[:fields]


def test_a_changed_limit_keeps_what_was_used() -> None:
    """Row 81: changing a plan would hand every caller a new period, or a negative rest."""
    day = Quota(10, Period.DAY)
    old: list[Limit] = [SlidingWindow.of(Window(500, 60)), CalendarQuota.of(day, Overage.BLOCK)]
    counters: list[Counter] = [limit.counter(START_US) for limit in old]
    for _ in range(8):
        take(counters, examine(counters, START_US), START_US)
    new: list[Limit] = [
        TokenBucket.of(Rate(1, 1, 100)),
        SlidingWindow.of(Window(5, 60)),
        CalendarQuota.of(Quota(9, Period.DAY), Overage.BLOCK),
    ]
    changed = carry_over(counters, new, START_US)
    assert [counter.left() for counter in changed] == [100, -3, 1]
    standing = examine(changed, START_US)
    assert (standing.refused, standing.index, standing.remaining) == (True, 1, 0)


def test_a_bucket_in_another_unit_keeps_its_whole_tokens() -> None:
    """A raised rate would come with a burst for nothing, or a lowered one with none."""
    counter = TokenBucket.of(Rate(100, 60, 600)).counter(START_US)
    for _ in range(590):
        counter.take(START_US, 1)
    (changed,) = carry_over([counter], [TokenBucket.of(Rate(1000, 60, 600))], START_US)
    assert changed.left() == 10


def test_shares_of_all_workers_stay_within_the_limit() -> None:
    """An outage of Redis would multiply every limit by the number of workers."""
    for limit in (0, 1, 7, 8, 100, 101):
        for workers in (1, 2, 7, 8):
            together = share(limit, workers) * workers
            assert together <= max(limit, workers if limit else 0)
            assert (share(limit, workers) > 0) == (limit > 0)
    bucket = TokenBucket.of(Rate(100, 60, 600), workers=8)
    assert bucket.gain * 8 * 60_000 == 100 * bucket.cost
    assert bucket.capacity == 75 * bucket.cost


@pytest.mark.parametrize("rate", [Rate(0, 60, 5), Rate(5, 60, 0), Rate(999_999_997, 86_400, 10**9)])
def test_a_rate_without_exact_arithmetic_is_refused(rate: Rate) -> None:
    """Past 53 bits Lua would round, and the limit would no longer be exact."""
    with pytest.raises(LimitOutOfRange):
        TokenBucket.of(rate)


def test_every_kind_of_limit_is_tested_here() -> None:
    """A new kind of limit would slip past the properties above."""
    assert set(get_args(Limit)) == {TokenBucket, SlidingWindow, CalendarQuota}
