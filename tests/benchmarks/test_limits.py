from __future__ import annotations

from benchmarks import leased
from benchmarks.limits import BATCHES, CASES, bench, bench_loads, text


async def test_every_kind_of_limit_can_be_measured() -> None:
    """A limit that is asked in another way is noticed here, not when someone needs its figure."""
    costs = await bench(CASES, calls=64, runs=2)
    assert [(cost.case, cost.batch) for cost in costs] == [(case.name, size) for case in CASES for size in BATCHES]
    assert all(cost.worker.least > 0 for cost in costs)
    asked = [cost for cost in costs if cost.case != "nothing to decide"]
    assert all(cost.redis.least > 0 for cost in asked if "leased" not in cost.case)
    lines = text(costs).splitlines()
    assert len(lines) == 1 + len(CASES)
    assert "worker, 64 a batch" in lines[0]


def test_the_cases_have_every_number_of_limits() -> None:
    """The table answers what one limit more costs."""
    assert {case.limits for case in CASES} == {0, 1, 2, 4, 8}
    for case in CASES:
        plan = case.plan
        parts = (plan.rate, *plan.windows, *plan.quotas, plan.concurrency)
        assert case.limits == sum(part is not None for part in parts)


async def test_what_redis_is_asked_for_a_busy_key_can_be_measured() -> None:
    """Leasing that has stopped saving anything is seen in the table, if there is one."""
    loads = await bench_loads(seconds=0.2, names=leased.NAMES[:1])
    assert len(leased.text(loads).splitlines()) == 1 + len(loads)
    for exact, slices in zip(loads[::2], loads[1::2], strict=True):
        assert slices.calls_of_redis < exact.calls_of_redis / 2
