"""Usage per day, from rollups that the database made of single calls."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from ostiary.control_plane.db import Connection
from ostiary.control_plane.http import Answer, export
from ostiary.control_plane.http.edge import Edge
from ostiary.control_plane.usage import store
from ostiary.control_plane.usage.model import CallFilter, KeyOverage
from ostiary.control_plane.usage.parts import Granularity, divide
from tests.control_plane.support import OPERATOR_TOKEN, Api

TODAY = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0)


def _text(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


async def _record(connection: Connection, *calls: dict[str, Any]) -> None:
    """Writes finished calls as the shipper does: into usage_events, in the partition of their day."""
    for call in calls:
        moment = call.get("at", TODAY)
        await connection.execute("SELECT usage_ensure_partition($1::date)", moment.astimezone(UTC).date())
        await connection.execute(
            """
            INSERT INTO usage_events (occurred_at, request_id, key_id, app_id, organization_id, environment, route,
                path_template, method, status, latency_us, bytes_in, bytes_out, overage, complete, would_refuse)
            VALUES ($1, $2, $3, $4, $5, $8, $9, '/clients', $10, $6, $7, 10, 100, $11, true, $12)
            """,
            moment,
            call.get("request_id", uuid4().hex),
            call.get("key_id"),
            call.get("app_id"),
            call.get("organization_id"),
            call.get("status", 200),
            call.get("latency_us", 1000),
            call.get("environment", "live"),
            call.get("route", "clients"),
            call.get("method", "GET"),
            call.get("overage", False),
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
        shown = ("day", "calls", "errors", "avg_latency_ms")
        assert [{name: day[name] for name in shown} for day in reply.document["data"]] == [
            {"day": str(TODAY.date() - timedelta(days=2)), "calls": 0, "errors": 0, "avg_latency_ms": None},
            {"day": str(yesterday.date()), "calls": 1, "errors": 0, "avg_latency_ms": 7.0},
            {"day": str(TODAY.date()), "calls": 3, "errors": 2, "avg_latency_ms": 3.0},
        ]
        assert (reply.document["total"], reply.document["next_cursor"]) == (3, None)
    summary = (await api.get(f"/usage/summary?app_id={app_id}&days=3")).document
    midnight = TODAY.replace(hour=0)
    assert summary == {
        "since": _text(midnight - timedelta(days=2)),
        "until": _text(midnight + timedelta(days=1)),
        "calls": 4,
        "errors": 2,
        "incomplete": 0,
        "overage": 0,
        "bytes_in": 40,
        "bytes_out": 400,
        "avg_latency_ms": 4.0,
        "avg_upstream_ms": 0.0,
        "p50_latency_ms": pytest.approx(2.5, rel=0.091),
        "p95_latency_ms": pytest.approx(7.0, rel=0.091),
        "p99_latency_ms": pytest.approx(7.0, rel=0.091),
        "intervals": None,
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
    ("query", "calls"),
    [
        ("route=clients", 2),
        ("route=orders", 2),
        ("environment=test", 1),
        ("status=404", 1),
        ("status=4xx", 2),
        ("status=5xx&route=orders", 1),
        ("status=429&route=clients", 1),
        ("status=2xx&environment=live", 0),
    ],
)
@pytest.mark.parametrize("path", ["/usage/summary", "/usage/logs"])
async def test_filters_hold_together_in_sums_and_in_the_log(
    api: Api, connection: Connection, path: str, query: str, calls: int
) -> None:
    """An operator who asks for the failures of one route would get those of another."""
    await _record(
        connection,
        {"status": 404},
        {"status": 429},
        {"status": 503, "route": "orders"},
        {"status": 200, "route": "orders", "environment": "test"},
    )
    midnight = TODAY.replace(hour=0)
    for span in ("", f"&since={_text(midnight)}&until={_text(midnight + timedelta(hours=13, minutes=17))}"):
        if path == "/usage/logs" and not span:
            continue
        document = (await api.get(f"{path}?{query}{span}")).document
        assert document.get("calls", document.get("total")) == calls, span
        if path == "/usage/logs":
            assert len(document["data"]) == calls


async def test_a_span_is_to_the_minute_whatever_its_borders(api: Api, connection: Connection) -> None:
    """A question about twenty minutes of an incident would be answered with those of the whole day."""
    base = TODAY.replace(hour=0) - timedelta(days=3)
    times = [base + timedelta(minutes=minutes) for minutes in (0, 36, 37, 59, 60, 1439, 1440, 2000, 2881)]
    await _record(connection, *({"at": moment} for moment in times))
    for first, last in ((0, 2882), (37, 60), (36, 37), (59, 1440), (37, 2881), (1, 36), (60, 1440), (0, 1440)):
        since, until = base + timedelta(minutes=first), base + timedelta(minutes=last)
        expected = sum(since <= moment < until for moment in times)
        query = f"since={_text(since)}&until={_text(until)}"
        document = (await api.get(f"/usage/summary?{query}")).document
        assert (document["calls"], document["since"], document["until"]) == (expected, _text(since), _text(until)), (
            query
        )
        assert (await api.get(f"/usage/logs?{query}")).document["total"] == expected, query
        by_hour = (await api.get(f"/usage/summary?{query}&interval=hour")).document
        assert sum(interval["calls"] for interval in by_hour["intervals"]) == by_hour["calls"] >= expected


async def test_intervals_are_all_there_and_bounded(api: Api, connection: Connection) -> None:
    """A chart would join the points around an outage; or a browser would get half a million of them."""
    base = TODAY.replace(hour=9)
    await _record(connection, {"at": base}, {"at": base + timedelta(minutes=3, seconds=59), "status": 500})
    query = f"since={_text(base)}&until={_text(base + timedelta(minutes=5))}&interval=minute"
    intervals = (await api.get(f"/usage/summary?{query}")).document["intervals"]
    assert [interval["start"] for interval in intervals] == [_text(base + timedelta(minutes=m)) for m in range(5)]
    assert [(interval["calls"], interval["errors"]) for interval in intervals] == [
        (1, 0),
        (0, 0),
        (0, 0),
        (1, 1),
        (0, 0),
    ]
    reply = await api.get("/usage/summary?days=2&interval=minute")
    assert (reply.status, list(reply.fields)) == (422, ["interval"])


async def test_endpoints_and_errors_name_what_is_called_and_what_fails(api: Api, connection: Connection) -> None:
    """An operator at night would have to look through the log for what fails most."""
    await _record(
        connection,
        *[{"status": 200, "latency_us": 2000}] * 5,
        *[{"status": 503, "latency_us": 90_000}] * 3,
        {"status": 404},
        {"method": "POST", "status": 429},
        {"route": None, "status": 404},
    )
    endpoints = (await api.get("/usage/endpoints?days=1")).document
    assert endpoints["total"] == 3
    assert [(row["route"], row["method"], row["calls"], row["errors"]) for row in endpoints["data"]] == [
        ("clients", "GET", 9, 4),
        ("clients", "POST", 1, 1),
        (None, "GET", 1, 1),
    ]
    assert endpoints["data"][0]["p95_latency_ms"] == pytest.approx(90, rel=0.091)
    errors = (await api.get("/usage/errors?days=1")).document
    assert errors["data"][0] == {
        "route": "clients",
        "method": "GET",
        "status": 503,
        "calls": 3,
        "share": pytest.approx(1 / 3, abs=1e-5),
    }
    assert errors["total"] == len(errors["data"]) == 4
    assert (await api.get("/usage/errors?days=1&status=4xx&route=clients")).document["total"] == 2
    assert (await api.get("/usage/errors?days=1&limit=1")).document["total"] == 4


async def test_overage_is_told_by_key_in_pages(api: Api, connection: Connection) -> None:
    """A bill would leave out the customers of the second page."""
    app_id = await api.app()
    keys = [f"ak_live_{number}" for number in range(5)]
    await _record(
        connection,
        *({"key_id": key, "app_id": app_id, "overage": over} for key in keys for over in (True, True, False)),
        {"key_id": "ak_live_no_overage"},
    )
    found, cursor = [], ""
    while cursor is not None:
        page = (await api.get(f"/usage/overage?limit=2{cursor and '&cursor='}{cursor}")).document
        assert page["total"] == 5
        found += page["data"]
        cursor = page["next_cursor"]
    assert [row["key_id"] for row in found] == keys
    assert {(row["app_id"], row["environment"], row["calls"], row["overage"]) for row in found} == {
        (app_id, "live", 3, 2)
    }


async def test_the_log_is_read_in_pages_none_twice_and_none_left_out(api: Api, connection: Connection) -> None:
    """A customer's call would be missing from its log: the very one that it complains about. Many calls of one microsecond,
    and calls of one request id, are where a cursor could lose one."""
    base = TODAY - timedelta(days=2)
    calls = [{"at": base + timedelta(minutes=number // 4), "request_id": f"req-{number:03}"} for number in range(60)]
    calls += [{"at": base + timedelta(hours=40), "request_id": "same"}] * 5
    await _record(connection, *calls)
    for limit, key in ((7, None), (3, None), (7, "ak_live_other")):
        span = f"since={_text(base)}&until={_text(base + timedelta(days=3))}"
        seen, cursor = [], ""
        while cursor is not None:
            page = (
                await api.get(f"/usage/logs?{span}&limit={limit}{f'&key_id={key}' if key else ''}{cursor}")
            ).document
            seen += [row["request_id"] for row in page["data"]]
            cursor = page["next_cursor"] and f"&cursor={page['next_cursor']}"
            assert page["total"] == (0 if key else 65)
        assert seen == ([] if key else ["same"] * 5 + [f"req-{number:03}" for number in reversed(range(60))])


async def test_a_key_is_found_in_its_app_and_one_of_a_file_anywhere(api: Api, connection: Connection) -> None:
    """The log of a key would be that of nobody."""
    app_id = await api.app()
    key_id = (await api.key(app_id))["key_id"]
    await _record(
        connection, {"key_id": key_id, "app_id": app_id, "at": TODAY}, {"key_id": "ak_of_a_file", "at": TODAY}
    )
    span = f"since={_text(TODAY)}&until={_text(TODAY + timedelta(minutes=1))}"
    for key in (key_id, "ak_of_a_file"):
        [row] = (await api.get(f"/usage/logs?key_id={key}&{span}")).document["data"]
        assert (row["key_id"], row["latency_ms"], row["occurred_at"]) == (key, 1.0, _text(TODAY))


async def test_what_retention_has_dropped_widens_the_span_or_is_refused(api: Api, connection: Connection) -> None:
    """A sum that silently leaves out what is no longer kept is a wrong sum."""
    day = TODAY.replace(hour=0) - timedelta(days=5)
    await _record(connection, {"at": day + timedelta(hours=1, minutes=30)}, {"at": day + timedelta(hours=9)})
    since, until = _text(day + timedelta(hours=1, minutes=40)), _text(day + timedelta(days=1))
    for kind, calls, begins in (("minutes", 2, day + timedelta(hours=1)), ("hours", 2, day)):
        assert (await api.get(f"/usage/summary?since={since}&until={until}")).document["calls"] in (1, calls)
        await connection.execute("INSERT INTO usage_retention VALUES ($1, $2)", kind, TODAY.date())
        document = (await api.get(f"/usage/summary?since={since}&until={until}")).document
        assert (document["calls"], document["since"]) == (calls, _text(begins))
    for question in ("summary?status=404&", "errors?", "summary?interval=hour&"):
        reply = await api.get(f"/usage/{question}since={since}&until={until}")
        assert reply.fields == {"since": f"hours are kept from {TODAY.date()} on; ask for a later time, or for days"}


async def test_csv_is_the_whole_list_and_no_cell_is_a_formula(api: Api, connection: Connection) -> None:
    """Row 129: a caller puts `=HYPERLINK(...)` into its user agent, and an operator opens the export in a spreadsheet."""
    await _record(connection, *({"request_id": f"req-{number:04}", "at": TODAY} for number in range(1203)))
    evil = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", 'a "quote", and\na line', "\uff1d1"]
    for number, agent in enumerate(evil):
        await connection.execute(
            "UPDATE usage_events SET user_agent = $1 WHERE request_id = $2", agent, f"req-{number:04}"
        )
    span = f"since={_text(TODAY)}&until={_text(TODAY + timedelta(minutes=1))}"
    reply = await api.get(f"/usage/logs?{span}&limit=5&format=csv")
    assert reply.headers["Content-Type"] == "text/csv; charset=utf-8; header=present"
    assert reply.headers["Content-Disposition"] == 'attachment; filename="usageLogs.csv"'
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    rows = list(csv.DictReader(io.StringIO(reply.text, newline="")))
    assert [row["request_id"] for row in rows] == [f"req-{number:04}" for number in reversed(range(1203))]
    agents = [row["user_agent"] for row in reversed(rows[-len(evil) :])]
    assert agents == ["'=1+1", "'+1", "'-1", "'@SUM(A1)", "'\t=1", 'a "quote", and\na line', "'\uff1d1"]
    assert (rows[0]["overage"], rows[0]["latency_ms"], rows[0]["occurred_at"]) == ("false", "1.0", _text(TODAY))
    daily = await api.get("/usage/daily?days=2&format=csv")
    assert daily.text.splitlines()[0].startswith("day,calls,errors,")
    assert len(daily.text.splitlines()) == 3
    for name in ("endpoints", "errors", "overage"):
        assert (await api.get(f"/usage/{name}?format=csv&limit=1")).status == 200


async def test_an_export_without_end_is_refused_before_it_begins(api: Api, connection: Connection) -> None:
    """A wrong date would stream a whole year, for hours, to somebody who wanted a day."""
    await _record(connection, {"at": TODAY})
    await connection.execute("UPDATE usage_rollups_all_minute SET calls = 1000001")
    span = f"since={_text(TODAY)}&until={_text(TODAY + timedelta(minutes=1))}"
    reply = await api.get(f"/usage/logs?{span}&format=csv")
    assert reply.fields == {"format": "these are 1000001 rows, and at most 1000000 go into one file"}


async def test_an_export_that_breaks_off_does_not_look_whole(connection: Connection) -> None:
    """A script would bill from the first half of the calls."""
    async with TestClient(TestServer(export_app(connection))) as client:

        async def read() -> str:
            async with client.get("/", headers={"Authorization": f"Bearer {OPERATOR_TOKEN}"}) as answer:
                assert answer.status == 200
                return await answer.text()

        with pytest.raises((aiohttp.ClientPayloadError, aiohttp.ClientConnectionError)):
            await read()


def export_app(connection: Connection) -> web.Application:
    """A list of two pages, of which the second can't be had."""

    async def pages() -> AsyncIterator[Sequence[Answer]]:
        yield [KeyOverage(key_id="ak", app_id=None, organization_id=None, environment=None, calls=1, overage=1)]
        await connection.fetchval("SELECT 1 / 0")

    async def handle(request: web.Request) -> web.StreamResponse:
        return await export.stream(request, name="list", columns=("key_id", "calls"), pages=pages())

    app = web.Application(middlewares=[Edge(operator_token=OPERATOR_TOKEN).middleware()])
    app.router.add_get("/", handle)
    return app


async def test_an_export_that_is_refused_is_a_problem_and_no_file(refusing_api: Api) -> None:
    """A script would take a refusal for the data."""
    reply = await refusing_api.get("/usage/logs?format=csv&since=2026-01-02T00:00:00Z&until=2026-01-01T00:00:00Z")
    assert (reply.status, reply.fields) == (422, {"since": "must be before until"})


@pytest.mark.parametrize(
    "query",
    [
        *("days=0", "days=367", "days=x", "days=-1", "days=1.5", "app_id=x", "key_id=a-b", "day=1", "status=6xx"),
        *("status=4", "since=yesterday", "since=2026-01-01", "since=2026-01-01T00:00:00", "until=2026-01-01T00:00:00Z"),
        *("since=9999-01-01T00:00:00Z", "since=0001-01-01T00:00:00%2B14:00", "route=a%20b", "environment=prod"),
    ],
)
async def test_a_wrong_question_is_refused_by_field(refusing_api: Api, query: str) -> None:
    """Row 128: it would be answered as if it had been another."""
    reply = await refusing_api.get(f"/usage/daily?{query}")
    field = "since" if query.startswith("until") else query.partition("=")[0]
    assert (reply.status, list(reply.fields)) == (422, [field])


async def test_the_report_on_shadows_has_what_they_would_have_refused(api: Api, connection: Connection) -> None:
    """An operator would put a limit in force that refuses half of the calls."""
    app_id = await api.app()
    calls = [{"app_id": app_id}] * 3 + [{"app_id": app_id, "would_refuse": "standard:minute,minute-by-ip"}]
    await _record(connection, *calls, {"app_id": app_id, "would_refuse": "standard:minute"}, {})
    await _record(connection, {"app_id": app_id, "would_refuse": "standard:minute", "at": TODAY - timedelta(days=9)})
    reply = await api.get(f"/usage/shadow?app_id={app_id}&days=3")
    assert reply.document["data"] == [
        {"route": "clients", "key_id": None, "limit": "standard:minute", "calls": 5, "would_refuse": 2},
        {"route": "clients", "key_id": None, "limit": "minute-by-ip", "calls": 5, "would_refuse": 1},
    ]
    assert reply.document["total"] == 2
    assert (await api.get(f"/usage/shadow?app_id={uuid4()}")).document["data"] == []
    text = (await api.get(f"/usage/shadow?app_id={app_id}&days=3&format=csv")).text
    assert text.splitlines() == [
        "route,key_id,limit,calls,would_refuse",
        "clients,,standard:minute,5,2",
        "clients,,minute-by-ip,5,1",
    ]


async def test_the_report_on_shadows_says_whom_they_would_hit(api: Api, connection: Connection) -> None:
    """An operator would put a limit in force, and learn from the complaints that it was one customer's alone."""
    app_id = await api.app()
    one = {"app_id": app_id, "key_id": "ak_live_1"}
    await _record(
        connection, one, {**one, "would_refuse": "standard:minute"}, {"app_id": app_id, "key_id": "ak_live_2"}
    )
    reply = await api.get(f"/usage/shadow?app_id={app_id}&days=3&by=key")
    assert reply.document["data"] == [
        {"route": "clients", "key_id": "ak_live_1", "limit": "standard:minute", "calls": 2, "would_refuse": 1}
    ]


async def test_the_log_says_which_secret_was_used_and_which_limits_would_have_refused(
    api: Api, connection: Connection
) -> None:
    """After a leak nobody could tell whether a call came with the old secret or the new one."""
    await _record(connection, {"would_refuse": "standard:minute,minute-by-ip", "request_id": "req-a"}, {})
    await connection.execute("UPDATE usage_events SET key_generation = 2 WHERE request_id = 'req-a'")
    span = f"since={_text(TODAY)}&until={_text(TODAY + timedelta(minutes=1))}"  # it may still be morning
    data = (await api.get(f"/usage/logs?{span}")).document["data"]
    told = {(row["key_generation"], tuple(row["would_refuse"])) for row in data}
    assert told == {(2, ("standard:minute", "minute-by-ip")), (None, ())}
    header, *lines = (await api.get(f"/usage/logs?{span}&format=csv")).text.splitlines()
    assert {"key_generation", "would_refuse"} <= set(header.split(","))
    assert sum('"standard:minute,minute-by-ip"' in line for line in lines) == 1


async def test_the_report_on_shadows_is_of_the_calls_and_the_time_asked_for(api: Api, connection: Connection) -> None:
    """A share of all calls would be told that is of some of them, or of another hour."""
    app_id = await api.app()
    refused: dict[str, Any] = {"app_id": app_id, "key_id": "ak_live_1", "would_refuse": "key:minute"}
    other: dict[str, Any] = {"app_id": app_id, "environment": "test", "route": "orders", "status": 404}
    await _record(connection, refused, {**refused, "would_refuse": None}, {**refused, **other}, other)
    await _record(connection, {**refused, "at": TODAY - timedelta(hours=1)})
    spans = {
        "": [("clients", 3, 2), ("orders", 2, 1)],
        "&days=1": [("clients", 3, 2), ("orders", 2, 1)],
        f"&since={_text(TODAY)}&until={_text(TODAY + timedelta(minutes=1))}": [("clients", 2, 1), ("orders", 2, 1)],
        f"&since={_text(TODAY - timedelta(hours=1))}&until={_text(TODAY)}": [("clients", 1, 1)],
        "&environment=test": [("orders", 2, 1)],
        "&route=clients": [("clients", 3, 2)],
        "&key_id=ak_live_1": [("clients", 3, 2), ("orders", 1, 1)],
        "&status=404": [("orders", 2, 1)],
        "&status=2xx": [("clients", 3, 2)],
    }
    for query, expected in spans.items():
        data = (await api.get(f"/usage/shadow?app_id={app_id}{query}")).document["data"]
        assert [(each["route"], each["calls"], each["would_refuse"]) for each in data] == expected, query


async def test_the_report_on_shadows_ends_where_single_calls_do(api: Api, connection: Connection) -> None:
    """Of calls that are gone it would say that no limit had refused any: a tenth of the share that there was."""
    app_id = await api.app()
    call = {"app_id": app_id, "would_refuse": "standard:minute"}
    await _record(connection, call, {**call, "at": TODAY - timedelta(days=5)})
    kept_from = TODAY.date() - timedelta(days=2)
    await connection.execute("INSERT INTO usage_retention (kind, kept_from) VALUES ('events', $1)", kept_from)
    (shown,) = (await api.get(f"/usage/shadow?app_id={app_id}")).document["data"]
    assert (shown["calls"], shown["would_refuse"]) == (1, 1)
    assert (await api.get(f"/usage/shadow?app_id={app_id}&days=3")).document["total"] == 1
    for query, field in (("days=4", "days"), (f"since={_text(TODAY - timedelta(days=4))}", "since")):
        reply = await api.get(f"/usage/shadow?{query}")
        assert (reply.status, list(reply.fields)) == (422, [field])
        assert str(kept_from) in reply.fields[field]


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
    (event,) = (await api.get(f"/usage/quota-events?app_id={app_id}")).document["data"]
    assert (event["subject"], event["threshold"], event["calls_max"]) == (f"a:{app_id}", 100, 1000)
    assert [event["threshold"] for event in (await api.get("/usage/quota-events?key_id=ak_1")).document["data"]] == [
        80,
        50,
    ]
    assert (await api.get("/usage/quota-events")).document["total"] == 3
    since, until = _text(TODAY + timedelta(seconds=60)), _text(TODAY + timedelta(seconds=100))
    span = (await api.get(f"/usage/quota-events?since={since}&until={until}")).document["data"]
    assert [event["threshold"] for event in span] == [80]
    text = (await api.get(f"/usage/quota-events?app_id={app_id}&format=csv")).text
    assert text.splitlines()[1].startswith(f"a:{app_id},standard:day,100,1000,")
    # Quotas are of no route alone: refused, not answered as if it had not been asked.
    assert list((await api.get("/usage/quota-events?route=clients")).fields) == ["route"]


async def test_who_sees_some_organizations_gets_no_sum_of_everyone(connection: Connection) -> None:
    """Sums of everyone are kept apart: a customer's dashboard would show what all the others call."""
    ours, theirs = str(uuid4()), str(uuid4())
    await _record(connection, {"organization_id": ours}, {"organization_id": theirs}, {"organization_id": theirs})
    midnight = datetime.combine(TODAY.date(), datetime.min.time(), UTC)
    span = divide(midnight - timedelta(days=40), midnight + timedelta(hours=30, minutes=7), kept_from={})
    for seen, calls in ((None, 3), ((ours,), 1), ((theirs,), 2), ((), 0)):
        asked = CallFilter().seen_by(seen)
        assert (await store.totals(connection, span, asked)).calls == calls
        assert await store.count(connection, span, asked) == calls
        by_day = await store.by_interval(connection, span, asked, Granularity.DAY)
        assert sum(totals.calls for totals in by_day.values()) == calls
