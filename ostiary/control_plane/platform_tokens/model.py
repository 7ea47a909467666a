"""Platform tokens as they go in and out."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from ostiary.control_plane.http import Answer, Name, Page, Parameters, Request, Uuid
from ostiary.control_plane.http.access import PlatformRole, Role

DAYS_MAX = 366


class NewPlatformToken(Request):
    """Either `platform_role`, or `organization_id` and `role` in it."""

    name: Name
    platform_role: PlatformRole | None = None
    organization_id: Uuid | None = None
    role: Role | None = None
    expires_in_days: Annotated[int, Field(ge=1, le=DAYS_MAX)] = 90

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        platform, organization = self.platform_role is not None, self.organization_id is not None
        if platform == organization or organization != (self.role is not None):
            raise PydanticCustomError("one_kind", "must have platform_role, or organization_id and role")
        return self


class PlatformTokenState(StrEnum):
    ACTIVE = "active"
    EXPIRED = "expired"
    REVOKED = "revoked"


class PlatformToken(Answer):
    """`hint` is the last four characters. `created_by` is a principal. `last_used_at` is to the minute."""

    passing: ClassVar[Any] = {"last_used_at"}

    id: Uuid
    name: str
    hint: str
    platform_role: PlatformRole | None
    organization_id: Uuid | None
    role: Role | None
    state: PlatformTokenState
    created_by: str
    created_at: datetime
    expires_at: datetime
    last_used_at: datetime | None
    revoked_at: datetime | None


class CreatedPlatformToken(PlatformToken):
    """`token` is in this one answer and nowhere else."""

    token: str


class RecordedPlatformToken(Answer):
    """What the audit log is told of a platform token."""

    name: str
    platform_role: PlatformRole | None
    organization_id: Uuid | None
    role: Role | None
    expires_at: datetime
    revoked_at: datetime | None


class PlatformTokenPage(Page[PlatformToken]):
    """Platform tokens, the newest first; also those that are over."""


class PlatformTokenPath(Parameters):
    token_id: Uuid
