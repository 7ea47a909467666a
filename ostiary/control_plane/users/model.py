"""Users as they go in and out."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, Field

from ostiary.control_plane.http import Answer, Name, Page, Parameters, Request, Rule, Uuid
from ostiary.control_plane.http.access import PlatformRole
from ostiary.control_plane.users.password_rules import LENGTH_MAX, LENGTH_MIN

# ASCII alone: addresses that look the same would be different users. One rule for whoever is invited and whoever signs in.
Email = Annotated[
    str,
    Field(min_length=3, max_length=254),
    Rule(
        r"^[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9-]{0,62}[A-Za-z0-9])?"
        r"(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]{0,62}[A-Za-z0-9])?)*$",
        "an e-mail address, such as rosa@example.com",
    ),
    AfterValidator(str.lower),
]

NewPassword = Annotated[
    str,
    Field(
        min_length=LENGTH_MIN,
        max_length=LENGTH_MAX,
        description=f"{LENGTH_MIN} to {LENGTH_MAX} characters of any kind, and not one that anyone would try first",
    ),
]
# What is held against a hash: of any length that was ever taken, and no longer, since hashing takes its time.
GivenPassword = Annotated[str, Field(min_length=1, max_length=LENGTH_MAX)]


class User(Answer):
    """`platform_role` is their role over all organizations, null for none."""

    id: Uuid
    email: str
    name: str
    platform_role: PlatformRole | None
    disabled_at: datetime | None
    created_at: datetime


class RecordedUser(Answer):
    """What the audit log is told of a user: no address, since nothing in the log is ever forgotten."""

    name: str
    platform_role: PlatformRole | None
    disabled_at: datetime | None


class UserPage(Page[User]):
    """Users, newest first."""


class UserChanges(Request):
    """What is not given stays. `platform_role` null takes the role away. Who is disabled is signed out at once, and can't
    sign in again until they are enabled."""

    name: Name | None = None
    platform_role: PlatformRole | None = None
    disabled: bool | None = None


class UserPath(Parameters):
    user_id: Uuid
