"""All SQL about quotas in force: whose keys there are, and what they called by the roll-ups."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from asyncpg import Record

from ostiary.control_plane.db import Connection
from ostiary.control_plane.usage.model import QuotasQuery
from ostiary.core.model import Environment, LimitOverride, Period
from ostiary.core.overrides import read_override


@dataclass(frozen=True, slots=True)
class HeldKey:
    """A key in force; `limits` are its own, in place of its plan's."""

    key_id: str
    app_id: str
    organization_id: str
    environment: Environment
    plan: str | None
    limits: LimitOverride | None


@dataclass(frozen=True, slots=True)
class Called:
    """Calls since the beginning of each period, of keys of one app with one plan on one route. `key_id` is None where those
    of several keys are together; `own_limits` says that they are held to limits of their own, and take nothing of their
    plan."""

    key_id: str | None
    app_id: str
    organization_id: str
    environment: Environment
    plan: str | None
    own_limits: bool
    route: str | None
    calls: Mapping[Period, int]


async def keys_in_force(connection: Connection, asked: QuotasQuery, *, limit: int) -> Sequence[HeldKey]:
    """Up to `limit` keys of whom was asked for, as far as that may be seen."""
    rows = await connection.fetch(
        """
        -- Guarantees the keys that work now, or will when their app is approved: not revoked, not expired; and none of an
        -- organization that may not be seen.
        SELECT k.id AS key_id, k.app_id, a.organization_id, k.environment, k.plan, k.limits
        FROM api_keys k JOIN apps a ON a.id = k.app_id
        WHERE k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())
            AND ($1::text IS NULL OR k.id = $1) AND ($2::uuid IS NULL OR k.app_id = $2)
            AND ($3::uuid IS NULL OR a.organization_id = $3) AND ($4::uuid[] IS NULL OR a.organization_id = ANY($4))
        ORDER BY k.id LIMIT $5
        """,
        asked.key_id,
        asked.app_id,
        asked.organization_id,
        None if asked.organizations is None else list(asked.organizations),
        limit,
    )
    return [
        HeldKey(
            key_id=row["key_id"],
            app_id=str(row["app_id"]),
            organization_id=str(row["organization_id"]),
            environment=Environment(row["environment"]),
            plan=row["plan"],
            limits=None if row["limits"] is None else read_override(json.loads(row["limits"])),
        )
        for row in rows
    ]


async def called_by_keys(
    connection: Connection, keys: Sequence[HeldKey], begins: Mapping[Period, datetime]
) -> Sequence[Called]:
    rows = await connection.fetch(
        """
        -- Guarantees, for each of these keys and each route, every metered call since the beginning of each period once, but
        -- for those that were refused for want of room. Every period begins with an hour, so roll-ups by hour have all of it;
        -- they are read along the index of the app.
        SELECT r.key_id, r.app_id, a.organization_id, k.environment, k.plan, k.limits IS NOT NULL AS own_limits,
            r.route,
            coalesce(sum(r.calls) FILTER (WHERE r.hour >= $3), 0)::bigint AS hour,
            coalesce(sum(r.calls) FILTER (WHERE r.hour >= $4), 0)::bigint AS day,
            coalesce(sum(r.calls) FILTER (WHERE r.hour >= $5), 0)::bigint AS month
        FROM usage_rollups_hour r JOIN api_keys k ON k.id = r.key_id JOIN apps a ON a.id = k.app_id
        WHERE r.app_id = ANY($1::uuid[]) AND r.key_id = ANY($2) AND r.hour >= $5 AND r.status <> 429
        GROUP BY 1, 2, 3, 4, 5, 6, 7
        """,
        sorted({key.app_id for key in keys}),
        [key.key_id for key in keys],
        *(begins[period] for period in (Period.HOUR, Period.DAY, Period.MONTH)),
    )
    return [_called(row) for row in rows]


async def called_together(
    connection: Connection, apps: Sequence[str], organizations: Sequence[str], begins: Mapping[Period, datetime]
) -> Sequence[Called]:
    """Of all keys of these apps and organizations, also of those that are revoked: what they called still counts."""
    rows = await connection.fetch(
        """
        -- Guarantees, for each plan of each of these apps and each route, every metered call as above.
        SELECT NULL AS key_id, k.app_id, a.organization_id, k.environment, k.plan, k.limits IS NOT NULL AS own_limits,
            r.route,
            coalesce(sum(r.calls) FILTER (WHERE r.hour >= $3), 0)::bigint AS hour,
            coalesce(sum(r.calls) FILTER (WHERE r.hour >= $4), 0)::bigint AS day,
            coalesce(sum(r.calls) FILTER (WHERE r.hour >= $5), 0)::bigint AS month
        FROM usage_rollups_hour r JOIN api_keys k ON k.id = r.key_id JOIN apps a ON a.id = k.app_id
        WHERE r.app_id = ANY(ARRAY(
                SELECT id FROM apps WHERE id = ANY($1::uuid[]) OR organization_id = ANY($2::uuid[])
            )) AND r.hour >= $5 AND r.status <> 429
        GROUP BY 1, 2, 3, 4, 5, 6, 7
        """,
        list(apps),
        list(organizations),
        *(begins[period] for period in (Period.HOUR, Period.DAY, Period.MONTH)),
    )
    return [_called(row) for row in rows]


def _called(row: Record) -> Called:
    return Called(
        key_id=row["key_id"],
        app_id=str(row["app_id"]),
        organization_id=str(row["organization_id"]),
        environment=Environment(row["environment"]),
        plan=row["plan"],
        own_limits=row["own_limits"],
        route=row["route"],
        calls={period: row[period.value] for period in Period},
    )
