"""Keys as they go in and out. A secret is in `CreatedKey` and in no other type."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from ipaddress import ip_network
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, AwareDatetime, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from ostiary.control_plane.http import Answer, Count, KeyId, KeyPaging, Name, Page, Parameters, Request, Rule

# A list goes to every gateway with the key and is looked through on each call: 64 entries are room for any real office,
# and a longer list belongs into a network range.
ENTRIES_MAX = 64
EXPIRY_DAYS_MAX = 3650
# A week is time for a customer's own deployment; a secret that is replaced and works for more than a quarter is not replaced.
GRACE_SECONDS = 7 * 86_400
GRACE_SECONDS_MAX = 90 * 86_400

Scope = Annotated[str, Rule(r"^[a-z0-9_.:*-]{1,64}$", "1 to 64 of a-z 0-9 _ . : * -")]
Origin = Annotated[
    str,
    Field(max_length=300),
    Rule(
        r"^https?://([a-z0-9]([a-z0-9-]{0,62}\.?))+(:[1-9][0-9]{0,4})?$",
        "an origin such as https://app.example.com: scheme, host in lower case, port if not the usual one, no path",
    ),
]
Reason = Annotated[
    str,
    Field(min_length=1, max_length=500),
    Rule(r"^[^\u0000-\u001f\u007f-\u009f]+$", "1 to 500 characters, without control characters"),
]
PlanName = Annotated[str, Field(min_length=1, max_length=64)]


def _network(text: str) -> str:
    try:
        if "%" in text:  # a zone (RFC 4007) means something on one machine only, and Postgres knows none
            raise ValueError
        return str(ip_network(text))
    except ValueError as error:
        raise PydanticCustomError(
            "network",
            "must be an address or a network such as 203.0.113.7 or 203.0.113.0/24 (no bits set beyond the prefix)",
        ) from error


NetworkText = Annotated[str, Field(max_length=64, description="an address or a network"), AfterValidator(_network)]


def _soon_enough(moment: datetime) -> datetime:
    now = datetime.now(UTC)
    if not now < moment <= now + timedelta(days=EXPIRY_DAYS_MAX):
        raise PydanticCustomError("expiry", "must be in the future, and at most ten years ahead")
    return moment.astimezone(UTC)


Expiry = Annotated[
    AwareDatetime,
    AfterValidator(_soon_enough),
    WithJsonSchema({"type": "string", "format": "date-time", "description": "in the future, at most ten years ahead"}),
]


class KeyState(StrEnum):
    ACTIVE = "active"
    ROTATING = "rotating"  # active, and the secret before works too
    EXPIRED = "expired"
    REVOKED = "revoked"


class NewKey(Request):
    """A key of an app. It expires at `expires_at`, or after `expires_in_days`, or never. `allowed_ips` and
    `allowed_origins` restrict from where it may be used; empty lists restrict nothing."""

    name: Name
    environment: Literal["live", "test"] = "test"
    scopes: Annotated[tuple[Scope, ...], Field(max_length=ENTRIES_MAX)] = ()
    plan: PlanName | None = None
    expires_at: Expiry | None = None
    expires_in_days: Annotated[int, Field(ge=1, le=EXPIRY_DAYS_MAX)] | None = None
    allowed_ips: Annotated[tuple[NetworkText, ...], Field(max_length=ENTRIES_MAX)] = ()
    allowed_origins: Annotated[tuple[Origin, ...], Field(max_length=ENTRIES_MAX)] = ()

    @model_validator(mode="after")
    def _one_expiry(self) -> Self:
        if self.expires_at is not None and self.expires_in_days is not None:
            raise PydanticCustomError("expiry", "give expires_at or expires_in_days, not both")
        return self


class Generation(Answer):
    """One secret of a key, without itself: `secret_hint` is its last four characters. It ends at `ends_at`; null is when the
    key does. What is said of its last use is up to some seconds late, and null if there was none, or if it is not kept."""

    number: int
    secret_hint: str
    created_at: datetime
    ends_at: datetime | None
    last_used_at: datetime | None
    last_used_ip: str | None
    last_used_user_agent: str | None


class Key(Answer):
    """A key without its secret. `secret_hint` is the last four characters of its present secret, to tell keys apart.
    `generations` are that secret and the one before, if there was one, also when it has ended."""

    passing: ClassVar[Any] = {
        "state": True,  # what time alone makes of it; a revocation has its own fields
        "last_used_at": True,
        "generations": {"__all__": {"last_used_at", "last_used_ip", "last_used_user_agent"}},
    }

    key_id: KeyId
    app_id: str
    organization_id: str
    name: str
    environment: Literal["live", "test"]
    state: KeyState
    secret_hint: str
    plan: str | None
    scopes: tuple[str, ...]
    allowed_ips: tuple[str, ...]
    allowed_origins: tuple[str, ...]
    expires_at: datetime | None
    revoked_at: datetime | None
    revoked_reason: str | None
    created_at: datetime
    last_used_at: datetime | None
    generations: tuple[Generation, ...]

    @property
    def id(self) -> str:
        return self.key_id


class CreatedKey(Key):
    """The one answer that has the secret. Keep it now: it is nowhere else."""

    secret: Annotated[str, Field(repr=False, description="shown in this answer only")]


class RecordedGeneration(Answer):
    """What the audit log is told of a secret: not one of its characters, and not of its uses, which nobody changes."""

    number: int
    created_at: datetime
    ends_at: datetime | None


class RecordedKey(Answer):
    """What the audit log is told of a key."""

    key_id: KeyId
    app_id: str
    name: str
    environment: Literal["live", "test"]
    state: KeyState
    plan: str | None
    scopes: tuple[str, ...]
    allowed_ips: tuple[str, ...]
    allowed_origins: tuple[str, ...]
    expires_at: datetime | None
    revoked_at: datetime | None
    revoked_reason: str | None
    created_at: datetime
    generations: tuple[RecordedGeneration, ...]


def _without_default(schema: dict[str, Any]) -> None:
    del schema["default"]


def _left_out() -> Any:
    """A field that may be left out, and may not be null: its default is no value, and no one is to read it."""
    return Field(default=None, json_schema_extra=_without_default)


class KeyChanges(Request):
    """What is to be another from now on; what is not given stays. A list replaces the whole list. `plan` null is no plan."""

    name: Name = _left_out()
    scopes: Annotated[tuple[Scope, ...], Field(max_length=ENTRIES_MAX)] = _left_out()
    plan: PlanName | None = _left_out()
    allowed_ips: Annotated[tuple[NetworkText, ...], Field(max_length=ENTRIES_MAX)] = _left_out()
    allowed_origins: Annotated[tuple[Origin, ...], Field(max_length=ENTRIES_MAX)] = _left_out()

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.model_fields_set:
            raise PydanticCustomError("nothing", "give at least one field to change")
        return self

    def given(self) -> dict[str, Any]:
        return self.model_dump(exclude_unset=True)


class Rotation(Request):
    """For how long the secret before works besides the new one, in seconds; it never outlives the key. 0 ends it at once."""

    grace_seconds: Annotated[int, Field(ge=0, le=GRACE_SECONDS_MAX)] = GRACE_SECONDS


class KeyPage(Page[Key]):
    """Keys, newest first."""


class Revocation(Request):
    """Why the key is revoked: for the people who will ask."""

    reason: Reason


class KeyPath(Parameters):
    key_id: KeyId


class GenerationPath(Parameters):
    key_id: KeyId
    number: Annotated[Count, Field(ge=1)]


class KeyQuery(KeyPaging):
    """Which keys of an app."""
