"""Events as they go out."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from ostiary.control_plane.audit.model import Moment, ResourceId, Word
from ostiary.control_plane.http import Answer, Page, Parameters, Rule, Uuid
from ostiary.control_plane.http.paging import Limit, NumberCursor

KindName = Annotated[
    str,
    Field(examples=["key.created"]),
    Rule(r"^[a-z_]{1,40}\.[a-z_]{1,40}$", "a kind of event, as in key.created"),
]


def _digits(value: object) -> object:
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,16}", value) is None:
        raise PydanticCustomError("digits", "must be a whole number")
    return value


Number = Annotated[
    int,
    BeforeValidator(_digits),
    Field(
        ge=0,
        le=2**53 - 1,
        description="events with higher numbers, the oldest first: who follows sends the last number that it has seen, 0 at "
        "the beginning. What comes later has a higher number than all that could be seen before",
    ),
]


class EventQuery(Parameters):
    """Which events: those for which all that is given holds."""

    after: Number | None = None
    kind: KindName | None = None
    organization_id: Uuid | None = None
    app_id: Uuid | None = None
    resource: Annotated[Word | None, Field(description="the type of thing, as in `resource_type`")] = None
    resource_id: ResourceId | None = None
    since: Annotated[Moment | None, Field(description="from this moment on")] = None
    until: Annotated[Moment | None, Field(description="up to this moment, which is not of it")] = None
    limit: Limit = 50
    cursor: NumberCursor | None = None


class Event(Answer):
    """What happened to which thing. Of a change `payload` has `before` and `after`, with the fields that changed; before is
    null for what was made, after for what was deleted. Of `quota.reached` it has the quota, the share in %, its limit,
    whether test calls are meant, when it was reached and when the period ends. `request_id` is that of the call that made the
    change."""

    number: int
    occurred_at: datetime
    kind: KindName
    resource_type: str
    resource_id: str
    app_id: str | None
    organization_id: str | None
    request_id: str | None
    payload: dict[str, Any]

    @property
    def created_at(self) -> datetime:
        return self.occurred_at

    @property
    def id(self) -> str:
        return str(self.number)


class EventPage(Page[Event]):
    """Events, newest first; with `after`, oldest first. `oldest` is the lowest number that is still kept, whoever may see it:
    who follows and has last seen a lower number than the one before it has missed some. Null without events."""

    oldest: int | None
