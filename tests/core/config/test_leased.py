"""Which limits may be leased: where slices can hold them, and save anything."""

from __future__ import annotations

import pytest

from ostiary.core.model import Counting, Quota, Rate, Window
from tests.core.config.loading import load, only_problem, varied

PLAN = "{limits: [{requests: 100, per: minute}]}"


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (
            "{limits: [{requests: 120, per: minute, counting: leased}]}",
            "is leased, and has only 120 calls to share: up to 120 are logged one by one "
            "(remove counting, or raise the limit)",
        ),
        (
            "{limits: [{requests: 5000, per: second, counting: leased}]}",
            "is leased, and its window is too short: a slice would be over before it is spent "
            "(count per minute or longer, or remove counting; a leased rate may be per second)",
        ),
        (
            "{rate: {requests: 1000, per: second, burst: 499, counting: leased}}",
            "is leased, and its burst of 499 is refilled too fast to take slices of "
            "(raise burst to at least 500, or remove counting)",
        ),
        (
            "{limits: [{requests: 5000, per: hour, counting: leased, mode: shadow}]}",
            "is leased and in shadow: which calls it would have refused shows only where each is counted by itself "
            "(remove counting, or mode)",
        ),
        (
            "{rate: {requests: 1000, per: second, counting: leased, refused: charged}}",
            "is leased and charges refused calls: a worker would have to tell Redis of each "
            "(remove counting, or refused)",
        ),
        (
            "{rate: {requests: 10, per: second}, limits: [{requests: 5000, per: hour, counting: leased}]}",
            "is leased beside `rate` that is not: each call would ask Redis all the same "
            "(lease all limits of the plan, or none)",
        ),
        (
            "{limits: [{requests: 5000, per: hour, counting: leased}], concurrency: 5}",
            "is leased beside concurrency, for which each call asks Redis all the same "
            "(remove counting, or concurrency)",
        ),
    ],
)
def test_a_limit_that_slices_can_not_hold_or_would_not_help_is_refused(plan: str, message: str) -> None:
    """An operator would believe Redis relieved, or the limit exact, and find out under load."""
    problem = only_problem(varied(PLAN, plan))
    told = problem.message if problem.mend is None else f"{problem.message} ({problem.mend})"
    assert told == message


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ("[{requests: 5000, per: second, by: ip, counting: leased}]", "is leased, and its window is too short"),
        ("[{concurrency: 5, by: ip, counting: leased}]", "means nothing here"),
        (
            "[{requests: 5000, per: hour, by: ip, counting: leased}, {requests: 50, per: second, by: route}]",
            "some are leased and some are not",
        ),
    ],
)
def test_limits_of_routes_are_held_to_the_same(limits: str, message: str) -> None:
    """A route's limits go the same way as a plan's."""
    assert only_problem(varied("    auth:", f"    limits: {limits}\n    auth:")).message.startswith(message)


@pytest.mark.parametrize(
    "plan",
    [
        "{limits: [{requests: 121, per: minute, counting: leased}]}",
        "{rate: {requests: 1000, per: second, burst: 500, counting: leased}}",
        "{quotas: [{requests: 5, per: month, counting: leased}]}",
        "{rate: {requests: 100, per: minute, burst: 600, counting: leased},"
        " limits: [{requests: 10000, per: hour, counting: leased}]}",
        "{limits: [{requests: 5000, per: second, counting: exact}]}",
    ],
)
def test_what_slices_can_hold_loads(plan: str) -> None:
    """The bounds are told in the refusals, and must be the true ones."""
    loaded = load(varied(PLAN, plan)).plans["standard"]
    limits: list[Rate | Window | Quota] = [*loaded.windows, *loaded.quotas]
    if loaded.rate is not None:
        limits.append(loaded.rate)
    assert {limit.counting for limit in limits} == {Counting.EXACT if "exact" in plan else Counting.LEASED}


def test_a_plan_that_is_leased_for_nothing_is_warned_of() -> None:
    """Each call of this route asks Redis for the limit of the route, and pays for the plan's there too."""
    text = varied(PLAN, "{limits: [{requests: 5000, per: hour, counting: leased}]}")
    assert not any("leased" in warning for warning in load(text).warnings)
    text = text.replace("    auth:", "    limits: [{requests: 50, per: second, by: ip}]\n    auth:")
    assert any("routes[0]: has limits that are not leased" in warning for warning in load(text).warnings)
