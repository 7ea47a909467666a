"""Invariant: what a worker decides by itself is bounded in memory, and keeps its counts when a plan changes."""

from __future__ import annotations

from ostiary.core.limiting import SECOND_US
from ostiary.core.model import Plan, Rate, Window
from ostiary.gateway.limits import LimitPolicy
from ostiary.gateway.limits.local import LocalLimits
from tests.gateway.limits.support import policy

NOW_US = 1_753_000_000 * SECOND_US


def let_in(local: LocalLimits, limits: LimitPolicy, key: str, now_us: int = NOW_US) -> bool:
    question = local.question(limits, limits.names(key, None, None, "192.0.2.1"), now_us)
    if question.standing.refused or question.crowded is not None:
        return False
    question.take()
    return True


def test_the_subject_that_called_longest_ago_makes_room_for_a_new_one() -> None:
    """A flood of callers would fill the worker's memory, or take the busy ones' counts away."""
    local, limits = LocalLimits(sharers=lambda: 1, subjects_max=3), policy(Plan("p", windows=(Window(2, 60),)))
    for key in ("busy", "a", "b", "busy", "c"):  # c takes the place of a
        assert let_in(local, limits, key)
    assert not let_in(local, limits, "busy")
    assert [let_in(local, limits, "a") for _ in range(3)] == [True, True, False]


def test_a_changed_plan_keeps_its_local_counts() -> None:
    """A reload during an outage would hand every caller a new limit."""
    local = LocalLimits(sharers=lambda: 1)
    before = policy(Plan("p", windows=(Window(3, 60),)))
    after = policy(Plan("p", rate=Rate(1, 1, 10), windows=(Window(4, 60), Window(100, 3600))))
    assert [let_in(local, before, "a") for _ in range(4)] == [True, True, True, False]
    assert [let_in(local, after, "a") for _ in range(2)] == [True, False]
    assert let_in(local, after, "a", NOW_US + 61 * SECOND_US)
