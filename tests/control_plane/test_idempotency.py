"""`Idempotency-Key`: the same POST twice is done once."""

from __future__ import annotations

import asyncio

import pytest

from ostiary.control_plane.db import Connection
from tests.control_plane.support import Api


async def test_a_repeat_gets_the_same_answer_and_changes_nothing(api: Api, connection: Connection) -> None:
    """A retry after a lost answer would fail with a conflict, or make a second one."""
    first = await api.post("/organizations", {"name": "Acme"}, idempotency_key="k-1")
    again = await api.post("/organizations", {"name": "Acme"}, idempotency_key="k-1")
    assert (again.status, again.document, again.headers["Location"]) == (201, first.document, first.headers["Location"])
    assert again.headers["Idempotency-Replayed"] == "true"
    assert "Idempotency-Replayed" not in first.headers
    assert await connection.fetchval("SELECT count(*) FROM organizations") == 1


async def test_of_many_at_once_one_is_done_and_all_get_its_answer(api: Api, connection: Connection) -> None:
    """A client that retries while the first call runs would make two."""
    app_document = {"organization_id": await api.organization(), "name": "Shop"}
    replies = await asyncio.gather(*(api.post("/apps", app_document, idempotency_key="k") for _ in range(8)))
    assert {reply.status for reply in replies} == {201}
    assert len({reply.document["id"] for reply in replies}) == 1
    assert await connection.fetchval("SELECT count(*) FROM apps") == 1


async def test_the_order_of_names_in_the_body_does_not_matter(api: Api) -> None:
    """A client that serializes anew would be refused its own retry."""
    organization_id = await api.organization()
    first = await api.post_text(
        "/apps", f'{{"name": "a", "organization_id": "{organization_id}"}}', **{"Idempotency-Key": "k"}
    )
    again = await api.post_text(
        "/apps", f'{{"organization_id":"{organization_id}","name":"a"}}', **{"Idempotency-Key": "k"}
    )
    assert (first.status, again.status, again.document) == (201, 201, first.document)


async def test_a_key_is_good_for_one_call(api: Api) -> None:
    """The second call would get the first's answer and believe itself done."""
    await api.post("/organizations", {"name": "first"}, idempotency_key="k")
    another = await api.post("/organizations", {"name": "second"}, idempotency_key="k")
    assert (another.status, another.code) == (422, "idempotency_key_reused")
    other_path = await api.post(
        "/apps", {"organization_id": await api.organization(), "name": "x"}, idempotency_key="k"
    )
    assert (other_path.status, other_path.code) == (422, "idempotency_key_reused")


async def test_a_refused_call_may_be_mended_and_repeated(api: Api) -> None:
    """A typing error would use up the key."""
    assert (await api.post("/organizations", {"name": ""}, idempotency_key="k")).status == 422
    await api.organization("Acme")
    assert (await api.post("/organizations", {"name": "Acme"}, idempotency_key="k")).status == 409
    assert (await api.post("/organizations", {"name": "Acme 2"}, idempotency_key="k")).status == 201


async def test_a_repeated_key_creation_is_refused_aloud_with_the_address_of_the_key(
    api: Api, connection: Connection
) -> None:
    """The secret would be stored somewhere for a day, or a client would get a key without one and not notice."""
    app_id = await api.app()
    created = await api.post(f"/apps/{app_id}/keys", {"name": "x"}, idempotency_key="k")
    again = await api.post(f"/apps/{app_id}/keys", {"name": "x"}, idempotency_key="k")
    assert (again.status, again.code) == (409, "secret_already_shown")
    assert again.document["about"] == f"/api/v1/keys/{created.document['key_id']}"
    assert await connection.fetchval("SELECT count(*) FROM api_keys") == 1
    stored = await connection.fetchval("SELECT answer::text FROM idempotency_keys")
    assert created.document["key_id"] in stored
    assert created.document["secret"] not in stored


async def test_after_its_day_a_key_is_new_and_old_ones_are_forgotten(api: Api, connection: Connection) -> None:
    """The table would grow for ever."""
    for number in range(5):
        await api.post("/organizations", {"name": f"Acme {number}"}, idempotency_key=f"k-{number}")
    await connection.execute("UPDATE idempotency_keys SET expires_at = now()")
    again = await api.post("/organizations", {"name": "Acme 0"}, idempotency_key="k-0")
    assert (again.status, again.code) == (409, "conflict")
    await api.post("/organizations", {"name": "Acme 9"}, idempotency_key="k-9")
    assert await connection.fetchval("SELECT count(*) FROM idempotency_keys") == 1


async def test_an_expired_key_held_by_another_call_is_taken_over_when_that_ends(
    api: Api, connection: Connection
) -> None:
    """The clean-up skips a row in use, and the claim must not then take its old answer for today's."""
    await api.post("/organizations", {"name": "Acme"}, idempotency_key="k")
    await connection.execute("UPDATE idempotency_keys SET expires_at = now()")
    async with connection.transaction():
        await connection.execute("SELECT FROM idempotency_keys FOR UPDATE")
        call = asyncio.create_task(api.post("/organizations", {"name": "Acme 2"}, idempotency_key="k"))
        async with asyncio.timeout(5):
            while not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"):
                pass
    assert (await call).status == 201


async def test_a_call_that_takes_too_long_is_not_done_twice(api: Api, connection: Connection) -> None:
    """The repeat would hang for as long as the first, or run beside it."""
    await connection.execute("BEGIN")
    await connection.execute(
        "INSERT INTO idempotency_keys (principal, key, request_sha256) VALUES ('operator', 'k', $1)", bytes(32)
    )
    reply = await api.post("/organizations", {"name": "Acme"}, idempotency_key="k")
    assert (reply.status, reply.code, reply.headers["Retry-After"]) == (409, "call_under_way", "3")
    await connection.execute("ROLLBACK")


@pytest.mark.parametrize("key", ["", "a b", "é", "x" * 256])
async def test_a_malformed_key_is_refused(refusing_api: Api, key: str) -> None:
    """It would be cut somewhere on its way, and two calls share one key."""
    reply = await refusing_api.post("/organizations", {"name": "Acme"}, idempotency_key=key)
    assert (reply.status, reply.code) == (400, "malformed_request")
