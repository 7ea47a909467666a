"""Quotas as they stand in Redis, read back."""

from __future__ import annotations

import struct

import pytest

from ostiary.core.limiting import CalendarQuota
from ostiary.core.model import LimitMode, Overage, Period, Quota
from ostiary.core.quota_state import Counted, counted, quotas_of_state

STATE = b"b600;w3600;q2;q3s;|" + struct.pack("<11d", 5, 6, 7, 8, 9, 10, 2, 40, 1e15, 41, 2e15) + b"|slots;q1;" * 2


def quota(period: Period, mode: LimitMode = LimitMode.ENFORCE) -> CalendarQuota:
    return CalendarQuota.of(Quota(100, period, mode), Overage.BLOCK)


def test_the_counts_of_a_state_are_found_between_those_of_other_limits() -> None:
    """A customer would be told that they used what was the level of a bucket."""
    found = quotas_of_state(STATE)
    assert found == {"q2": Counted(40, 10**15), "q3s": Counted(41, 2 * 10**15)}
    assert counted(found, quota(Period.DAY)) == Counted(40, 10**15)
    assert counted(found, quota(Period.MONTH)) == Counted(41, 2 * 10**15), "it came out of shadow, and keeps its count"
    assert counted(found, quota(Period.HOUR)) is None


@pytest.mark.parametrize(
    "state", [b"", b"q2;", b"q2;|", b"x9;|" + bytes(16), b"q2;|" + struct.pack("<d", 1), b"\xff;|"]
)
def test_what_is_no_state_is_refused(state: bytes) -> None:
    """Whatever another program has put there would be shown as usage."""
    with pytest.raises(ValueError):
        quotas_of_state(state)
