"""Which roll-ups answer for a span, and what is read from their histograms."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ostiary.control_plane.db import Connection
from ostiary.control_plane.usage.histogram import BOUNDS_US, calls_by_place, quantile_ms
from ostiary.control_plane.usage.parts import Granularity, NotKept, ceil, divide, floor

MOMENTS = st.datetimes(datetime(2026, 1, 1), datetime(2026, 4, 1), timezones=st.just(UTC))


@given(first=MOMENTS, other=MOMENTS, coarsest=st.sampled_from(Granularity))
def test_parts_are_the_span_without_a_gap_and_nothing_twice(
    first: datetime, other: datetime, coarsest: Granularity
) -> None:
    """Invariant: the parts follow on one another from the first minute to the last, each on its own borders."""
    since, until = sorted((first, other))
    parts = divide(since, until, coarsest=coarsest, kept_from={})
    if since == until:
        assert sum(((part.until - part.since) for part in parts), timedelta()) <= coarsest.value
        return
    assert parts[0].since == floor(since, min(Granularity.MINUTE, coarsest, key=lambda each: each.value))
    assert parts[-1].until == ceil(until, Granularity.MINUTE)
    assert all(one.until == next_one.since for one, next_one in pairwise(parts))
    for part in parts:
        assert part.since < part.until
        assert part.since == floor(part.since, part.granularity)
        assert part.until == floor(part.until, part.granularity)
        assert part.granularity.value <= coarsest.value
    fine = sum(
        (part.until - part.since) // part.granularity.value for part in parts if part.granularity is not coarsest
    )
    assert fine <= 2 * (60 + 24)


@given(since=MOMENTS, until=MOMENTS, minutes=st.dates(date(2026, 1, 1), date(2026, 4, 1)), later=st.integers(0, 60))
def test_nothing_finer_is_read_than_is_kept(since: datetime, until: datetime, minutes: date, later: int) -> None:
    """Invariant: no part is of a time from which its roll-ups have been dropped, and the span asked for is in them."""
    kept_from = {Granularity.MINUTE: minutes, Granularity.HOUR: minutes - timedelta(days=later)}
    parts = divide(since, max(since, until), kept_from=kept_from)
    for part in parts:
        assert part.since.date() >= kept_from.get(part.granularity, date.min)
    if since < until:
        assert parts[0].since <= since
        assert parts[-1].until >= until


def test_hours_that_are_needed_and_not_kept_are_refused() -> None:
    """The errors of last year would be none."""
    since = datetime(2026, 1, 1, tzinfo=UTC)
    with pytest.raises(NotKept):
        divide(
            since, since + timedelta(days=90), coarsest=Granularity.HOUR, kept_from={Granularity.HOUR: date(2026, 2, 1)}
        )


async def test_python_and_postgres_have_the_same_places(connection: Connection) -> None:
    """Quantiles would be those of other bounds than calls were counted by."""
    assert tuple(await connection.fetchval("SELECT usage_latency_bounds_us()")) == BOUNDS_US
    weights = await connection.fetchval("SELECT usage_latency_weights()")
    assert weights == [Decimal(10) ** (12 * place) for place in range(81)]
    histogram = sum((place + 1) * int(weight) for place, weight in enumerate(weights))
    assert calls_by_place(histogram) == tuple(range(1, 82))
    assert tuple(await connection.fetchval("SELECT usage_latency_calls($1)", Decimal(histogram))) == tuple(range(1, 82))
    assert calls_by_place(0) == (0,) * 81


@given(
    st.lists(st.integers(BOUNDS_US[0], BOUNDS_US[-1] - 1), min_size=1, max_size=300), st.sampled_from((0.5, 0.95, 0.99))
)
def test_a_quantile_is_within_its_bound(latencies_us: list[int], share: float) -> None:
    """Invariant: a quantile that is read from a histogram is off by at most 9.1 % (and half a microsecond of rounding)."""
    places = [0] * 81
    for latency_us in latencies_us:
        places[sum(bound <= latency_us for bound in BOUNDS_US)] += 1
    ranked = sorted(latencies_us)
    exact_ms = next(each for number, each in enumerate(ranked, 1) if number >= share * len(ranked)) / 1000
    found = quantile_ms(tuple(places), share)
    assert found is not None
    assert abs(found - exact_ms) <= exact_ms * 0.0917 + 0.001
    assert quantile_ms((0,) * 81, share) is None
