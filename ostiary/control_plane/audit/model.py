"""The audit log as it goes out."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from ostiary.control_plane.http import Answer, FormatField, Page, Parameters, Position, Rule, Uuid
from ostiary.control_plane.http.paging import Limit, NumberCursor

# Ids of all kinds of things: UUIDs, key ids, names of routes.
ResourceId = Annotated[
    str,
    Field(min_length=1, max_length=200),
    Rule(r"^[^\u0000-\u001f\u007f-\u009f]+$", "1 to 200 characters, without control characters"),
]
Principal = Annotated[
    str,
    Field(min_length=1, max_length=200),
    Rule(r"^[!-~]+$", "a principal as in `actor`: visible ASCII characters"),
]
Word = Annotated[str, Rule(r"^[A-Za-z_]{1,64}$", "1 to 64 letters and underscores")]


def _moment(value: object) -> object:
    # A number would be taken for seconds since 1970.
    if isinstance(value, str) and re.match(r"\d{4}-", value) is None:
        raise PydanticCustomError("moment", "must be a time such as 2030-01-31T00:00:00Z")
    return value


Moment = Annotated[
    AwareDatetime,
    BeforeValidator(_moment),
    Field(ge=datetime(1970, 1, 1, tzinfo=UTC), lt=datetime(2100, 1, 1, tzinfo=UTC)),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]


_OPERATIONS = "an operationId of this document; of commands `migrateDatabase`, `rewrapKeys`, `dropUsage`"


class AuditFilter(Parameters):
    """Which rows: those for which all that is given holds."""

    actor: Principal | None = None
    resource: Annotated[Word | None, Field(description="the type of thing, as in `resource_type`")] = None
    resource_id: ResourceId | None = None
    operation: Annotated[Word | None, Field(description=_OPERATIONS)] = None
    outcome: Literal["done", "refused"] | None = None
    since: Annotated[Moment | None, Field(description="from this moment on")] = None
    until: Annotated[Moment | None, Field(description="up to this moment, which is not of it")] = None
    limit: Limit = 50
    cursor: NumberCursor | None = None
    format: FormatField = "json"


class AuditQuery(AuditFilter):
    """`organization_id` leaves out what belongs to no organization, too."""

    organization_id: Uuid | None = None


class AuditRow(Answer):
    """Who did what to which thing, and with what outcome. `actor` is the principal, which is never that of another; `unknown`
    is one whose credentials were refused, `command` whoever runs `ostiary` where the configuration is,
    `control-plane` itself. `before` and `after` have the fields that changed; before is null for what was made, after for
    what was deleted. Of a refusal, `after` may tell how many more of the same actor were not written down.

    `hash` covers the row and `previous_hash`, the hash of the row before it: `ostiary audit verify`."""

    number: int
    occurred_at: datetime
    actor: str
    actor_name: str
    address: str | None
    request_id: str
    operation: str
    resource_type: str
    resource_id: str | None
    organization_id: str | None
    outcome: Literal["done", "refused"]
    code: str | None
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    previous_hash: str
    hash: str

    @property
    def created_at(self) -> datetime:
        return self.occurred_at

    @property
    def id(self) -> str:
        return str(self.number)


class AuditPage(Page[AuditRow]):
    """Rows, newest first."""


class AuditHead(Answer):
    """The last row's number and hash. Kept elsewhere, they show later whether the log was cut off or written anew before
    there: `ostiary audit verify --head NUMBER:HASH`. Number 0 is the empty log."""

    number: int
    hash: str


def position_of(cursor: Position | None) -> int | None:
    return None if cursor is None else int(cursor.id)
