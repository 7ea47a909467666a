"""Invariant: allowed ≤ limit in every span, whoever asks from wherever, by Redis's clock."""

from __future__ import annotations

import pytest
import redis

from ostiary.core.limiting import SECOND_US, WINDOW_SLOTS
from ostiary.core.model import Plan, Rate, Window
from ostiary.demo.stores import EmbeddedValkey
from tests.gateway.limits.hammer import hammer, most_in_any_span, most_over_refill


@pytest.mark.parametrize("requests", [400, 100], ids=["slots", "exact log"])
def test_processes_and_clients_at_ten_times_the_limit_never_get_more_than_a_window(
    valkey_server: EmbeddedValkey, requests: int
) -> None:
    """Row 71: read, decide and count later would let each process add its own calls to the limit."""
    plan = Plan("p", windows=(Window(requests, 1),))
    hammered = hammer(valkey_server.url(database=4), plan, processes=3, clients=18, seconds=4)
    assert hammered.failures == 0
    assert hammered.asked > 2 * len(hammered.admitted_us)
    assert most_in_any_span(hammered.admitted_us, SECOND_US) <= requests
    # What the algorithm admits: the whole limit each window and slot, begun at the first call.
    period_us = SECOND_US + SECOND_US // WINDOW_SLOTS
    assert len(hammered.admitted_us) >= 0.98 * requests * (hammered.span_us // period_us)


def test_processes_and_clients_never_get_more_than_burst_and_refill(valkey_server: EmbeddedValkey) -> None:
    """Row 71: two workers that refill one bucket would refill it twice."""
    plan = Plan("p", rate=Rate(requests=300, per_seconds=1, burst=60))
    hammered = hammer(valkey_server.url(database=5), plan, processes=3, clients=18, seconds=3)
    assert hammered.failures == 0
    assert most_over_refill(hammered.admitted_us, 300, 1) <= 60 + 1  # times are whole milliseconds in the bucket
    assert len(hammered.admitted_us) >= 0.98 * (60 + 300 * (hammered.span_us / SECOND_US - 0.1))


def test_clocks_of_workers_that_differ_change_nothing(valkey_server: EmbeddedValkey) -> None:
    """Row 73: a worker five seconds ahead would open every window early."""
    plan = Plan("p", windows=(Window(150, 1),), rate=Rate(1000, 1, 1000))
    client = redis.Redis.from_url(valkey_server.url())
    before_us = client.time()[0] * SECOND_US
    hammered = hammer(
        valkey_server.url(database=6), plan, processes=3, clients=9, seconds=3, clock_skews_seconds=(0, 5, -5)
    )
    assert hammered.failures == 0
    assert most_in_any_span(hammered.admitted_us, SECOND_US) <= 150
    assert len(hammered.admitted_us) >= 150 * 2
    assert before_us <= hammered.admitted_us[0]
    assert hammered.admitted_us[-1] <= (client.time()[0] + 1) * SECOND_US
