"""The client side of a connection as a state machine: the whole of it is this table.

A connection is a row of requests, each answered before the next is looked at. Two things run at once: the request arrives,
and its answer leaves. Their progress together is one state; `client.py` reports events and obeys.

    state       request      answer     may read?  what ends it
    IDLE        none yet     none       yes        keepalive_seconds
    HEAD        head begun   none       yes        head_seconds
    BODY        head whole   none       yes        body_idle_seconds, the upstream's time
    WAITING     whole        none       ahead      the upstream's time
    EARLY       head whole   begun      yes        write_idle_seconds, the upstream's time
    ANSWERING   whole        begun      ahead      write_idle_seconds
    TUNNEL      whole        a 101      no         the tunnel's idle time (tunnel.py has the connection)
    LINGERING   given up     whole      discards   LINGER_SECONDS
    CLOSED

What each means when its time is over is a table too, `WHEN_OVER`.

"ahead": what arrives is the next request. It is kept, up to `READ_AHEAD_BYTES_MAX`, and not parsed.

A tunnel has a table of its own at the end: which of its two ends have sent all they had.
"""

from __future__ import annotations

from enum import IntEnum, auto
from typing import Final


class State(IntEnum):
    IDLE = auto()
    HEAD = auto()
    BODY = auto()
    WAITING = auto()
    EARLY = auto()
    ANSWERING = auto()
    TUNNEL = auto()
    LINGERING = auto()
    CLOSED = auto()


class Event(IntEnum):
    HEAD_BEGUN = auto()  # some bytes of a head, not all
    REQUEST_WHOLE = auto()  # a head without a body
    BODY_EXPECTED = auto()  # a head, and a body to come
    BODY_WHOLE = auto()
    ANSWER_BEGUN = auto()  # head of the final answer written
    ANSWER_WHOLE = auto()  # last byte written; the connection goes on
    ANSWER_LAST = auto()  # last byte written; the connection does not go on
    SWITCHED = auto()  # a 101 written, which the request had asked for
    CLOSED = auto()


TRANSITIONS: Final[dict[State, dict[Event, State]]] = {
    State.IDLE: {
        Event.HEAD_BEGUN: State.HEAD,
        Event.REQUEST_WHOLE: State.WAITING,
        Event.BODY_EXPECTED: State.BODY,
        Event.ANSWER_LAST: State.LINGERING,  # a head refused as it stands
    },
    State.HEAD: {
        Event.HEAD_BEGUN: State.HEAD,
        Event.REQUEST_WHOLE: State.WAITING,
        Event.BODY_EXPECTED: State.BODY,
        Event.ANSWER_LAST: State.LINGERING,
    },
    State.BODY: {
        Event.BODY_WHOLE: State.WAITING,
        Event.ANSWER_BEGUN: State.EARLY,
        Event.ANSWER_LAST: State.LINGERING,
    },
    State.WAITING: {
        Event.ANSWER_BEGUN: State.ANSWERING,
        Event.SWITCHED: State.TUNNEL,
        Event.ANSWER_WHOLE: State.IDLE,
        Event.ANSWER_LAST: State.LINGERING,
    },
    State.EARLY: {
        Event.BODY_WHOLE: State.ANSWERING,
        Event.ANSWER_LAST: State.LINGERING,
    },
    State.ANSWERING: {
        Event.ANSWER_WHOLE: State.IDLE,
        Event.ANSWER_LAST: State.LINGERING,
    },
    State.TUNNEL: {
        Event.ANSWER_LAST: State.LINGERING,
    },
    State.LINGERING: {},
    State.CLOSED: {},
}
for _row in TRANSITIONS.values():
    _row[Event.CLOSED] = State.CLOSED

# The same, by number: a connection moves four times for each request.
FOLLOWING: Final[tuple[tuple[State | None, ...], ...]] = tuple(
    tuple(
        TRANSITIONS.get(State(state), {}).get(Event(event)) if state and event else None
        for event in range(len(Event) + 1)
    )
    for state in range(len(State) + 1)
)


class Due(IntEnum):
    """What there is to do when a deadline has passed."""

    NOTHING = auto()  # another's deadline runs
    REFUSAL = auto()  # the head is not whole
    FAILURE = auto()  # the body is not: the request path, which waits for it, gets the error and answers it
    LOOK_AT_CLIENT = auto()  # it takes what it is sent slowly, or not at all
    LOOK_AT_UPSTREAM = auto()  # more of the answer comes, or the client may as well have left
    CLOSE = auto()
    ABORT = auto()


WHEN_OVER: Final[dict[State, Due]] = {
    State.IDLE: Due.CLOSE,
    State.HEAD: Due.REFUSAL,
    State.BODY: Due.FAILURE,
    State.WAITING: Due.NOTHING,
    State.EARLY: Due.NOTHING,
    State.ANSWERING: Due.NOTHING,
    State.TUNNEL: Due.NOTHING,
    State.LINGERING: Due.ABORT,
    State.CLOSED: Due.NOTHING,
}


def what_is_due(state: State, *, reading: bool, untaken: bool, half_closed: bool) -> Due:
    """When the deadline of a connection in `state` has passed. `reading`: we do not hold the client back. `untaken`: part of
    an answer waits for it. `half_closed`: it will send no more, and an upstream is answering."""
    if state is State.BODY and not reading:
        return Due.NOTHING
    if untaken and state is not State.HEAD and state is not State.BODY:
        return Due.LOOK_AT_CLIENT
    if half_closed and state is State.ANSWERING:
        return Due.LOOK_AT_UPSTREAM
    return WHEN_OVER[state]


class TunnelState(IntEnum):
    OPEN = auto()
    CLIENT_ENDED = auto()  # the client has sent all it had; the upstream may go on
    UPSTREAM_ENDED = auto()
    WHOLE = auto()  # both have
    BROKEN = auto()  # one was lost, both were silent for too long, or the gateway stops


class TunnelEvent(IntEnum):
    CLIENT_ENDS = auto()
    UPSTREAM_ENDS = auto()
    BREAKS = auto()


TUNNEL_TRANSITIONS: Final[dict[TunnelState, dict[TunnelEvent, TunnelState]]] = {
    TunnelState.OPEN: {
        TunnelEvent.CLIENT_ENDS: TunnelState.CLIENT_ENDED,
        TunnelEvent.UPSTREAM_ENDS: TunnelState.UPSTREAM_ENDED,
        TunnelEvent.BREAKS: TunnelState.BROKEN,
    },
    TunnelState.CLIENT_ENDED: {
        TunnelEvent.UPSTREAM_ENDS: TunnelState.WHOLE,
        TunnelEvent.BREAKS: TunnelState.BROKEN,
    },
    TunnelState.UPSTREAM_ENDED: {
        TunnelEvent.CLIENT_ENDS: TunnelState.WHOLE,
        TunnelEvent.BREAKS: TunnelState.BROKEN,
    },
    TunnelState.WHOLE: {},
    TunnelState.BROKEN: {},
}

# Past this many bytes of pipelined requests the client is not read until its turn comes (row 27).
READ_AHEAD_BYTES_MAX: Final = 64 * 1024

# After an answer that ends the connection, what the client still sends is read and dropped for this long, so that a reset
# does not take the answer away from it before it has read it (RFC 9112 §9.6).
LINGER_SECONDS: Final = 2.0
LINGER_BYTES_MAX: Final = 1024 * 1024


class ProtocolBug(Exception):
    """An event that its state does not know: a fault of this engine, never of a peer."""
