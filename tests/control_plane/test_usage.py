"""Usage per day, from rollups that the database made of single calls."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from ostiary.control_plane.db import Connection
from tests.control_plane.support import Api

TODAY = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0)


async def _record(connection: Connection, *calls: dict[str, Any]) -> None:
    """Writes finished calls as the shipper does: into usage_events, in the partition of their day."""
    for call in calls:
        moment = call.get("at", TODAY)
        await connection.execute("SELECT usage_ensure_partition($1::date)", moment.astimezone(UTC).date())
        await connection.execute(
            """
            INSERT INTO usage_events (occurred_at, request_id, key_id, app_id, organization_id, environment, route,
                path_template, method, status, latency_us, bytes_in, bytes_out, overage, complete, would_refuse)
            VALUES ($1, $2, $3, $4, $5, 'live', 'clients', '/clients', 'GET', $6, $7, 0, 0, false, true, $8)
            """,
            moment,
            uuid4().hex,
            call.get("key_id"),
            call.get("app_id"),
            call.get("organization_id"),
            call.get("status", 200),
            call.get("latency_us", 1000),
            call.get("would_refuse"),
        )


async def test_each_day_has_its_calls_errors_and_average(api: Api, connection: Connection) -> None:
    """A customer would be billed for other numbers than were metered."""
    app_id = await api.app()
    yesterday = TODAY - timedelta(days=1)
    await _record(
        connection,
        {"app_id": app_id, "latency_us": 1500},
        {"app_id": app_id, "latency_us": 2500, "status": 404},
        {"app_id": app_id, "latency_us": 5000, "status": 503},
        {"app_id": app_id, "latency_us": 7000, "at": yesterday},
    )
    for path in (f"/apps/{app_id}/usage?days=3", f"/usage/daily?app_id={app_id}&days=3"):
        reply = await api.get(path)
        assert reply.document["data"] == [
            {"day": str(TODAY.date() - timedelta(days=2)), "calls": 0, "errors": 0, "avg_latency_ms": None},
            {"day": str(yesterday.date()), "calls": 1, "errors": 0, "avg_latency_ms": 7.0},
            {"day": str(TODAY.date()), "calls": 3, "errors": 2, "avg_latency_ms": 3.0},
        ]
        assert (reply.document["total"], reply.document["next_cursor"]) == (3, None)
    summary = (await api.get(f"/usage/summary?app_id={app_id}&days=3")).document
    assert summary == {
        "first_day": str(TODAY.date() - timedelta(days=2)),
        "last_day": str(TODAY.date()),
        "calls": 4,
        "errors": 2,
        "avg_latency_ms": 4.0,
    }


async def test_only_the_calls_asked_for_are_counted(api: Api, connection: Connection) -> None:
    """One customer would see another's calls."""
    organization_id, other_organization = await api.organization("a"), await api.organization("b")
    mine, other = await api.app(organization_id, "mine"), await api.app(other_organization, "other")
    await _record(
        connection,
        {"app_id": mine, "organization_id": organization_id, "key_id": "ak_live_1"},
        {"app_id": mine, "organization_id": organization_id, "key_id": "ak_live_2"},
        {"app_id": other, "organization_id": other_organization, "key_id": "ak_live_3"},
        {"key_id": "ak_of_a_file"},
    )
    for query, calls in {
        "": 4,
        f"app_id={mine}": 2,
        f"app_id={other}": 1,
        f"organization_id={organization_id}": 2,
        "key_id=ak_live_2": 1,
        "key_id=ak_of_a_file": 1,
        f"app_id={other}&key_id=ak_live_2": 0,
        f"app_id={uuid4()}": 0,
    }.items():
        assert (await api.get(f"/usage/summary?{query}")).document["calls"] == calls, query


async def test_a_day_is_a_day_in_utc(api: Api, connection: Connection) -> None:
    """Calls around midnight would be on the wrong day, differently on every server."""
    midnight = TODAY.replace(hour=0)
    await _record(connection, {"at": midnight}, {"at": midnight - timedelta(microseconds=1)})
    days = (await api.get("/usage/daily?days=2")).document["data"]
    assert [day["calls"] for day in days] == [1, 1]


@pytest.mark.parametrize(
    "query", ["days=0", "days=367", "days=x", "days=-1", "days=1.5", "app_id=x", "key_id=a-b", "day=1"]
)
async def test_a_wrong_question_is_refused_by_field(refusing_api: Api, query: str) -> None:
    """Row 128: it would be answered as if it had been another."""
    reply = await refusing_api.get(f"/usage/daily?{query}")
    assert (reply.status, list(reply.fields)) == (422, [query.partition("=")[0]])


async def test_the_report_on_shadows_has_what_they_would_have_refused(api: Api, connection: Connection) -> None:
    """An operator would put a limit in force that refuses half of the calls."""
    app_id = await api.app()
    calls = [{"app_id": app_id}] * 3 + [{"app_id": app_id, "would_refuse": "standard:minute,minute-by-ip"}]
    await _record(connection, *calls, {"app_id": app_id, "would_refuse": "standard:minute"}, {})
    await _record(connection, {"app_id": app_id, "would_refuse": "standard:minute", "at": TODAY - timedelta(days=9)})
    reply = await api.get(f"/usage/shadow?app_id={app_id}&days=3")
    assert reply.document["data"] == [
        {"route": "clients", "limit": "standard:minute", "calls": 5, "would_refuse": 2},
        {"route": "clients", "limit": "minute-by-ip", "calls": 5, "would_refuse": 1},
    ]
    assert (await api.get(f"/usage/shadow?app_id={uuid4()}")).document["data"] == []


async def test_quota_events_are_those_of_whom_was_asked_for(api: Api, connection: Connection) -> None:
    """One customer would see how much another uses."""
    app_id = await api.app()
    for subject, threshold in (("k:ak_1", 50), ("k:ak_1", 80), (f"a:{app_id}", 100)):
        await connection.execute(
            "INSERT INTO quota_events VALUES ($1, 'standard:day', $2, $3, 1000, $4)",
            subject,
            TODAY + timedelta(days=1),
            threshold,
            TODAY + timedelta(seconds=threshold),
        )
    (event,) = (await api.get(f"/usage/quotas?app_id={app_id}")).document["data"]
    assert (event["subject"], event["threshold"], event["calls_max"]) == (f"a:{app_id}", 100, 1000)
    assert [event["threshold"] for event in (await api.get("/usage/quotas?key_id=ak_1")).document["data"]] == [80, 50]
    assert (await api.get("/usage/quotas")).document["total"] == 3
