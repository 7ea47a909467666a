"""The tables of states: complete, and without a way out of the end."""

from __future__ import annotations

from itertools import product

from ostiary.gateway.wire.states import (
    TRANSITIONS,
    TUNNEL_TRANSITIONS,
    WHEN_OVER,
    Due,
    Event,
    State,
    TunnelEvent,
    TunnelState,
    what_is_due,
)

BOTH = (False, True)


def test_every_state_has_its_row_and_can_be_reached() -> None:
    """A state without a row would be found by a client, as a crash."""
    assert set(TRANSITIONS) == set(State)
    assert {following for row in TRANSITIONS.values() for following in row.values()} == set(State)
    assert set(TUNNEL_TRANSITIONS) == set(TunnelState)
    reached = {following for row in TUNNEL_TRANSITIONS.values() for following in row.values()}
    assert reached == set(TunnelState) - {TunnelState.OPEN}


def test_a_connection_may_be_lost_at_any_time() -> None:
    """Clients leave whenever they want."""
    assert all(row[Event.CLOSED] is State.CLOSED for row in TRANSITIONS.values())
    ends = {TunnelState.WHOLE, TunnelState.BROKEN}
    for state, row in TUNNEL_TRANSITIONS.items():
        assert (row.get(TunnelEvent.BREAKS) is TunnelState.BROKEN) == (state not in ends)


def test_only_a_whole_request_without_an_answer_becomes_a_tunnel_and_no_request_follows_it() -> None:
    """Row 32: a tunnel that began while a body was still coming would take the body for frames."""
    assert [state for state, row in TRANSITIONS.items() if State.TUNNEL in row.values()] == [State.WAITING]
    assert set(TRANSITIONS[State.TUNNEL].values()) == {State.LINGERING, State.CLOSED}


def test_a_tunnel_is_whole_once_both_ends_have_ended() -> None:
    """Otherwise a half-closed call would be metered as complete while its other half is under way."""
    for first, second in (
        (TunnelEvent.CLIENT_ENDS, TunnelEvent.UPSTREAM_ENDS),
        (TunnelEvent.UPSTREAM_ENDS, TunnelEvent.CLIENT_ENDS),
    ):
        half = TUNNEL_TRANSITIONS[TunnelState.OPEN][first]
        assert half not in (TunnelState.WHOLE, TunnelState.BROKEN)
        assert first not in TUNNEL_TRANSITIONS[half]
        assert TUNNEL_TRANSITIONS[half][second] is TunnelState.WHOLE


def test_time_ends_every_state_in_which_the_client_alone_is_waited_for() -> None:
    """One of these without an end would be a connection that a silent client holds for ever; an end of another state would
    cut a call for which an upstream still has time."""
    assert set(WHEN_OVER) == set(State)
    ended = {state for state, due in WHEN_OVER.items() if due is not Due.NOTHING}
    assert ended == {State.IDLE, State.HEAD, State.BODY, State.LINGERING}


def test_a_client_that_is_held_back_is_not_ended_for_its_silence() -> None:
    """Whoever sends a large body to a slow upstream would get a timeout for what is not its doing."""
    for untaken, half_closed in product(BOTH, BOTH):
        due = what_is_due(State.BODY, reading=False, untaken=untaken, half_closed=half_closed)
        assert due is Due.NOTHING


def test_an_answer_that_is_not_taken_is_looked_at_before_anything_else_is_done() -> None:
    """A client that takes its answer slowly would be cut off, or one that takes nothing would be kept. While its request is
    still coming, that is what it is judged by."""
    for state, reading, half_closed in product(State, BOTH, BOTH):
        due = what_is_due(state, reading=reading, untaken=True, half_closed=half_closed)
        assert (due is Due.LOOK_AT_CLIENT) == (state not in (State.HEAD, State.BODY))


def test_a_client_that_half_closed_waits_only_while_more_of_its_answer_comes() -> None:
    """Otherwise the upstream would work on for a client that has left. In other states a FIN changes nothing about time."""
    for state, reading in product(State, BOTH):
        due = what_is_due(state, reading=reading, untaken=False, half_closed=True)
        before = what_is_due(state, reading=reading, untaken=False, half_closed=False)
        assert due is (Due.LOOK_AT_UPSTREAM if state is State.ANSWERING else before)
