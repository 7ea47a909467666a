"""Organizations and apps as they go in and out."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

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


class NewApp(Request):
    """`name` is unique within the organization."""

    organization_id: Uuid
    name: Name
    description: Description = ""


class App(Answer):
    id: Uuid
    organization_id: Uuid
    name: str
    description: str
    created_at: datetime


class RecordedApp(Answer):
    """What the audit log is told of an app."""

    organization_id: Uuid
    name: str
    description: str
    created_at: datetime


class AppPage(Page[App]):
    """Apps, newest first."""


class OrganizationPath(Parameters):
    organization_id: Uuid


class AppPath(Parameters):
    app_id: Uuid


class AppQuery(Paging):
    organization_id: Uuid | None = None
