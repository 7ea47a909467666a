"""What goes in and out of the operations on published routes."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from ostiary.control_plane.http import Answer, Count, NumberPaging, Page, Parameters, Request, Rule
from ostiary.core.published import DOCUMENT_BYTES_MAX

NUMBER_MAX = 2**53 - 1
CHANGES_MAX = 1000

# Escaped as JSON, a document of English and code is some percent longer; one of other scripts, by escapes, up to twice.
BODY_BYTES_MAX = 2 * DOCUMENT_BYTES_MAX

Document = Annotated[
    str,
    Field(
        min_length=1,
        max_length=DOCUMENT_BYTES_MAX,
        description="YAML: `version: 1`, and `plans`, `upstreams`, `routes`, `issuers` and `certificates` as in the "
        "configuration file. What stands in `${NAME}` is put in by each gateway.",
    ),
]
Note = Annotated[
    str,
    Field(min_length=1, max_length=500),
    Rule(r"^[^\u0000-\u001f\u007f-\u009f\u2028\u2029]*$", "1 to 500 characters without control characters"),
]
Number = Annotated[int, Field(ge=1, le=NUMBER_MAX)]
Base = Annotated[
    int,
    Field(
        ge=0, le=NUMBER_MAX, description="the version in force that this was made from, 0 for none; else 409 `conflict`"
    ),
]


class NewRouteVersion(Request):
    """A document to be in force from now on, in place of version `base`."""

    document: Document
    base: Base
    note: Note | None = None


class ProposedRoutes(Request):
    """What to compare with the version in force: a document, or the version `number`."""

    document: Document | None = None
    number: Number | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.document is None) == (self.number is None):
            raise PydanticCustomError("proposal", "give document or number, and not both")
        return self


class RouteRollback(Request):
    """The version whose document is to be in force again, in place of version `base`."""

    number: Number
    base: Base
    note: Note | None = None


class RouteChange(Answer):
    """One difference. `subject` is what changed (`route clients`), `field` which part of it; `meaning` is what callers or the
    operator notice. `keys_gaining` and `keys_losing` count the keys in force that may call by more, or fewer, methods from
    then on; null where access does not change, or is not counted."""

    kind: str
    subject: str
    field: str | None
    before: str | None
    after: str | None
    meaning: str | None
    keys_gaining: int | None = None
    keys_losing: int | None = None


class RouteDiff(Answer):
    """What a document would change of the version in force, which is `base` (0: there is none). `changes` are the first of
    `changes_total`; none means that both do the same. `warnings` are mistakes that the document may have."""

    base: int
    changes: tuple[RouteChange, ...]
    changes_total: int
    warnings: tuple[str, ...]


class RouteVersionSummary(Answer):
    """A version without its document. `rolled_back_to` is the version whose document it repeats, if it does."""

    number: int
    sha256: str
    routes: int
    author: str
    note: str | None
    rolled_back_to: int | None
    created_at: datetime

    @property
    def id(self) -> str:
        return str(self.number)


class RouteVersion(RouteVersionSummary):
    """A version. `document` is the text as it was applied, `content` the same as JSON."""

    document: str
    content: dict[str, Any]


class RecordedRouteVersion(Answer):
    """What the audit log is told of a version. Its document is never changed, and known by its SHA-256."""

    number: int
    sha256: str
    routes: int
    note: str | None
    rolled_back_to: int | None


class AppliedRoutes(RouteVersionSummary):
    """The version that was made, and what it changed of the one before."""

    changes: tuple[RouteChange, ...]
    changes_total: int
    warnings: tuple[str, ...]


class RouteVersionPage(Page[RouteVersionSummary]):
    """Versions, newest first."""


class NodeState(StrEnum):
    """CURRENT runs the version in force in all its workers. BEHIND does not yet. REFUSED can't take it, and says why.
    SILENT has not been heard of for a while."""

    CURRENT = "current"
    BEHIND = "behind"
    REFUSED = "refused"
    SILENT = "silent"


class GatewayNode(Answer):
    """A gateway that follows published routes. `version` is the one it runs, since `since`; null is none. It has refused
    `refused_version` for `refused_problems`."""

    node: str
    host: str
    ostiary: str
    state: NodeState
    version: int | None
    since: datetime
    refused_version: int | None
    refused_problems: tuple[str, ...]
    seen_at: datetime


class RouteStatus(Answer):
    """`current` is the version in force, null before the first. `nodes` are the gateways that follow, at most a thousand."""

    current: RouteVersionSummary | None
    nodes: tuple[GatewayNode, ...]


class VersionPath(Parameters):
    number: Annotated[Count, Field(ge=1)]


class HistoryQuery(NumberPaging):
    """Which versions."""
