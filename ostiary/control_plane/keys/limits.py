"""Limits of one key in place of its plan's: what goes in and out, and all the SQL about it."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from ostiary.control_plane.db import Connection
from ostiary.control_plane.http import Answer, KeyId, Parameters, Request
from ostiary.control_plane.keys.model import Reason
from ostiary.core.limiting import LimitOutOfRange
from ostiary.core.overrides import read_override

# As in plans of the configuration file (core.config.plans).
COUNT_MAX = 10**12
CONCURRENCY_MAX = 1_000_000

Requests = Annotated[int, Field(ge=1, le=COUNT_MAX)]


class _Terms(Request):
    """`mode`: shadow only tells which calls it would have refused. `refused`: whether calls that are refused, by this
    limit or another, take nothing of it or what an admitted one takes."""

    mode: Literal["enforce", "shadow"] | None = None
    refused: Literal["free", "charged"] | None = None


class KeyRate(_Terms):
    """A token bucket: `burst` calls at once, refilled with `requests` in every span."""

    requests: Requests
    per: Literal["second", "minute", "hour", "day"]
    burst: Requests | None = None


class KeyWindow(_Terms):
    """A sliding window: no span of this length ever holds more than `requests` calls."""

    requests: Requests
    per: Literal["second", "minute", "hour", "day"]


class KeyQuota(_Terms):
    """At most `requests` calls in a calendar period, UTC."""

    requests: Requests
    per: Literal["hour", "day", "month"]


class KeyLimits(Request):
    """What holds for a key in place of its plan's, whole: a part that is not given is as the plan has it, whatever stood here
    before. An empty list takes the plan's away. They count this key by itself, whatever its plan counts by. `reason` is
    for the people who will ask."""

    rate: KeyRate | None = None
    limits: Annotated[tuple[KeyWindow, ...], Field(max_length=8)] | None = None
    quotas: (
        Annotated[tuple[KeyQuota, ...], Field(max_length=6, examples=[[{"requests": 100_000, "per": "day"}]])] | None
    ) = None
    concurrency: Annotated[int, Field(ge=1, le=CONCURRENCY_MAX)] | None = None
    concurrency_mode: Literal["enforce", "shadow"] | None = None
    overage: Literal["block", "warn", "charge"] | None = None
    reason: Reason

    @model_validator(mode="after")
    def _as_plans_are(self) -> Self:
        for name, parts in (("limits", self.limits), ("quotas", self.quotas)):
            # One in force and one in shadow may stand beside each other.
            if len({(part.per, part.mode or "enforce") for part in parts or ()}) < len(parts or ()):
                raise PydanticCustomError("twins", f"two of {name} have the same span: both would have to hold")
        if not self.document():
            raise PydanticCustomError("nothing", "give at least one part; to go back to the plan's, DELETE")
        try:
            read_override(self.document())
        except LimitOutOfRange as error:
            raise PydanticCustomError("inexact", "{why}", {"why": str(error)}) from error
        return self

    def document(self) -> dict[str, object]:
        """What is stored, and read by gateways."""
        document: dict[str, object] = self.model_dump(exclude={"reason"}, exclude_none=True)
        if self.rate is not None:
            burst = {"burst": self.rate.burst or self.rate.requests}
            document["rate"] = self.rate.model_dump(exclude_none=True) | burst
        return document


class Removal(Parameters):
    """Why the key goes back to the limits of its plan."""

    reason: Reason


class LimitInForce(Answer):
    requests: int
    per: str
    mode: Literal["enforce", "shadow"] = "enforce"
    refused: Literal["free", "charged"] = "free"


class RateInForce(LimitInForce):
    burst: int


class KeyLimitsInForce(Answer):
    """What holds for a key in place of its plan's: null is as the plan has it. `reason`, `changed_by` and `changed_at` are
    of the last change; null if there was none."""

    key_id: KeyId
    plan: str | None
    rate: RateInForce | None
    limits: tuple[LimitInForce, ...] | None
    quotas: tuple[LimitInForce, ...] | None
    concurrency: int | None
    concurrency_mode: Literal["enforce", "shadow"] | None
    overage: Literal["block", "warn", "charge"] | None
    reason: str | None
    changed_by: str | None
    changed_at: datetime | None


class RecordedLimits(Answer):
    """What the audit log is told of a key's limits; who changed them, it knows itself."""

    rate: RateInForce | None
    limits: tuple[LimitInForce, ...] | None
    quotas: tuple[LimitInForce, ...] | None
    concurrency: int | None
    concurrency_mode: Literal["enforce", "shadow"] | None
    overage: Literal["block", "warn", "charge"] | None
    reason: str | None
    changed_at: datetime | None


async def in_force(connection: Connection, key_id: str) -> KeyLimitsInForce | None:
    row = await connection.fetchrow(
        """
        -- Guarantees the key's limits and the change that made them, of one moment; nothing if there is no such key.
        SELECT k.id, k.plan, k.limits, c.reason, c.changed_by, c.changed_at
        FROM api_keys k LEFT JOIN LATERAL (
            SELECT reason, changed_by, changed_at FROM key_limit_changes WHERE key_id = k.id ORDER BY id DESC LIMIT 1
        ) c ON true
        WHERE k.id = $1
        """,
        key_id,
    )
    if row is None:
        return None
    document = json.loads(row["limits"]) if row["limits"] is not None else {}
    names = ("rate", "limits", "quotas", "concurrency", "concurrency_mode", "overage")
    parts = {name: document.get(name) for name in names}
    last = {name: row[name] for name in ("reason", "changed_by", "changed_at")}
    return KeyLimitsInForce(key_id=row["id"], plan=row["plan"], **parts, **last)


async def put(
    connection: Connection, key_id: str, document: dict[str, object] | None, *, reason: str, changed_by: str
) -> None:
    """None takes them away. Does nothing if there is no such key, or nothing to take away."""
    await connection.execute(
        """
        -- Guarantees that the change and the row that tells of it are one; that of two at once the second sees what the first
        -- left (the row lock); and, by the table's trigger, that gateways hear of it at the commit.
        WITH old AS (SELECT id, limits FROM api_keys WHERE id = $1 FOR UPDATE),
        changed AS (
            UPDATE api_keys k SET limits = $2::jsonb FROM old
            WHERE k.id = old.id AND (old.limits IS NOT NULL OR $2::jsonb IS NOT NULL)
            RETURNING k.id, old.limits AS before
        )
        INSERT INTO key_limit_changes (key_id, changed_by, reason, before, after)
        SELECT id, $3, $4, before, $2::jsonb FROM changed
        """,
        key_id,
        None if document is None else json.dumps(document),
        changed_by,
        reason,
    )
