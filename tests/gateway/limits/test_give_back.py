"""Invariant: after a call was given back (settled as one that cost nothing), its subject is as if it had never been there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ostiary.core.limiting import SECOND_US, TokenBucket
from ostiary.core.model import Plan, Rate, Window
from ostiary.demo.stores import EmbeddedValkey
from ostiary.gateway.limits import LimitPolicy
from ostiary.gateway.limits import script as lua
from tests.gateway.limits.support import Script, Settled, policy

BEGIN_US = 1_790_000_000 * SECOND_US


@pytest.fixture(scope="module")
def script(valkey_server: EmbeddedValkey) -> Iterator[Script]:
    script = Script(valkey_server.url(database=9))
    yield script
    script.redis.flushdb()
    script.redis.close()


def give_back(script: Script, limits: LimitPolicy, key: str, taken_at_us: int, now_us: int) -> None:
    script.decide([], now_us, settlements=[(limits, key, -1, taken_at_us)])


# Limits on both sides of the exact log, several in one state, a bucket before them.
plans = st.lists(
    st.builds(Window, st.sampled_from([40, 100, 121, 400]), st.sampled_from([1, 2, 60])),
    min_size=1,
    max_size=3,
    unique_by=lambda window: window.window_seconds,
)
# The gap before a call; whether it is given back, and after how many more calls.
calls = st.lists(
    st.tuples(st.integers(0, 3000) | st.integers(0, 2 * SECOND_US), st.none() | st.integers(0, 4)),
    min_size=1,
    max_size=35,
)


@given(plans, calls, st.booleans())
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_call_that_was_given_back_was_never_there(
    script: Script, windows: list[Window], calls: list[tuple[int, int | None]], bucket: bool
) -> None:
    """One left too many is a caller who pays for what was refused; one too few is a call above the limit."""
    script.redis.flushdb()
    limits = policy(Plan("p", Rate(1000, 1, 1000) if bucket else None, tuple(windows)))
    now_us, pending = BEGIN_US, []
    for gap_us, back_after in calls:
        now_us += gap_us
        (answer,) = script.decide([(limits, "with", None)], now_us)
        assert answer[0] == lua.ALLOWED
        if back_after is None:
            script.decide([(limits, "without", None)], now_us)
        else:
            pending.append([back_after, now_us])
        for one in pending:
            one[0] -= 1
        for one in [one for one in pending if one[0] < 0]:
            pending.remove(one)
            give_back(script, limits, "with", one[1], now_us)
    for _, taken_at_us in pending:
        give_back(script, limits, "with", taken_at_us, now_us)
    # What the windows say from now on, call by call until they refuse, is the same for both. A bucket is never given
    # anything back (no question over several slots asks for that), so it is left out.
    windows_only = policy(Plan("p", windows=tuple(windows)))
    for _ in range(3):
        now_us += 700_000
        with_, without = [script.decide([(windows_only, key, None)] * 60, now_us) for key in ("with", "without")]
        assert with_ == without
        if with_[0][0] == lua.ALLOWED:  # so both were settled at this moment, and written
            states = [script.redis.get(f"ost:{{k:{key}}}:plan") for key in ("with", "without")]
            assert states[0] == states[1], "slot by slot"


def test_what_is_not_there_is_left_alone_and_all_is_forgotten_in_time(script: Script) -> None:
    """A call taken out twice, or of another slot, is one above the limit; a state without a time to live stays for ever."""
    script.redis.flushdb()
    limits = policy(Plan("p", windows=(Window(5, 60),)))
    give_back(script, limits, "nobody", BEGIN_US, BEGIN_US)
    assert 0 < int(script.redis.pttl("ost:{k:nobody}:plan")) <= 62_000
    for moment_us in (BEGIN_US, BEGIN_US + 10, BEGIN_US + 20):
        script.decide([(limits, "one", None)], moment_us)
    for taken_us in (BEGIN_US + 1, BEGIN_US + 5, BEGIN_US, BEGIN_US):  # in no slot; between two; there; once
        give_back(script, limits, "one", taken_us, BEGIN_US + 30)
    answers = script.decide([(limits, "one", None)] * 4, BEGIN_US + 40)
    assert [answer[0] for answer in answers] == [lua.ALLOWED] * 3 + [lua.RATE_LIMITED], "two are still counted"
    assert 50_000 < int(script.redis.pttl("ost:{k:one}:plan")) <= 62_000


# How long after the one before, and how many calls are taken from both buckets then.
bucket_steps = st.lists(st.tuples(st.integers(0, 400_000), st.integers(0, 4)), min_size=1, max_size=12)


@given(bucket_steps, st.integers(0, 11), st.integers(1, 6), st.integers(1, 30))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_a_bucket_of_another_slot_gets_back_is_never_more_than_is_missing(
    script: Script, steps: list[tuple[int, int]], back_after: int, burst: int, requests: int
) -> None:
    """A bucket that was full meanwhile would let a burst of one more through: take one of ten, refill to ten, let five take,
    give one back."""
    script.redis.flushdb()
    limits = policy(Plan("p", Rate(requests, 1, burst)))
    bucket = limits.parts[0].limits[0]
    assert isinstance(bucket, TokenBucket)
    now_us = BEGIN_US
    script.decide([(limits, "with", None)], now_us)
    reference, never = bucket.counter(now_us), bucket.counter(now_us)
    reference.take(now_us, 1)
    for number, (gap_us, calls) in enumerate(steps):
        now_us += gap_us
        if number == back_after:
            back = Settled(
                limits.specification_without((), crossing=True), limits.names("with", None, None, ""), -1, BEGIN_US
            )
            arguments = lua.arguments([], "", str(now_us).encode(), [back])
            script.redis.evalsha(lua.DECIDE_SHA.decode(), *cast(Any, arguments))
            reference.settle(now_us)
            reference.take_back(now_us, 1, BEGIN_US)
        for _ in range(calls):
            (answer,) = script.decide([(limits, "with", None)], now_us)
            for counter in (reference, never):
                counter.settle(now_us)
            assert (answer[0] == lua.ALLOWED) == (reference.left() >= 1)
            if answer[0] == lua.ALLOWED:
                assert never.left() >= 1, "a call that would not have been let in, had the other never been"
                reference.take(now_us, 1)
                never.take(now_us, 1)
