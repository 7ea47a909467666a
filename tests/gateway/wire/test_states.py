"""The tables of states: complete, and without a way out of the end."""

from __future__ import annotations

from ostiary.gateway.wire.states import TRANSITIONS, TUNNEL_TRANSITIONS, Event, State, TunnelEvent, TunnelState


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
