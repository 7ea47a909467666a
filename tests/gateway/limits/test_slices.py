"""Invariant: however many workers spend slices of a leased limit, no span and no period holds more than the limit."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ostiary.core.model import Cost, LimitBy, Overage, Period, Plan, Rate, RouteLimit, Window
from ostiary.gateway.limits import LimitPolicy, compile_policy, script
from ostiary.gateway.limits.slices import SLICES_MAX
from tests.gateway.limits.leasing import leased_quota, leased_rate, leased_window
from tests.gateway.limits.slice_world import BEGIN_US, World
from tests.gateway.limits.support import policy, route
from tests.gateway.limits.verifier import SECOND_US, Subject, verify

MILLISECOND_US = 1000

PLANS = (
    Plan("window", windows=(leased_window(2000, 6),)),
    Plan("bucket", rate=leased_rate(2000, 1, 1000)),
    Plan("deep", rate=leased_rate(300, 1, 3000)),
    Plan("quota", quotas=(leased_quota(4000, Period.HOUR),)),
    Plan(
        "all",
        leased_rate(2000, 1, 1600),
        (leased_window(5000, 6),),
        (leased_quota(10**6, Period.DAY),),
    ),
)

# For so many ms, so many calls a second of each worker in turn: silence, little, about the limit, far above it.
rates = st.sampled_from([0, 0, 100, 900, 4000])
loads = st.lists(
    st.tuples(st.sampled_from([30, 130, 400, 1500]), st.lists(rates, min_size=3, max_size=3)), min_size=2, max_size=8
)


def hammered(
    plan: Plan, phases: list[tuple[int, list[int]]], seed: int, delays_us: tuple[int, int], cost: int = 1
) -> World:
    world = World(policy(plan, cost=Cost(cost)), workers=3, random=Random(seed), delays_us=delays_us)
    hammer(world, phases)
    return world


def hammer(world: World, phases: list[tuple[int, list[int]]]) -> None:
    due = [0.0] * len(world.workers)
    for milliseconds, rates in phases:
        for _ in range(milliseconds):
            world.run_until(world.now_us + MILLISECOND_US)
            for number, rate in enumerate(rates):
                due[number] += rate / 1000
                while due[number] >= 1:
                    due[number] -= 1
                    world.workers[number].call()


@given(st.sampled_from(PLANS), loads, st.integers(0, 2**32), st.sampled_from([(100, 900), (100, 60_000)]))
@settings(max_examples=40, deadline=None)
def test_no_limit_is_passed_whatever_the_load_and_however_slow_the_network(
    plan: Plan, phases: list[tuple[int, list[int]]], seed: int, delays_us: tuple[int, int]
) -> None:
    """Row 71: a slice that is spent too late, or given back to where it no longer counts, is so much above the limit."""
    world = hammered(plan, phases, seed, delays_us)
    (verdict,) = verify(sorted(world.log), [Subject("one", plan)])
    assert verdict.findings == []


def burst_at(world: World, moment_us: int, calls: int) -> None:
    """All workers at once."""
    world.run_until(moment_us)
    for worker in world.workers:
        for _ in range(calls):
            worker.call()


@pytest.mark.parametrize("seed", range(4))
def test_what_is_taken_in_a_slot_is_not_spent_in_the_next_one(seed: int) -> None:
    """Those calls would be forgotten with the slot they were taken in, and be a part of the next window all the same."""
    plan = Plan("p", windows=(leased_window(3000, 6),))
    world = hammered(plan, [(400, [900, 900, 900])], seed, (100, 25_000))
    for _ in range(20):  # held back until just after the end of a slot, again and again
        hammer(world, [(100, [900, 900, 900])])
        burst_at(world, world.now_us - world.now_us % 50_000 + 50_000 + 500 * (seed + 1), 8)
    hammer(world, [(8000, [1500, 1500, 1500])])
    (verdict,) = verify(sorted(world.log), [Subject("one", plan)])
    assert sum(worker.slices.spent for worker in world.workers) > 500
    assert verdict.rules[0].most == 3000
    assert verdict.findings == []


@pytest.mark.parametrize(
    ("window", "delays_us"),
    [(leased_window(100_000, 6), (100, 25_000)), (leased_window(10**8, 86_400), (100, 200))],
    ids=["slow network", "slow clock"],
)
def test_a_slice_is_over_for_its_worker_before_its_slot_is_for_redis(
    window: Window, delays_us: tuple[int, int]
) -> None:
    """A worker knows Redis's clock only by replies, and its own runs at another rate."""
    for seed in range(30):
        world = World(policy(Plan("p", windows=(window,))), workers=1, random=Random(seed), delays_us=delays_us)
        slot_us = world.limits.parts[0].limits[0].slot_us  # type: ignore[union-attr]  # it is a window
        world.run_until(world.now_us - world.now_us % slot_us + slot_us)
        hammer(world, [(min(slot_us // 1000 - 1, 300), [3000])])
        (held,) = world.workers[0].slices._held.values()
        if held.left:
            assert world.workers[0].slices.spend(world.limits, held.slicing, held.names, world.workers[0].now())
        world.now_us += slot_us - world.now_us % slot_us
        assert world.workers[0].slices.spend(world.limits, held.slicing, held.names, world.workers[0].now()) is None


def test_what_is_given_back_goes_to_the_slot_that_it_was_taken_in() -> None:
    """In another slot it would be missing while the calls that were counted there are still a part of the window."""
    plan = Plan("p", windows=(leased_window(100_000, 6),))
    world = hammered(
        plan, [(1300, [900, 500, 0]), (60, [0, 0, 0]), (300, [3000, 0, 100]), (3, [0, 0, 0])], 5, (100, 900)
    )
    for worker in world.workers:
        worker.slices.give_back_all()
    world.run_until(world.now_us + 5000)
    slot_us = 50_000
    made = Counter(entry.moment_us - entry.moment_us % slot_us + slot_us + 6 * SECOND_US for entry in world.log)
    assert sum(worker.slices.spent for worker in world.workers) > 500
    assert world.slots() == made


@pytest.mark.parametrize("seed", range(4))
def test_what_workers_hold_while_a_bucket_fills_up_is_no_second_burst(seed: int) -> None:
    """The bucket would be full again, and its callers have the slices besides."""
    plan = Plan("p", rate=leased_rate(4000, 1, 2000))
    world = hammered(plan, [(330, [900, 900, 900])], seed, (100, 900))
    for number in range(3):
        hammer(world, [(2050, [900, 900, 900])])
        assert world.held() > 50
        slot_us = 100_000
        burst_at(world, world.now_us - world.now_us % slot_us + slot_us - 2000 + 200 * number, 1000)
    (verdict,) = verify(sorted(world.log), [Subject("one", plan)])
    assert verdict.findings == []


def test_what_comes_back_to_a_bucket_after_its_slot_is_too_late() -> None:
    """The bucket has been filled up since, and others hold slices of it: all would be spent at once."""
    plan = Plan("p", rate=leased_rate(100, 1, 5000))
    world = hammered(plan, [(300, [3000, 0, 0]), (2, [0, 0, 0])], 1, (1, 1))
    one = world.workers[0].slices
    (held,) = one._held.values()
    assert held.left > 100
    slot_us = 500_000
    world.now_us += slot_us - world.now_us % slot_us  # and nobody has swept meanwhile
    before = world.left()
    one.give_back_all()
    world.run_until(world.now_us + 10)
    assert world.left() == before


@pytest.mark.parametrize("plan", PLANS[:1] + PLANS[3:4], ids=lambda plan: plan.name)
def test_what_is_not_spent_is_given_back_when_a_caller_rests(plan: Plan) -> None:
    """Others would be refused for what nobody uses."""
    world = hammered(plan, [(400, [900, 900, 0]), (500, [0, 0, 0])], 1, (100, 900))
    assert world.workers[0].slices.spent > 100
    limit = world.limits.parts[0].limits[0]
    assert world.left() == getattr(limit, "limit", 0) - len(world.log)
    world.run_until(world.now_us + 3 * SECOND_US)
    assert [len(worker.slices) for worker in world.workers] == [0, 0, 0]


def test_a_slice_of_a_bucket_that_is_given_back_in_its_slot_is_as_if_it_had_not_been_taken() -> None:
    """A caller that pauses for a moment would pay for calls that it never made."""
    plan = Plan("p", rate=leased_rate(100, 1, 5000))
    world = hammered(plan, [(400, [900, 900, 0])], 1, (100, 900))
    for worker in world.workers:
        worker.slices.give_back_all()
    world.run_until(world.now_us + 2000)
    refilled = (world.now_us - BEGIN_US) // 10_000
    reserve = 100 // 2  # of half a second
    assert 5000 - reserve - len(world.log) <= world.left() <= 5000 + refilled - len(world.log)


def test_a_caller_that_calls_now_and_then_is_decided_by_redis_call_by_call() -> None:
    """It would hold a part of its limit that another worker needs, and save nothing."""
    world = hammered(PLANS[0], [(2000, [60, 10, 0])], 1, (100, 900))
    assert [worker.slices.spent for worker in world.workers] == [0, 0, 0]
    assert len(world.log) >= 138  # the last are on their way


def test_near_the_end_of_a_limit_every_call_is_decided_by_redis() -> None:
    """One worker would hold the last calls while another one's callers are refused."""
    plan = Plan("p", windows=(leased_window(600, 6),))
    world = hammered(plan, [(1000, [100, 100, 100]), (1000, [400, 400, 400])], 3, (100, 900))
    assert sum(entry.event == 0 for entry in world.log) == 600, "all of it, to the last call"


def test_all_workers_together_hold_at_most_half_of_what_is_left() -> None:
    """A caller whose calls come to another worker would find nothing to take."""
    plan = Plan("p", windows=(leased_window(1500, 60),))
    world = World(policy(plan), workers=3, random=Random(2), delays_us=(100, 200))
    most = 0
    for _ in range(1200):
        world.run_until(world.now_us + MILLISECOND_US)
        for worker in world.workers:
            worker.call()
        assert world.held() <= (world.left() + world.held()) / 2 + 24  # three slices of the smallest size
        most = max(most, world.held())
    assert most > 50


def test_a_call_past_a_quota_that_lets_in_is_flagged_call_by_call() -> None:
    """A slice over the border would bill calls as overage that were within the quota, or the other way round."""
    plan = Plan("p", quotas=(leased_quota(500, Period.DAY),), overage=Overage.CHARGE)
    world = hammered(plan, [(300, [900, 900, 900]), (300, [900, 900, 900])], 1, (100, 900))
    spent = sum(worker.slices.spent for worker in world.workers)
    assert 0 < spent <= 500
    assert (
        world.left()
        == 500
        - len(world.log)
        + sum(each.left for worker in world.workers for each in worker.slices._held.values()) * -1
    )


def test_callers_that_are_looked_at_have_a_bound() -> None:
    """A flood of addresses would fill the worker's memory."""
    world = World(policy(PLANS[0]), workers=1, random=Random(1), delays_us=(1, 1))
    slices, limits = world.workers[0].slices, world.limits
    assert limits.slicing is not None
    for number in range(SLICES_MAX + 500):
        assert slices.spend(limits, limits.slicing, [f"ost:{{k:{number}}}:plan"], 0.0) is None
    assert len(slices) == SLICES_MAX


# --- policies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "is_sliced"),
    [
        (policy(PLANS[4]), True),
        (policy(Plan("p", Rate(100, 1, 100), (leased_window(500, 60),))), False),
        (policy(Plan("p", windows=(leased_window(500, 60),), concurrency=5)), False),
        (policy(PLANS[0], RouteLimit(Window(50, 60), LimitBy.IP)), False),
        (policy(PLANS[0], RouteLimit(leased_window(500, 60), LimitBy.IP)), True),
        (policy(None), False),
    ],
)
def test_slices_are_taken_only_where_no_limit_needs_redis_for_each_call(limits: LimitPolicy, is_sliced: bool) -> None:
    """A call of a slice would go uncounted by the limit that is not in it."""
    assert (limits.slicing is not None) is is_sliced


def test_routes_and_methods_with_the_same_limits_spend_one_slice() -> None:
    """Ten routes would hold ten slices of one plan."""
    one = compile_policy(PLANS[4], route(name="one", cost=Cost(1, {"POST": 5})))
    other = compile_policy(PLANS[4], route(name="other"))
    assert one.slicing is not None
    assert other.slicing is not None
    assert one.by_method[b"POST"].slicing is not None
    assert one.slicing.specification == other.slicing.specification == one.by_method[b"POST"].slicing.specification


def test_a_slice_is_asked_for_as_a_call_that_costs_so_much() -> None:
    """The script would take another number of calls than the worker spends."""
    plan = Plan("p", windows=(leased_window(500, 60),), quotas=(leased_quota(10**6, Period.DAY),))
    limits = policy(plan)
    assert limits.slicing is not None
    assert limits.slicing.asking_for(123) == policy(plan, cost=Cost(123)).specification(0)
    assert script.with_cost(limits.specification(0), 7) == policy(plan, cost=Cost(7)).specification(0)
