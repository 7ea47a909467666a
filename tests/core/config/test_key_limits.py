"""`limits` of a key in the file: in place of its plan's, part by part."""

from __future__ import annotations

import pytest

from ostiary.core.model import LimitOverride, Overage, Period, Plan, Quota, Rate, Window
from tests.core.config.loading import load, only_problem, varied

PLAN = Plan(
    "standard",
    rate=Rate(100, 60, 600),
    windows=(Window(10_000, 3600),),
    quotas=(Quota(1_000_000, Period.DAY),),
    concurrency=50,
)


def test_a_part_that_is_given_replaces_the_plan_s_and_no_other() -> None:
    """Raising one limit of a caller would take the others away."""
    assert LimitOverride(concurrency=5).applied_to(PLAN) == Plan(
        "standard", PLAN.rate, PLAN.windows, PLAN.quotas, concurrency=5
    )
    all_parts = LimitOverride(Rate(1, 1, 1), (Window(5, 1),), (Quota(9, Period.MONTH),), 3, Overage.CHARGE)
    assert all_parts.applied_to(PLAN) == Plan(
        "standard", Rate(1, 1, 1), (Window(5, 1),), (Quota(9, Period.MONTH),), 3, Overage.CHARGE
    )


def test_an_empty_list_takes_the_plan_s_away() -> None:
    """There would be no way to free one caller of a window."""
    bare = LimitOverride(windows=(), quotas=()).applied_to(PLAN)
    assert (bare.windows, bare.quotas, bare.rate) == ((), (), PLAN.rate)


def test_a_key_without_a_plan_may_have_limits_of_its_own() -> None:
    """Its limits would be forgotten, for want of something to put them on."""
    assert LimitOverride(windows=(Window(5, 1),)).applied_to(None) == Plan("", windows=(Window(5, 1),))


def with_limits(limits: str) -> str:
    return varied("plan: standard, scopes", f"plan: standard, limits: {limits}, scopes")


def test_a_key_of_the_file_has_limits_as_they_are_written() -> None:
    """The file would say one thing and the gateway hold the caller to another."""
    limits = (
        "{rate: {requests: 5, per: second}, limits: [], quotas: [{requests: 9, per: month}], "
        "concurrency: 3, overage: warn}"
    )
    key = load(with_limits(limits)).keys["ak_test_1"]
    assert key.limits == LimitOverride(Rate(5, 1, 5), (), (Quota(9, Period.MONTH),), 3, Overage.WARN)
    assert load(varied("version: 1", "version: 1")).keys["ak_test_1"].limits is None


@pytest.mark.parametrize(
    ("limits", "path", "message"),
    [
        ("{}", "keys[0].limits", "replaces no part of the plan (give one, or remove `limits`)"),
        (
            "{limits: [{requests: 1, per: hour}, {requests: 2, per: hour}]}",
            "keys[0].limits.limits",
            "two limits have the same span (leave the smaller one: both would have to hold)",
        ),
        (
            "{concurency: 5, overage: warn}",
            "keys[0].limits",
            "there is no field 'concurency' (did you mean 'concurrency'?)",
        ),
    ],
)
def test_a_mistake_in_them_is_named_with_its_mend(limits: str, path: str, message: str) -> None:
    """A reload would be refused without a word on where to look."""
    problem = only_problem(with_limits(limits))
    assert (problem.path, str(problem).partition(f"{path}: ")[2], problem.line) == (path, message, 13)


def test_limits_that_can_t_be_counted_exactly_are_refused() -> None:
    """They would be found out by the key's first call."""
    problem = only_problem(with_limits("{rate: {requests: 999999999999, per: day, burst: 1000000000000}}"))
    assert (problem.path, problem.line) == ("keys[0].limits", 13)
    assert "too large to be counted exactly" in problem.message
