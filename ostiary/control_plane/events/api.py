"""The operation on events. There is none that changes them."""

from __future__ import annotations

from ostiary.control_plane.events.model import EventPage, EventQuery
from ostiary.control_plane.events.service import Events
from ostiary.control_plane.http import AnyOperation, Call, NoBody, NoParameters, read


def operations(events: Events) -> tuple[AnyOperation, ...]:
    async def list_events(call: Call[NoParameters, EventQuery, NoBody]) -> EventPage:
        return await events.events(call.connection, call.query, organizations=call.caller.actor.organizations)

    return (
        read(
            "listEvents",
            "/events",
            tag="events",
            summary="What happened, newest first: keys, apps, members and plans that changed, quotas that were reached. With "
            "`after`, oldest first, for a program that follows.",
            handler=list_events,
            query_model=EventQuery,
            answer=EventPage,
        ),
    )
