"""What must hold of the plans of usage's questions, whatever the time that they take here."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from ostiary.control_plane.db import Connection
from ostiary.control_plane.http import Position
from ostiary.control_plane.usage.calls import page_statement
from ostiary.control_plane.usage.model import CallFilter
from ostiary.control_plane.usage.parts import Granularity, divide
from ostiary.control_plane.usage.store import Arguments, rollups
from tests.support.many_calls import APP, ORGANIZATION, plan


async def check_plans(connection: Connection, now: datetime) -> list[str]:
    """Raises AssertionError with the plan that is not as it must be; returns what was checked."""
    app_id = str(await connection.fetchval(f"SELECT {APP.format(number=7)}"))
    of_app, everyone = CallFilter(app_id=app_id).seen_by(None), CallFilter().seen_by(None)
    told = []

    # A page of the log: one partition of the many, along an index, nothing sorted but what shares a microsecond.
    hour = timedelta(hours=1)
    noon = (now - timedelta(days=1)).replace(hour=12, minute=0, second=0, microsecond=0)
    for name, asked, after, index in (
        ("an app's page", of_app, None, "app_id_occurred_at"),
        ("an app's later page", of_app, Position(noon, "req"), "app_id_occurred_at"),
        ("everyone's page", everyone, None, "occurred_at_idx"),
    ):
        statement, arguments = page_statement(asked, since=noon - hour / 30, until=noon, after=after, limit=101)
        found = await plan(connection, statement, *arguments)
        assert _partitions(found, "usage_events") == {f"{noon:%Y%m%d}"}, found
        assert index in found, found
        assert "Seq Scan" not in found, found
        told.append(f"{name}: partition {noon:%Y%m%d} alone, along {index}")

    # Sums: roll-ups alone, and of these the partitions of the span.
    since = now - timedelta(hours=30)
    for name, asked in (("an app's sum", of_app), ("everyone's sum", everyone)):
        arguments_ = Arguments()
        parts = divide(since, now, kept_from={})
        summed = f"SELECT sum(calls) FROM ({rollups(parts, asked, arguments_)}) AS parts"  # noqa: S608  as in store
        found = await plan(connection, summed, *arguments_.values)
        assert "usage_events" not in found, found
        days = {f"{since + timedelta(days=number):%Y%m%d}" for number in range(3)}
        of = "usage_rollups" if asked is of_app else "usage_rollups_all"
        assert _partitions(found, f"{of}_minute") <= days, found
        assert len(_partitions(found, f"{of}_hour")) <= 2, found
        assert ("usage_rollups_all_" in found) == (asked is everyone), found
        if asked is of_app:
            minutes = [part for part in parts if part.granularity is Granularity.MINUTE]
            assert not minutes or re.search(r"Index.*usage_rollups_minute", found), found
        told.append(f"{name} of 30 hours: {', '.join(part.granularity.name.lower() + 's' for part in parts)}, no calls")

    # What an organization called, in sums and beside a page of its log: its own roll-ups, not everyone's of these hours.
    organization_id = str(await connection.fetchval(f"SELECT {ORGANIZATION.format(number=3)}"))
    parts = divide(noon + hour / 4, noon + hour * 2.75, kept_from={})
    for name, asked, by_caller, own in (
        ("an organization's sum", CallFilter(organization_id=organization_id).seen_by(None), False, True),
        ("a member's sum", CallFilter().seen_by((organization_id,)), False, True),
        ("everyone's overage", everyone, True, False),
    ):
        arguments_ = Arguments()
        of_parts = rollups(parts, asked, arguments_, by_caller=by_caller)
        found = await plan(connection, f"SELECT sum(overage) FROM ({of_parts}) AS parts", *arguments_.values)  # noqa: S608
        read, other = ("organization_id_hour_idx", "timezone_idx")[:: 1 if own else -1]
        assert read in found, found
        assert other not in found, found
        told.append(f"{name} of some hours: along {read}")

    # The failures of some minutes of an app: along its index, whatever the planner thinks of a status behind other columns.
    arguments_ = Arguments()
    failures = CallFilter(app_id=app_id, status="503").seen_by(None)
    parts = divide(noon, noon + hour / 6, coarsest=Granularity.HOUR, kept_from={})
    summed = f"SELECT sum(calls) FROM ({rollups(parts, failures, arguments_)}) AS parts"  # noqa: S608  as in store
    found = await plan(connection, summed, *arguments_.values)
    assert "app_id_minute_key_id" in found, found
    assert "organization_id_minute" not in found, found
    assert "Filter: ((status + 0)" in found, found  # there are too few calls here for what it keeps from happening
    told.append("an app's failures of ten minutes: along app_id_minute")
    return told


def _partitions(found: str, table: str) -> set[str]:
    """Which partitions of a table are read by a plan."""
    return set(re.findall(rf" on {table}_(\d{{6,8}})\b", found))
