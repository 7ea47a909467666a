"""The rules of reading events. Writing them has none that could be broken here: `dispatch` does, in every change."""

from __future__ import annotations

from ostiary.control_plane.db import Connection
from ostiary.control_plane.events import store
from ostiary.control_plane.events.model import EventPage, EventQuery
from ostiary.control_plane.http import cut, invalid


class Events:
    """Every method works on the caller's transaction and raises Problem for what it refuses."""

    async def events(
        self, connection: Connection, query: EventQuery, *, organizations: tuple[str, ...] | None
    ) -> EventPage:
        """Those of these organizations, or all if None."""
        if query.since is not None and query.until is not None and query.since >= query.until:
            raise invalid("since", "must be before until")
        found = await store.page(connection, query, organizations=organizations, limit=query.limit + 1)
        data, next_cursor = cut(found, query.limit)
        total = await store.count(connection, query, organizations=organizations)
        return EventPage(data=data, next_cursor=next_cursor, total=total, oldest=await store.oldest(connection))
