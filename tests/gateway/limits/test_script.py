"""Invariant: lua/decide.lua on a real server decides exactly as core/limiting.py, whatever is asked of it and when."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ostiary.core.limiting import SECOND_US, Counter, Limit, QuotaCounter, carry_over
from ostiary.core.model import (
    Concurrency,
    Cost,
    LimitBy,
    LimitMode,
    Overage,
    Period,
    Plan,
    Quota,
    Rate,
    RefusedCalls,
    RouteLimit,
    Window,
)
from ostiary.core.standing import Reached, amend, charge_refused, examine, take
from ostiary.demo.stores import EmbeddedValkey
from ostiary.gateway.limits import LimitPolicy
from ostiary.gateway.limits import script as lua
from tests.gateway.limits.support import Script, policy


@pytest.fixture(scope="module")
def script(valkey_server: EmbeddedValkey) -> Iterator[Script]:
    script = Script(valkey_server.url(database=3))
    yield script
    script.redis.flushdb()
    script.redis.close()


class Model:
    """What the script should do, out of the reference arithmetic. A batch reads a state once, and writes it back when it
    took something from it."""

    def __init__(self) -> None:
        self.stored: dict[str, list[Counter]] = {}
        self.leases: dict[str, dict[str, int]] = {}
        self.nonces: set[str] = set()
        self.notes: list[tuple[int, int, int, int, int]] = []

    def decide(
        self,
        batch: list[tuple[LimitPolicy, str, str | None]],
        settlements: list[tuple[LimitPolicy, str, int, int, int]],
        batch_name: str,
        now_us: int,
        lease_us: int,
    ) -> list[tuple[int, int, int, int]]:
        read: dict[str, list[Counter]] = {}
        changed: set[str] = set()
        answers = []
        self.notes = []
        for whose, (limits, key, difference, taken_us, ends_us) in enumerate(settlements):
            names = iter(limits.names(key, None, None, "192.0.2.1"))
            first = 0
            for part in limits.parts:
                if part.limits:
                    name = next(names)
                    counters = self._read(name, part.limits, read, changed, now_us)
                    reached: Reached = []
                    amend(counters, difference, taken_us, now_us, reached=reached, ends_us=ends_us)
                    self._tell(whose, counters, reached, first)
                    changed.add(name)
                    first += len(part.limits)
                if part.concurrency is not None:
                    next(names)
        for number, (limits, key, nonce) in enumerate(batch, start=1):
            names = iter(limits.names(key, None, None, "192.0.2.1"))
            counters = []
            mine: list[str] = []
            charged: list[str] = []
            leases: list[str] = []
            crowded, skipped = None, []
            for part in limits.parts:
                if part.limits:
                    name = next(names)
                    mine.append(name)
                    counters += self._read(name, part.limits, read, changed, now_us)
                    if any(limit.refused is RefusedCalls.CHARGED for limit in part.limits):
                        charged.append(name)
                if part.concurrency is not None:
                    leases.append(next(names))
                    under_way = self.leases.setdefault(leases[-1], {})
                    if sum(ends > now_us for ends in under_way.values()) >= part.concurrency.at_most:
                        place = limits.limits_n + len(leases) - 1
                        if part.concurrency.mode is LimitMode.SHADOW:
                            skipped.append(place)
                        elif crowded is None:
                            crowded = place
            standing = examine(counters, now_us, limits.cost)
            whose = len(settlements) + number - 1
            reached = []
            if standing.refused:
                standing = charge_refused(counters, standing, now_us, limits.cost, reached)
                self._tell(whose, counters, reached)
                if limits.cost:
                    changed.update(charged)
                assert standing.index is not None
                code = {"quota": lua.QUOTA_EXCEEDED}.get(limits.labels[standing.index].kind, lua.RATE_LIMITED)
                answers.append((code, standing.index, standing.remaining, standing.reset_seconds))
            elif crowded is not None:
                charge_refused(counters, standing, now_us, limits.cost, reached)
                self._tell(whose, counters, reached)
                if limits.cost:
                    changed.update(charged)
                answers.append((lua.CROWDED, crowded, 0, 1))
            elif nonce is not None and f"{key}:{nonce}" in self.nonces:
                answers.append((lua.NONCE_USED, lua.NO_LIMIT, 0, 0))
            else:
                if nonce is not None:
                    self.nonces.add(f"{key}:{nonce}")
                for at, lease_name in enumerate(leases):
                    if limits.limits_n + at not in skipped:
                        self.leases[lease_name][lua.lease_id(batch_name, number)] = now_us + lease_us
                taken = take(counters, standing, now_us, limits.cost, reached)
                self._tell(whose, counters, reached)
                would_refuse = [*standing.would_refuse, *skipped]
                self.notes += [(whose, lua.WOULD_REFUSE, place, 0, 0) for place in would_refuse]
                if limits.cost:
                    changed.update(mine)
                index = lua.NO_LIMIT if taken.index is None else taken.index
                answers.append((lua.OVERAGE * taken.overage, index, taken.remaining, taken.reset_seconds))
        for name in changed:
            self.stored[name] = read[name]
        return answers

    def _tell(self, whose: int, counters: list[Counter], reached: Reached, first: int = 0) -> None:
        for at, share in reached:
            counter = counters[at]
            assert isinstance(counter, QuotaCounter)
            self.notes.append((whose, lua.QUOTA_REACHED, first + at, share, counter.ends_us))

    def _read(
        self, name: str, limits: tuple[Limit, ...], read: dict[str, list[Counter]], changed: set[str], now_us: int
    ) -> list[Counter]:
        counters = read.get(name)
        if counters is not None:
            if [counter.limit for counter in counters] == list(limits):
                return counters
            same_layout = [c.limit.identity for c in counters] == [limit.identity for limit in limits]
            if not same_layout:
                if name in changed:
                    self.stored[name] = counters
                    changed.discard(name)
                counters = copy.deepcopy(self.stored.get(name, []))
        else:
            counters = copy.deepcopy(self.stored.get(name, []))
        counters = carry_over(counters, limits, now_us)
        for counter in counters:
            counter.settle(now_us)
        read[name] = counters
        return counters


# What refuses, and takes nothing of what it refuses, is the usual case and half of them.
modes = st.just(LimitMode.ENFORCE) | st.sampled_from(LimitMode)
terms = st.just(RefusedCalls.FREE) | st.sampled_from(RefusedCalls)
rate = st.builds(Rate, st.integers(1, 40), st.sampled_from([1, 7, 60, 3600]), st.integers(1, 8), modes, terms)
window = st.builds(Window, st.integers(0, 150), st.sampled_from([1, 2, 60, 3600, 86_400]), modes, terms)
quota = st.builds(Quota, st.integers(0, 12), st.sampled_from(Period), modes, terms)
plans = st.builds(
    lambda rate, windows, quotas, concurrency, overage, mode: Plan(
        "p", rate, tuple(windows), tuple(quotas), concurrency, overage, mode
    ),
    st.none() | rate,
    st.lists(window, max_size=3),
    st.lists(quota, max_size=3),
    st.none() | st.integers(1, 4),
    st.sampled_from(Overage),
    modes,
)
route_limits = st.lists(
    st.builds(
        lambda limit, by: RouteLimit(limit, by, "x-tenant" if by is LimitBy.HEADER else None),
        st.builds(Window, st.integers(1, 130), st.sampled_from([1, 60]), modes, terms)
        | rate
        | st.builds(Quota, st.integers(0, 12), st.sampled_from(Period), modes, terms, st.sampled_from(Overage))
        | st.builds(Concurrency, st.integers(1, 4), modes),
        st.sampled_from([LimitBy.KEY, LimitBy.IP, LimitBy.ROUTE, LimitBy.HEADER]),
    ),
    max_size=4,
)
costs = st.just(1) | st.integers(0, 9)
policies = st.lists(
    st.builds(
        lambda plan, limits, cost: policy(plan, *limits, cost=Cost(cost)), st.none() | plans, route_limits, costs
    ),
    min_size=1,
    max_size=3,
)
gaps_us = st.one_of(
    st.integers(0, 2000),
    st.integers(0, 2 * SECOND_US),
    st.integers(0, 100 * SECOND_US),
    st.integers(0, 40 * 86_400 * SECOND_US),
    st.integers(-3 * SECOND_US, 0),
)
requests = st.tuples(st.integers(0, 2), st.integers(0, 1), st.none() | st.integers(0, 5))
# Which policy, whose, how much more or less, and how many steps ago the call was taken.
settled_calls = st.tuples(st.integers(0, 2), st.integers(0, 1), st.integers(-9, 30), st.integers(0, 4))
steps = st.lists(
    st.tuples(gaps_us, st.lists(requests, min_size=1, max_size=12), st.just([]) | st.lists(settled_calls, max_size=4)),
    min_size=1,
    max_size=25,
)


@given(policies, steps, st.datetimes(datetime(1990, 1, 1), datetime(2200, 1, 1)))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_script_decides_as_the_reference(
    script: Script,
    policies: list[LimitPolicy],
    steps: list[tuple[int, list[tuple[int, int, int | None]], list[tuple[int, int, int, int]]]],
    start: datetime,
) -> None:
    """A difference of one between the two is a limit that is not exact, or another one while Redis is away."""
    script.redis.flushdb()
    model = Model()
    now_us = int(start.replace(tzinfo=UTC).timestamp()) * SECOND_US + start.microsecond
    leased = any(limits.leased for limits in policies)
    moments_us: list[int] = []
    for gap_us, asked, turned_out in steps:
        # A lease that was cleared away stays away when the clock is set back; the model knows no clearing away.
        now_us += abs(gap_us) if leased else gap_us
        moments_us.append(now_us)
        batch = [
            (policies[which % len(policies)], f"ak_{key}", None if nonce is None else f"nonce-{nonce:011}")
            for which, key, nonce in asked
        ]
        settlements = [
            (
                policies[which % len(policies)],
                f"ak_{key}",
                difference,
                moments_us[-1 - min(ago, len(moments_us) - 1)],
                lua.ALWAYS_US,
            )
            for which, key, difference, ago in turned_out
            if difference
        ]
        answers = script.decide(batch, now_us, settlements=settlements)
        assert answers == model.decide(batch, settlements, script.batch_name, now_us, lease_us=60 * SECOND_US)
        assert sorted(script.notes) == sorted(model.notes)


TINY = Plan(
    "p",
    rate=Rate(3, 7, 9),
    windows=(Window(20, 2), Window(150, 60)),
    quotas=(Quota(40, Period.HOUR), Quota(90, Period.DAY)),
)
# What the next call costs (None: no call), whose call of the last four is settled, what that one really cost, and how long
# after it was taken a bucket takes something back.
settled_steps = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 1, 500, 300_000, SECOND_US, 2 * SECOND_US, 70 * SECOND_US, 1800 * SECOND_US]),
        st.none() | st.integers(0, 4),
        st.lists(
            st.tuples(
                st.integers(0, 3),
                st.sampled_from([0, 0, 0, 1, 2, 5]),
                st.sampled_from([lua.ALWAYS_US, SECOND_US, 5 * SECOND_US]),
            ),
            max_size=2,
        ),
    ),
    min_size=8,
    max_size=40,
)


@given(settled_steps, st.integers(0, 3600))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_settled_calls_count_as_in_the_reference(
    script: Script, steps: list[tuple[int, int | None, list[tuple[int, int, int]]]], offset_seconds: int
) -> None:
    """What is given back to another slot or period than it was taken from makes a limit inexact, long after the call."""
    script.redis.flushdb()
    model, at_cost = Model(), [policy(TINY, cost=Cost(cost)) for cost in range(5)]
    now_us = microseconds(2026, 7, 1, 12, 0, 0) + offset_seconds * SECOND_US
    taken: list[tuple[LimitPolicy, int]] = []
    for gap_us, cost, turned_out in steps:
        now_us += gap_us
        settlements = []
        for ago, really, lasts_us in turned_out:
            if ago < len(taken):
                limits, taken_us = taken.pop(-1 - ago)
                if difference := really - limits.cost:
                    settlements.append((limits, "ak_1", difference, taken_us, min(taken_us + lasts_us, lua.ALWAYS_US)))
        batch: list[tuple[LimitPolicy, str, str | None]] = [] if cost is None else [(at_cost[cost], "ak_1", None)]
        answers = script.decide(batch, now_us, settlements=settlements)
        assert answers == model.decide(batch, settlements, script.batch_name, now_us, lease_us=0)
        if cost is not None and answers[0][0] == lua.ALLOWED:
            taken.append((at_cost[cost], now_us))


def microseconds(*moment: int) -> int:
    return int(datetime(*moment[:6], tzinfo=UTC).timestamp()) * SECOND_US  # type: ignore[arg-type, misc]  # six fields


@pytest.mark.parametrize(
    ("period", "border"),
    [
        (Period.MONTH, (2028, 3, 1, 0, 0, 0)),  # after a leap day
        (Period.MONTH, (2027, 3, 1, 0, 0, 0)),
        (Period.MONTH, (2100, 3, 1, 0, 0, 0)),  # divisible by four, and no leap year
        (Period.MONTH, (2000, 3, 1, 0, 0, 0)),
        (Period.MONTH, (2027, 1, 1, 0, 0, 0)),
        (Period.MONTH, (2026, 5, 1, 0, 0, 0)),
        (Period.DAY, (2028, 2, 29, 0, 0, 0)),
        (Period.DAY, (2026, 3, 29, 0, 0, 0)),  # clocks go forward in Europe this night; UTC does not
        (Period.HOUR, (2026, 10, 25, 1, 0, 0)),  # and back
    ],
)
def test_a_quota_ends_exactly_at_the_border_of_its_period_in_utc(
    script: Script, period: Period, border: tuple[int, ...]
) -> None:
    """Row 83: a quota would be given twice, or withheld for a day."""
    script.redis.flushdb()
    limits = policy(Plan("p", quotas=(Quota(2, period),)))
    begins_us = microseconds(*border)
    last_moment = [script.decide([(limits, "ak_1", None)], begins_us - 1)[0] for _ in range(3)]
    assert last_moment == [(0, 0, 1, 1), (0, 0, 0, 1), (lua.QUOTA_EXCEEDED, 0, 0, 1)]
    assert script.decide([(limits, "ak_1", None)], begins_us)[0][:3] == (0, 0, 1)


def test_a_month_is_as_long_as_it_is(script: Script) -> None:
    """Row 83: the reset that clients are told would be off by days."""
    limits = policy(Plan("p", quotas=(Quota(2, Period.MONTH),)))
    for month, days in ((2, 29), (3, 31), (4, 30), (12, 31)):
        script.redis.flushdb()
        ((_, _, _, reset),) = script.decide([(limits, "ak_1", None)], microseconds(2028, month, 1, 0, 0, 0))
        assert reset == days * 86_400


def test_the_leases_of_a_killed_worker_end_by_themselves(script: Script) -> None:
    """Row 84: after each crash a key would have fewer calls under way, and at last none."""
    script.redis.flushdb()
    limits = policy(Plan("p", concurrency=2))
    request = [(limits, "ak_1", None)]
    now_us = microseconds(2026, 7, 1, 12, 0, 0)
    assert [script.decide(request, now_us)[0][0] for _ in range(3)] == [0, 0, lua.CROWDED]
    assert script.decide(request, now_us + 60 * SECOND_US - 1)[0][0] == lua.CROWDED
    assert [script.decide(request, now_us + 60 * SECOND_US)[0][0] for _ in range(3)] == [0, 0, lua.CROWDED]


def test_production_never_gives_the_script_a_clock(script: Script) -> None:
    """Row 73: limits would follow the clock of whichever worker asks."""
    arguments = lua.arguments([], "worker:1")
    assert arguments == (0, b"", b"", "worker:1", b"")
    limits = policy(Plan("p", windows=(Window(5, 60),)))
    script.decide([(limits, "ak_clock", None)], None)
    before_us = int(script.redis.time()[0]) * SECOND_US
    reply = script.redis.evalsha(lua.DECIDE_SHA.decode(), 0, b"", b"", "worker:1", b"")
    assert isinstance(reply, bytes)
    assert before_us <= lua.clock_us(reply) <= before_us + 60 * SECOND_US
