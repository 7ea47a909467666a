"""When shedding begins, whom it refuses, and when it ends, over a clock that the test turns."""

from __future__ import annotations

from typing import cast

import pytest

from ostiary.core.model import Priority
from ostiary.gateway.overload.pressure import MEMORY_PART_MAX, RANKS, WAIT_SECONDS_MAX
from ostiary.gateway.overload.shedding import (
    BEAT_SECONDS,
    CALM_SECONDS,
    FEW_CALLS,
    HELD_SECONDS_MAX,
    SERVED_PER_TAKEN_BACK,
    STALL_SECONDS,
    TAKEN_BACK_PER_SECOND,
    Shedder,
)
from ostiary.gateway.telemetry.metrics import Metrics
from ostiary.gateway.wire.client import ClientConnection

LOW, NORMAL, HIGH = (RANKS[each] for each in (Priority.LOW, Priority.NORMAL, Priority.HIGH))
LONG_TURN_SECONDS = 0.14


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Connection:
    """What the shedder asks of a client's connection."""

    held = False

    def hold(self) -> None:
        self.held = True

    def take_back(self) -> None:
        self.held = False


def let_few_in(shedder: Shedder) -> None:
    """As many calls as are let in in every turn."""
    for _ in range(FEW_CALLS):
        assert not shedder.refuses(LOW, ANYONE)


ANYONE = cast(ClientConnection, Connection())


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics.in_memory()


@pytest.fixture
def shedder(clock: Clock, metrics: Metrics) -> Shedder:
    return Shedder(metrics=metrics, clock=clock)


def turns(shedder: Shedder, clock: Clock, seconds: float, *, each: float) -> None:
    """Turns of the loop that take `each` seconds, for `seconds`."""
    until = clock.now + seconds
    while clock.now < until - 1e-9:
        clock.now += each
        shedder.beat()


def test_a_burst_is_not_refused(shedder: Shedder, clock: Clock) -> None:
    """Two long turns are a burst that is worked off: refusing then would refuse what could be served."""
    turns(shedder, clock, 1.0, each=BEAT_SECONDS)
    turns(shedder, clock, 2 * LONG_TURN_SECONDS, each=LONG_TURN_SECONDS)
    turns(shedder, clock, BEAT_SECONDS, each=BEAT_SECONDS)
    turns(shedder, clock, LONG_TURN_SECONDS, each=LONG_TURN_SECONDS)
    assert not shedder.watchful


def test_a_standing_queue_is_cut_where_each_priority_has_waited_too_long(shedder: Shedder, clock: Clock) -> None:
    """Row 115: in a turn that has run for so long, low calls are refused first, then normal ones, then high ones."""
    turns(shedder, clock, 0.6, each=LONG_TURN_SECONDS)
    assert shedder.watchful
    let_few_in(shedder)
    met = []
    begun = clock.now
    for waited in WAIT_SECONDS_MAX:
        clock.now = begun + waited + 0.001
        met.append([shedder.refuses(rank, ANYONE) for rank in (LOW, NORMAL, HIGH)])
    assert met == [[True, False, False], [True, True, False], [True, True, True]]


def test_low_calls_are_shut_out_while_normal_ones_have_to_be_refused(
    shedder: Shedder, clock: Clock, metrics: Metrics
) -> None:
    """Row 115: without it every turn would serve the low calls that it happens to meet first."""
    turns(shedder, clock, 0.6, each=LONG_TURN_SECONDS)
    let_few_in(shedder)
    clock.now += WAIT_SECONDS_MAX[NORMAL] + 0.001
    assert shedder.refuses(NORMAL, ANYONE)
    shedder.beat()
    let_few_in(shedder)
    assert [shedder.refuses(rank, ANYONE) for rank in (LOW, NORMAL, HIGH)] == [True, False, False]
    assert metrics.counter("requests_shed_total", priority="low").total == 1
    assert metrics.counter("requests_shed_total", priority="normal").total == 1
    assert metrics.values[metrics.gauge("gateway_overloaded")] == 1


def test_it_ends_by_itself_when_turns_are_short_again(shedder: Shedder, clock: Clock, metrics: Metrics) -> None:
    """Row 115: a gateway that goes on refusing after the load has gone is an outage of its own making."""
    turns(shedder, clock, 3.0, each=LONG_TURN_SECONDS)
    let_few_in(shedder)
    clock.now += 0.3
    assert shedder.refuses(HIGH, ANYONE)
    turns(shedder, clock, 2 * CALM_SECONDS + 0.1, each=BEAT_SECONDS)
    assert not shedder.watchful
    assert metrics.values[metrics.gauge("gateway_overloaded")] == 0


def test_a_stall_shuts_low_calls_for_a_moment(shedder: Shedder, clock: Clock) -> None:
    """Row 113: the loop stood still once; what has piled up is served before low calls are."""
    turns(shedder, clock, 0.1, each=BEAT_SECONDS)
    turns(shedder, clock, STALL_SECONDS + BEAT_SECONDS + 0.01, each=STALL_SECONDS + BEAT_SECONDS + 0.01)
    let_few_in(shedder)
    assert [shedder.refuses(rank, ANYONE) for rank in (LOW, NORMAL, HIGH)] == [True, False, False]
    turns(shedder, clock, CALM_SECONDS + BEAT_SECONDS, each=BEAT_SECONDS)
    assert not shedder.watchful


def test_while_turns_are_late_one_connection_is_taken_back_for_ten_calls_let_in(shedder: Shedder, clock: Clock) -> None:
    """Row 115: clients that ignore Retry-After would make a worker do little but refuse them again."""
    turns(shedder, clock, 0.6, each=LONG_TURN_SECONDS)
    connections = [Connection() for _ in range(100)]
    for connection in connections:
        shedder.hold(cast(ClientConnection, connection))
    for _ in range(200):
        assert not shedder.refuses(NORMAL, ANYONE)
    turns(shedder, clock, LONG_TURN_SECONDS, each=LONG_TURN_SECONDS)
    assert shedder.held == 100 - 1 - 200 // SERVED_PER_TAKEN_BACK
    turns(shedder, clock, LONG_TURN_SECONDS, each=LONG_TURN_SECONDS)  # in which nothing was let in
    assert shedder.held == 100 - 2 - 200 // SERVED_PER_TAKEN_BACK


def test_refused_connections_are_taken_back_in_their_order_and_not_all_at_once(shedder: Shedder, clock: Clock) -> None:
    """Row 115: all of them together would be the next overload."""
    connections = [Connection() for _ in range(TAKEN_BACK_PER_SECOND // 2)]
    for connection in connections:
        shedder.hold(cast(ClientConnection, connection))
    turns(shedder, clock, 0.1, each=BEAT_SECONDS)
    free = [not connection.held for connection in connections]
    assert 0.09 * TAKEN_BACK_PER_SECOND <= sum(free) <= 0.11 * TAKEN_BACK_PER_SECOND
    assert free == sorted(free, reverse=True)
    turns(shedder, clock, 0.5, each=BEAT_SECONDS)
    assert shedder.held == 0


def test_no_connection_is_held_for_longer_than_the_shortest_retry_after(shedder: Shedder, clock: Clock) -> None:
    """A client that has waited as long as it was told must be heard, however many others there are."""
    for _ in range(10 * TAKEN_BACK_PER_SECOND):
        shedder.hold(cast(ClientConnection, Connection()))
    turns(shedder, clock, HELD_SECONDS_MAX + BEAT_SECONDS, each=BEAT_SECONDS)
    assert shedder.held == 0


def test_a_client_that_did_not_wait_is_refused_again_while_turns_are_late(shedder: Shedder, clock: Clock) -> None:
    """Row 115: what was sent on a held connection is as old as the hold. Serving it takes the time of those who can still be
    served in time, for a caller who may have gone."""
    turns(shedder, clock, 0.6, each=LONG_TURN_SECONDS)
    impatient = Connection()
    client = cast(ClientConnection, impatient)
    shedder.hold(client)
    turns(shedder, clock, HELD_SECONDS_MAX + LONG_TURN_SECONDS, each=LONG_TURN_SECONDS)
    while impatient.held:
        turns(shedder, clock, LONG_TURN_SECONDS, each=LONG_TURN_SECONDS)
    shedder.hold(client)
    clock.now += LONG_TURN_SECONDS
    shedder.beat()
    assert not impatient.held
    assert shedder.refuses(NORMAL, client)
    assert not shedder.refuses(NORMAL, ANYONE)
    assert not shedder.refuses(HIGH, client)
    turns(shedder, clock, LONG_TURN_SECONDS, each=LONG_TURN_SECONDS)
    assert not shedder.refuses(NORMAL, client), "by now it may have heeded Retry-After"


def test_a_worker_that_is_late_with_next_to_nothing_to_do_refuses_none_of_it(shedder: Shedder, clock: Clock) -> None:
    """Rows 110, 113: a worker that gets too little of a processor, as while others start beside it, is late without being
    overloaded. Each of its few calls would be refused, and a rolling restart cost callers 503s."""
    turns(shedder, clock, 3.0, each=LONG_TURN_SECONDS)
    assert shedder.watchful
    clock.now += 1.0
    assert [shedder.refuses(rank, ANYONE) for rank in (LOW, NORMAL, HIGH)] == [False, False, False]
    shedder.memory_is(MEMORY_PART_MAX[NORMAL])
    assert [shedder.refuses(rank, ANYONE) for rank in (LOW, NORMAL)] == [True, True], "but memory is short for all"
