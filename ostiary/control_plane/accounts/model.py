"""Organizations and apps as they go in and out."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from ostiary.control_plane.http import Answer, Name, Page, Paging, Parameters, Request, Rule, Uuid

Description = Annotated[
    str,
    Field(max_length=2000),
    Rule(
        r"^[^\u0000-\u0009\u000b-\u001f\u007f-\u009f]*$",
        "up to 2000 characters, no control characters but line feeds",
    ),
]


class NewOrganization(Request):
    """`name` is unique among organizations."""

    name: Name


class Organization(Answer):
    id: Uuid
    name: str
    created_at: datetime


class OrganizationChanges(Request):
    """What is not given stays."""

    name: Name | None = None


class RecordedOrganization(Answer):
    """What the audit log is told of an organization."""

    name: str
    created_at: datetime


class OrganizationPage(Page[Organization]):
    """Organizations, newest first."""


# A URI of RFC 3986 in visible ASCII, without a fragment (RFC 6749 §3.1.2). In the clear on the user's own machine alone; a
# private scheme of a native app has a dot (RFC 8252 §7.1), so that it can't be `javascript` or `data`.
_HOST = r"[A-Za-z0-9]([A-Za-z0-9.-]{0,250}[A-Za-z0-9])?"
_REST = r'(:[1-9][0-9]{0,4})?([/?][!"$-~]*)?'
Website = Annotated[
    str,
    Field(max_length=500, examples=["https://app.example.com"]),
    Rule(rf"^https?://{_HOST}{_REST}$", "an address such as https://app.example.com/"),
]
RedirectUri = Annotated[
    str,
    Field(max_length=500, examples=["https://app.example.com/callback"]),
    Rule(
        rf"^(https://{_HOST}|http://(localhost|127\.0\.0\.1|\[::1\])){_REST}$"
        r'|^[a-z][a-z0-9+-]*(\.[a-z0-9+-]+)+:/[!"$-~]*$',
        "https://…, http:// of localhost, or a private scheme with a dot as in com.example.app:/callback; no fragment",
    ),
]
RedirectUris = Annotated[tuple[RedirectUri, ...], Field(max_length=20)]


class Approval(StrEnum):
    """What the platform has decided of an app. Of an app that waits or was rejected test keys alone work, of one that is
    suspended none."""

    PENDING = "pending"
    APPROVED = "approved"
    REJECTED = "rejected"
    SUSPENDED = "suspended"


class NewApp(Request):
    """`name` is unique within the organization. An app of the environment `test` has test keys alone."""

    organization_id: Uuid
    name: Name
    description: Description = ""
    website: Website | None = None
    redirect_uris: RedirectUris = ()
    environment: Literal["live", "test"] = "live"


class App(Answer):
    """An app. `approval_by` is who decided last, null if nobody had to."""

    id: Uuid
    organization_id: Uuid
    name: str
    description: str
    website: str | None
    redirect_uris: tuple[str, ...]
    environment: Literal["live", "test"]
    approval: Approval
    approval_reason: str | None
    approval_by: str | None
    approval_at: datetime | None
    created_at: datetime


class RecordedApp(Answer):
    """What the audit log is told of an app."""

    organization_id: Uuid
    name: str
    description: str
    website: str | None
    redirect_uris: tuple[str, ...]
    environment: str
    approval: Approval
    approval_reason: str | None
    created_at: datetime


class AppPage(Page[App]):
    """Apps, newest first."""


class OrganizationPath(Parameters):
    organization_id: Uuid


class AppPath(Parameters):
    app_id: Uuid


class AppQuery(Paging):
    organization_id: Uuid | None = None
    approval: Approval | None = None
