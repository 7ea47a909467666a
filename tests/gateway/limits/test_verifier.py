"""A verifier that lets errors pass proves nothing: for each limit a log that just keeps it, and one that breaks it by one."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ostiary.core.model import Period, Plan, Quota, Rate, Window
from tests.gateway.limits.decision_log import COST_MAX, Entry, Event, OutOfOrder, merged, write_log
from tests.gateway.limits.verifier import SECOND_US, Subject, Verdict, verify

NOON_US = int(datetime(2026, 11, 30, 12, tzinfo=UTC).timestamp()) * SECOND_US
MIDNIGHT_US = NOON_US + 12 * 3600 * SECOND_US  # the end of an hour, a day and a month


def judged(plan: Plan, moments_us: Iterable[int]) -> Verdict:
    """Calls of cost one at these moments after noon, all let in."""
    entries = [Entry(NOON_US + moment, Event.ALLOWED, 0) for moment in moments_us]
    (verdict,) = verify(sorted(entries), [Subject("one", plan)])
    return verdict


def test_a_window_may_hold_its_limit_and_one_call_more_in_any_span_is_found() -> None:
    """Wherever the span begins: the calls too many here stand over a border of seconds, as after a fixed window."""
    plan = Plan("p", windows=(Window(100, 1),))
    spread = [number * 10_000 for number in range(1000)]
    assert judged(plan, spread).findings == []
    assert judged(plan, spread).rules[0].most == 100
    one_more = judged(plan, [*spread, 5_000_000 - 1])
    assert one_more.findings[0] == f"one: 101 of 100 in 1 s at {NOON_US + 4_999_999}"
    assert one_more.broken == 101, "until it has left the window"
    burst = [999_999] * 100
    assert judged(plan, [*burst, *[1_999_999] * 100]).findings == []
    assert judged(plan, [*burst, 1_999_998]).broken == 1


def test_a_bucket_may_give_its_burst_and_refill_and_one_call_more_is_found() -> None:
    """At ten a second a call comes back each 100 ms."""
    plan = Plan("p", rate=Rate(10, 1, 5))
    envelope = [0] * 5 + [number * 100_000 for number in range(1, 50)]
    assert judged(plan, envelope).findings == []
    for moment in (0, 50_000, 2_500_000, 4_900_000):
        assert judged(plan, [*envelope, moment]).broken > 0, moment
    rested = [*envelope, *[5_400_000] * 5]  # 500 ms later the burst is there again
    assert judged(plan, rested).findings == []
    assert judged(plan, [*rested, 5_400_000]).broken == 1


@pytest.mark.parametrize("period", list(Period))
def test_a_quota_may_be_used_up_in_each_period_and_one_call_more_is_found(period: Period) -> None:
    """On both sides of the border of an hour, a day and a month."""
    plan = Plan("p", quotas=(Quota(50, period),))
    both = [MIDNIGHT_US - NOON_US - 1] * 50 + [MIDNIGHT_US - NOON_US] * 50
    assert judged(plan, both).findings == []
    assert judged(plan, [*both, both[0]]).broken == 1
    assert judged(plan, [*both, both[-1]]).broken == 1


def test_calls_under_way_may_be_as_many_as_bound_and_one_more_is_found() -> None:
    """A call that ended in the moment in which the next one began was under way with it, as far as anyone knows."""
    plan = Plan("p", concurrency=2)

    def calls(*spans: tuple[int, int]) -> Verdict:
        entries = [Entry(NOON_US + begun, Event.ALLOWED, 0) for begun, _ in spans]
        entries += [Entry(NOON_US + ended, Event.RELEASED, 0) for _, ended in spans]
        (verdict,) = verify(sorted(entries), [Subject("one", plan)])
        return verdict

    assert calls((0, 10), (5, 20), (11, 30), (21, 40)).findings == []
    assert calls((0, 10), (5, 20), (10, 30)).broken == 1


def test_costs_count_and_refused_calls_do_not() -> None:
    """A call of cost five is five of the limit; what was refused is none."""
    subject = Subject("one", Plan("p", windows=(Window(15, 1),)))

    def broken(*entries: Entry) -> int:
        return verify(entries, [subject])[0].broken

    dear = Entry(NOON_US, Event.ALLOWED, 0, 5)
    assert broken(dear, dear, dear, Entry(NOON_US + 1, Event.RATE_LIMITED, 0, COST_MAX)) == 0
    assert broken(dear, dear, dear, Entry(NOON_US + 1, Event.ALLOWED, 0, 1)) == 1


def test_each_subject_has_its_own_limits() -> None:
    """Two callers may have a limit each."""
    plan = Plan("p", windows=(Window(1, 1),))
    subjects = [Subject("one", plan), Subject("other", plan)]
    entries = [Entry(NOON_US, Event.ALLOWED, 0), Entry(NOON_US, Event.ALLOWED, 1)]
    assert [verdict.findings for verdict in verify(entries, subjects)] == [[], []]
    assert [verdict.broken for verdict in verify([*entries, entries[1]], subjects)] == [0, 1]


def test_what_was_due_is_told_by_the_tightest_limit() -> None:
    """A limiter that refuses everything keeps every limit."""
    plan = Plan("p", rate=Rate(1000, 1, 1000), windows=(Window(100, 1),))
    (verdict,) = verify(
        [
            Entry(NOON_US + number * 1000, Event.ALLOWED if number % 20 == 0 else Event.RATE_LIMITED, 0)
            for number in range(2001)
        ],
        [Subject("one", plan)],
    )
    assert (verdict.due, verdict.admitted, verdict.asked) == (200, 101, 2001)
    assert 0.50 < verdict.share < 0.51


def test_files_are_merged_by_their_moments_and_disorder_is_told(tmp_path: Path) -> None:
    """Calls of two processes stand within one window; a clock that was set back would hide some of them."""
    first = [Entry(NOON_US + moment, Event.ALLOWED, 3) for moment in range(0, 40_000, 2)]
    second = [Entry(NOON_US + moment, Event.QUOTA_EXCEEDED, 63, COST_MAX) for moment in range(1, 40_000, 2)]
    paths = [write_log(tmp_path / "1", first), write_log(tmp_path / "2", second)]
    assert list(merged(paths)) == sorted(first + second)
    backwards = write_log(tmp_path / "3", [first[1], first[0]])
    with pytest.raises(OutOfOrder):
        list(merged([backwards]))
