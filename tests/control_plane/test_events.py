"""Events: each is there exactly when what it tells of is, in an order that can be followed, and nobody sees another's."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from ostiary.control_plane.audit.commands import by_command
from ostiary.control_plane.authorization import MATRIX
from ostiary.control_plane.db import Connection
from ostiary.control_plane.events import KINDS, UNTOLD
from ostiary.control_plane.usage.retention import EVENT_DAYS, keep_up
from ostiary.core.usage import Retention
from tests.control_plane.people import person
from tests.control_plane.support import OPERATOR_TOKEN, SERVICE_ROLE, Api, url_for


async def events(api: Api, query: str = "after=0", **options: Any) -> list[dict[str, Any]]:
    reply = await api.get(f"/events?{query}", **options)
    assert reply.status == 200, reply.text
    found: list[dict[str, Any]] = reply.document["data"]
    return found


async def append(connection: Connection, name: str) -> None:
    await connection.execute("SELECT event_append('key.changed', 'key', $1, NULL, NULL, '{}')", name)


async def test_every_change_is_told_once_without_a_secret(api: Api) -> None:
    """Whoever follows would not hear that a key was revoked; or would hear its secret."""
    organization_id = await api.organization("Acme")
    app_id = await api.app(organization_id)
    key = await api.key(app_id, scopes=["a:read"])
    path = f"/keys/{key['key_id']}"
    assert (await api.request("PATCH", path, json={"scopes": ["a:write"]})).status == 200
    rotated = (await api.post(f"{path}/rotate", {})).document
    assert (await api.request("DELETE", f"{path}/generations/1")).status == 200
    assert (await api.request("PUT", f"{path}/limits", json={"concurrency": 2, "reason": "x"})).status == 200
    for _ in range(2):
        revoked = await api.post(f"{path}/revoke", {"reason": "lost"})
    for _ in range(2):
        decided = await api.post(f"/apps/{app_id}/approval", {"approval": "suspended", "reason": "abuse"})
        assert decided.status == 200
    assert (await api.request("DELETE", f"/apps/{app_id}")).status == 200
    found = await events(api)
    assert [event["kind"] for event in found] == [
        "organization.created",
        "app.created",
        "key.created",
        "key.changed",
        "key.rotated",
        "key.generation_ended",
        "key.limits_changed",
        "key.revoked",
        "app.suspended",
        "app.deleted",
    ], "what changes nothing is told to nobody"
    assert [event["number"] for event in found] == list(range(1, 11))
    assert {event["organization_id"] for event in found} == {organization_id}
    assert {event["app_id"] for event in found[1:]} == {app_id}
    assert {event["resource_id"] for event in found[2:8]} == {key["key_id"]}
    assert found[3]["payload"] == {"before": {"scopes": ["a:read"]}, "after": {"scopes": ["a:write"]}}
    assert found[7]["payload"]["after"]["revoked_reason"] == revoked.document["revoked_reason"] == "lost"
    for secret in (key["secret"], rotated["secret"], OPERATOR_TOKEN):
        assert secret not in str(found)
        assert secret[-4:] not in str(found)


def test_every_operation_that_changes_something_is_told_or_is_said_not_to_be() -> None:
    """One that is added would be forgotten."""
    reading = ("get", "list", "usage", "audit")
    changing = {name for name in MATRIX if not name.startswith(reading) and name not in ("diffRoutes", "routesStatus")}
    assert KINDS.keys() | UNTOLD == changing
    assert not KINDS.keys() & UNTOLD


async def test_a_change_that_is_undone_is_told_to_nobody(api: Api, connection: Connection) -> None:
    """A receiver would act on what never happened."""
    organization_id = await api.organization("Acme")
    document = {"organization_id": organization_id, "name": "Shop"}
    assert (await api.post("/apps", document, idempotency_key="k")).status == 201
    assert (await api.post("/apps", document, idempotency_key="k")).status == 201
    assert (await api.post("/apps", document)).status == 409
    undone = connection.transaction()
    await undone.start()
    await append(connection, "ak_1")
    await undone.rollback()
    assert [event["kind"] for event in await events(api)] == ["organization.created", "app.created"]
    assert await connection.fetchval("SELECT count(*) FROM event_pending") == 0


async def test_who_reads_up_to_a_number_never_finds_a_lower_one_later(
    database: str, connection: Connection, api: Api
) -> None:
    """A number that is given out at the insert is seen at the commit: a follower that has gone past it misses the event, and
    a webhook is never sent."""
    slow = await asyncpg.connect(database)
    try:
        late = slow.transaction()
        await late.start()
        await append(slow, "ak_slow")  # first, and committed last
        await append(connection, "ak_quick")
        assert [event["resource_id"] for event in await events(api)] == ["ak_quick"]
        last = (await events(api))[-1]["number"]
        await late.commit()
        assert [event["resource_id"] for event in await events(api, f"after={last}")] == ["ak_slow"]
    finally:
        await slow.close()


async def test_a_follower_of_many_writers_sees_every_event_once_in_order(
    database: str, connection: Connection, api: Api
) -> None:
    """The same under load: eight connections that commit as they like, some of which change their mind."""
    wanted: set[str] = set()
    done = asyncio.Event()

    async def write(number: int) -> None:
        own = await asyncpg.connect(url_for(SERVICE_ROLE, database))
        for count in range(15):
            name = f"ak_{number}_{count}"
            transaction = own.transaction()
            await transaction.start()
            await append(own, name)
            await asyncio.sleep(0.001 * (number % 3))
            if count % 5 == 4:
                await transaction.rollback()
            else:
                await transaction.commit()
                wanted.add(name)
        await own.close()

    async def follow() -> list[str]:
        seen: list[str] = []
        last = 0
        while True:
            over = done.is_set()
            for event in await events(api, f"after={last}&limit=7"):
                assert event["number"] == last + 1
                last = event["number"]
                seen.append(event["resource_id"])
            if over and len(seen) >= len(wanted):
                return seen

    following = asyncio.create_task(follow())
    await asyncio.gather(*(write(number) for number in range(8)))
    done.set()
    seen = await asyncio.wait_for(following, 30)
    assert len(seen) == len(set(seen))
    assert set(seen) == wanted


async def test_a_share_of_a_quota_is_told_once_with_whose_it_is(api: Api, connection: Connection) -> None:
    """A customer would not hear that their quota ends; or hear it from each of ten gateways."""
    organization_id = await api.organization()
    app_id = await api.app(organization_id)
    key_id = (await api.key(app_id))["key_id"]
    await connection.execute("SELECT usage_ensure_partition('2026-07-01')")
    subjects = [
        f"k:{key_id}",
        f"test:a:{app_id}",
        f"o:{organization_id}",
        "i:192.0.2.7",
        "a:not-a-uuid",
        "k:ak_of_a_file",
    ]
    for request in range(3):
        told = [
            {
                "subject": subject,
                "quota": "p:day",
                "period_ends_us": 1_782_950_400_000_000,
                "calls_max": 9,
                "percent": 80,
            }
            for subject in subjects
        ]
        await connection.execute(
            """
            INSERT INTO usage_events
                (occurred_at, request_id, method, status, latency_us, bytes_in, bytes_out, overage, complete, quota_reached)
            VALUES ('2026-07-01 12:00+00', $1, 'GET', 200, 1, 0, 0, false, true, $2::jsonb)
            """,
            str(request),
            json.dumps(told),
        )
    found = await events(api, "after=0&kind=quota.reached")
    assert len(found) == 2 * len(subjects), "50 % and 80 % of each, once"
    shown = {
        (event["resource_type"], event["resource_id"], event["app_id"], event["organization_id"]) for event in found
    }
    assert shown == {
        ("key", key_id, app_id, organization_id),
        ("app", app_id, app_id, organization_id),
        ("organization", organization_id, None, organization_id),
        ("address", "192.0.2.7", None, None),
        ("app", "not-a-uuid", None, None),
        ("key", "ak_of_a_file", None, None),
    }
    of_app = [event["payload"] for event in found if event["resource_id"] == app_id]
    assert of_app[1] == {
        "quota": "p:day",
        "threshold": 80,
        "limit": 9,
        "test": True,
        "reached_at": "2026-07-01T12:00:00Z",
        "period_ends": "2026-07-02T00:00:00Z",
    }
    assert [payload["threshold"] for payload in of_app] == [50, 80]


async def test_events_are_those_of_the_callers_organizations(api: Api) -> None:
    """Row 126: one customer would read what another does, and the platform's own affairs."""
    own, other = await api.organization("own"), await api.organization("other")
    own_app, other_app = await api.app(own), await api.app(other)
    assert (await api.post("/routes/versions", {"document": "version: 1\nroutes: []\n", "base": 0})).status == 201
    viewer = await person(api, "v@example.com", organization_id=own, role="viewer")
    nowhere = await person(api, "n@example.com")
    for query in ("after=0", "", "limit=1", "kind=app.created"):
        found = await events(api, query, token=viewer.token)
        assert found
        assert {event["organization_id"] for event in found} == {own}, query
    for query in (
        f"organization_id={other}",
        f"app_id={other_app}",
        f"resource_id={other_app}",
        "kind=routes.published",
    ):
        assert await events(api, query, token=viewer.token) == [], query
        assert len(await events(api, query)) >= 1, query
    assert await events(api, token=nowhere.token) == []
    assert [event["resource_id"] for event in await events(api, f"app_id={own_app}")] == [own_app]


async def test_pages_go_backwards_for_people_and_forwards_for_programs(api: Api, connection: Connection) -> None:
    """A page would skip what came in meanwhile, or show it twice."""
    for number in range(7):
        await append(connection, f"ak_{number}")
    for query, wanted in (("limit=3", [7, 6, 5, 4, 3, 2, 1]), ("limit=3&after=2", [3, 4, 5, 6, 7])):
        seen: list[int] = []
        cursor = ""
        while True:
            page = (await api.get(f"/events?{query}{cursor}")).document
            assert (page["total"], page["oldest"]) == (len(wanted), 1)
            seen += [event["number"] for event in page["data"]]
            if page["next_cursor"] is None:
                break
            cursor = f"&cursor={page['next_cursor']}"
        assert seen == wanted
    for query in (
        "after=-1",
        "after=x",
        "kind=x",
        "after=99999999999999999",
        "since=2030-01-01T00:00:00Z&until=2029-01-01T00:00:00Z",
    ):
        assert (await api.get(f"/events?{query}")).status == 422, query


async def test_old_events_go_and_numbers_go_on(api: Api, connection: Connection, database: str) -> None:
    """The table would grow for ever; or numbers begin anew, and who follows would see nothing again."""
    for number in range(4):
        await append(connection, f"ak_{number}")
    assert (await api.get("/events")).document["oldest"] == 1
    old = datetime.now(UTC) - timedelta(days=EVENT_DAYS + 1)
    await connection.execute("UPDATE event_outbox SET occurred_at = $1 WHERE number <= 2", old)
    today = datetime.now(UTC).date()
    service = await asyncpg.connect(url_for(SERVICE_ROLE, database))
    try:
        kept = Retention(events_days=None, minutes_days=None, hours_days=None, days_days=None)
        assert (await keep_up(service, kept, today=today, by=by_command(), dry_run=True)).events_deleted == 2
        assert (await keep_up(connection, kept, today=today, by=by_command())).events_deleted == 2
        assert (await api.get("/events")).document["oldest"] == 3
        await connection.execute("UPDATE event_outbox SET occurred_at = $1", old)
        assert (await keep_up(connection, kept, today=today, by=by_command())).events_deleted == 1
        await append(connection, "ak_next")
        assert [event["number"] for event in await events(api)] == [4, 5]
        # The service's own role may drop what is old, and write nothing that did not happen.
        await service.execute("DELETE FROM event_outbox WHERE number = 4")
        for statement in (
            "INSERT INTO event_outbox SELECT * FROM event_outbox",
            "UPDATE event_outbox SET kind = 'a.b'",
            "INSERT INTO event_pending (kind) VALUES ('a.b')",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await service.execute(statement)
    finally:
        await service.close()


async def test_changes_and_quotas_at_once_never_wait_in_a_circle(
    api: Api, connection: Connection, database: str
) -> None:
    """Events and audit rows are numbered under two locks: taken in two orders, a change would fail now and then."""
    organizations = [await api.organization(f"o{number}") for number in range(4)]
    shipping = await asyncpg.connect(database)
    stop = asyncio.Event()

    async def ship() -> int:
        count = 0
        while not stop.is_set():
            count += 1
            await shipping.execute(
                "INSERT INTO quota_events VALUES ($1, 'p:day', now(), 50, 10, now())", f"o:{organizations[0]}:{count}"
            )
        return count

    task = asyncio.create_task(ship())
    replies = await asyncio.gather(
        *(api.request("PATCH", f"/organizations/{organizations[n % 4]}", json={"name": f"name {n}"}) for n in range(24))
    )
    stop.set()
    count = await task
    await shipping.close()
    assert {reply.status for reply in replies} == {200}
    assert await connection.fetchval("SELECT max(number) = count(*) FROM event_outbox")
    assert await connection.fetchval("SELECT count(*) FROM event_outbox WHERE kind = 'quota.reached'") == count
