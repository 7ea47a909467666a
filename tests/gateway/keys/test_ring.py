"""What the request path is told about a key, and what it costs Postgres."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network

import asyncpg
import pytest

from ostiary.core.credentials import secret_sha256
from ostiary.core.encryption import Envelope
from ostiary.core.errors import ErrorCode, GatewayError
from ostiary.core.model import Environment, Key
from ostiary.gateway.keys import KnownKey
from ostiary.gateway.signal import Signal
from tests.gateway.keys.conftest import KeyDatabase, RingMaker, answer, follow, make_key

# Nothing listens there: whoever asks Postgres fails.
NOWHERE = "postgresql://ostiary@127.0.0.1:1/ostiary"
FILE_SECRET = b"a-secret-of-the-file-that-is-long-enough"


def file_key(key_id: str = "partner_1", secret: bytes = FILE_SECRET, expires_at: float | None = None) -> Key:
    return Key(
        id=key_id,
        environment=Environment.LIVE,
        secret_sha256=secret_sha256(secret),
        secret=secret,
        plan=None,
        scopes=frozenset({"clients:read"}),
        expires_at=expires_at,
    )


def at_once(found: object) -> KnownKey:
    assert isinstance(found, KnownKey)
    return found


async def test_file_key_is_found_at_once_by_id_and_by_secret(ring_of: RingMaker) -> None:
    """Else a gateway without Postgres could serve nobody."""
    ring = ring_of(None, file_keys={"partner_1": file_key()})
    by_id = at_once(ring.find("partner_1"))
    assert by_id.key.scopes == {"clients:read"}
    assert by_id.signer is not None
    assert ring.find_by_secret(FILE_SECRET) is by_id
    assert ring.find("partner_2") is None
    assert ring.find_by_secret(FILE_SECRET + b"x") is None


async def test_file_keys_need_no_postgres_even_when_one_is_configured(ring_of: RingMaker) -> None:
    """Else keys of the file would stop with Postgres."""
    ring = ring_of(NOWHERE, file_keys={"partner_1": file_key()})
    await ring.start()
    at_once(ring.find("partner_1"))
    at_once(ring.find_by_secret(FILE_SECRET))


async def test_reload_replaces_the_keys_of_the_file(ring_of: RingMaker) -> None:
    """Else a key taken out of the file would go on working, or a changed secret would not."""
    ring = ring_of(None, file_keys={"partner_1": file_key(), "partner_2": file_key("partner_2", FILE_SECRET * 2)})
    ring.replace_file_keys({"partner_1": file_key(secret=b"another" * 8)})
    assert ring.find("partner_2") is None
    assert ring.find_by_secret(FILE_SECRET) is None
    assert ring.find_by_secret(b"another" * 8) is ring.find("partner_1") is not None


async def test_database_key_costs_one_query_and_is_then_found_at_once(
    database: KeyDatabase, ring_of: RingMaker
) -> None:
    """Else requests with a known key would wait for Postgres."""
    made = await database.add(
        plan="standard",
        scopes=["clients:read", "clients:write"],
        allowed_networks=["10.0.0.0/8", "2001:db8::/32"],
        allowed_origins=["https://shop.example"],
    )
    ring = ring_of(database.url, database.envelope)
    await follow(ring)
    found = ring.find(made.id)
    assert isinstance(found, Signal)
    known = at_once(await answer(found))
    assert known.key == Key(
        id=made.id,
        environment=Environment.TEST,
        secret_sha256=secret_sha256(made.secret),
        secret=None,
        plan="standard",
        scopes=frozenset({"clients:read", "clients:write"}),
        app_id=database.app_id,
        organization_id=database.organization_id,
        allowed_networks=(ip_network("10.0.0.0/8"), ip_network("2001:db8::/32")),
        allowed_origins=frozenset({"https://shop.example"}),
    )
    assert known.signer is not None
    assert known.signer.verify(b"message", known.signer.sign(b"message"))
    assert ring.find(made.id) is known
    assert ring.find_by_secret(made.secret) is known
    assert ring.status()["look_up_queries"] == 1


async def test_database_key_is_found_by_its_secret(database: KeyDatabase, ring_of: RingMaker) -> None:
    """Else bearer credentials would work only after the key id had been used."""
    made = await database.add()
    ring = ring_of(database.url, database.envelope)
    await follow(ring)
    known = at_once(await answer(ring.find_by_secret(made.secret)))
    assert known.key.id == made.id
    assert ring.find(made.id) is known


async def test_what_cannot_be_a_key_costs_no_query(ring_of: RingMaker) -> None:
    """Row 54: a bearer key with a wrong checksum, or a malformed key id, is refused without Redis or Postgres. Else
    anyone could load the database with typing errors."""
    made = make_key()
    ring = ring_of(NOWHERE)
    await ring.start()
    wrong_checksum = made.secret[:-1] + (b"0" if made.secret[-1:] != b"0" else b"1")
    for secret in (wrong_checksum, b"", b"hunter2", made.secret[:-1], made.secret + b"0", b"\xff" * 60, b"x" * 70_000):
        assert ring.find_by_secret(secret) is None
    for key_id in ("", "partner_1", made.id[:-1], made.id + "0", "ak_live_", made.id.replace("_test_", "_prod_"), "é"):
        assert ring.find(key_id) is None
    assert ring.status()["look_up_queries"] == ring.status()["look_up_failures"] == 0


async def test_revoked_and_unknown_keys_are_refused_alike(database: KeyDatabase, ring_of: RingMaker) -> None:
    """Row 53: unknown, revoked and expired keys are one answer. Else ids could be enumerated."""
    revoked = await database.add(revoked_at=datetime.now(UTC))
    expired = await database.add(expires_at=datetime.now(UTC) - timedelta(seconds=1))
    ring = ring_of(database.url, database.envelope)
    await follow(ring)
    for made in (revoked, expired, make_key()):
        assert await answer(ring.find(made.id)) is None
        assert await answer(ring.find_by_secret(made.secret)) is None
        # Known to be of no use now: no further query.
        assert ring.find(made.id) is None
        assert ring.find_by_secret(made.secret) is None
    await database.connection.execute("UPDATE api_keys SET revoked_at = NULL WHERE id = $1", revoked.id)


async def test_key_expires_while_it_is_known(database: KeyDatabase, ring_of: RingMaker) -> None:
    """Else an expired key would work for as long as it stayed in memory."""
    now = 1_700_000_000.0
    made = await database.add(expires_at=datetime.fromtimestamp(now + 60, UTC))
    ring = ring_of(
        database.url,
        database.envelope,
        file_keys={"partner_1": file_key(expires_at=now + 60)},
        clock=lambda: now,
    )
    await follow(ring)
    at_once(await answer(ring.find(made.id)))
    now += 59.9
    at_once(ring.find(made.id))
    at_once(ring.find("partner_1"))
    now += 0.1
    assert ring.find(made.id) is None
    assert ring.find_by_secret(made.secret) is None
    assert ring.find("partner_1") is None
    assert ring.find_by_secret(FILE_SECRET) is None


async def test_prepared_state_ends_with_its_snapshot(database: KeyDatabase, ring_of: RingMaker) -> None:
    """Else a request would run under limits of a configuration that is no longer in force; and one that began before the
    swap must keep its own."""
    made = await database.add()
    ring = ring_of(database.url, database.envelope, file_keys={"partner_1": file_key()})
    await follow(ring)
    await answer(ring.find(made.id))
    finds: tuple[Callable[[], object], ...] = (
        lambda: ring.find(made.id),
        lambda: ring.find_by_secret(made.secret),
        lambda: ring.find("partner_1"),
        lambda: ring.find_by_secret(FILE_SECRET),
    )
    for find in finds:
        before = at_once(find())
        before.prepare("clients", "policy")
        assert at_once(find()).prepared("clients") == "policy"
        ring.forget_prepared()
        after = at_once(find())
        assert after.prepared("clients") is None
        assert after.key == before.key
        assert after.signer is before.signer
        assert find() is after
        assert before.prepared("clients") == "policy"
    assert ring.find(made.id) is ring.find_by_secret(made.secret)
    assert ring.status()["look_up_queries"] == 1


async def test_without_a_key_encryption_key_bearer_still_works(database: KeyDatabase, ring_of: RingMaker) -> None:
    """Else a gateway that only takes bearer keys would have to be given the KEK."""
    made = await database.add()
    ring = ring_of(database.url, None)
    await follow(ring)
    known = at_once(await answer(ring.find_by_secret(made.secret)))
    assert known.signer is None


async def test_wrong_key_encryption_key_is_logged_by_key_id_and_shows_no_secret(
    database: KeyDatabase, ring_of: RingMaker, caplog: pytest.LogCaptureFixture
) -> None:
    """Else an operator would see 401 for every signed call and no reason."""
    made = await database.add()
    ring = ring_of(database.url, Envelope(os.urandom(32)))
    await follow(ring)
    with caplog.at_level(logging.DEBUG):
        known = at_once(await answer(ring.find(made.id)))
    assert known.signer is None
    (fields,) = (record.__dict__["fields"] for record in caplog.records if record.message == "key_cannot_sign")
    assert fields["key_id"] == made.id
    assert fields["reason"].startswith("the data key was wrapped under another key-encryption key")
    assert made.secret.decode() not in caplog.text + repr(fields)
    assert ring.find_by_secret(made.secret) is known


async def test_gateway_needs_select_on_two_tables_and_no_more(database: KeyDatabase, ring_of: RingMaker) -> None:
    """Else a gateway that is broken into could write keys."""
    made = await database.add()
    role = f"gateway_{made.id[-8:].lower()}"
    await database.connection.execute(f"CREATE ROLE {role} LOGIN")
    try:
        await database.connection.execute(f"GRANT SELECT ON api_keys, apps TO {role}")
        url = database.url.replace("://postgres", f"://{role}", 1)
        assert role in url
        ring = ring_of(url, database.envelope)
        await follow(ring)
        at_once(await answer(ring.find(made.id)))
        await ring.close()
    finally:
        await database.connection.execute(f"DROP OWNED BY {role}")
        await database.connection.execute(f"DROP ROLE {role}")


async def test_missing_schema_is_named_with_its_mend(
    empty_database: str, ring_of: RingMaker, caplog: pytest.LogCaptureFixture
) -> None:
    """Else an operator would see 503 and a stack trace."""
    ring = ring_of(empty_database)
    await ring.start()
    with pytest.raises(GatewayError) as raised:
        await answer(ring.find(make_key().id))
    assert raised.value.code is ErrorCode.KEYS_UNAVAILABLE
    reasons = [
        record.__dict__["fields"]["reason"] for record in caplog.records if record.message == "key_look_ups_fail"
    ]
    assert any("ostiary db migrate" in reason for reason in reasons)


async def test_password_of_postgres_is_in_no_log(ring_of: RingMaker, caplog: pytest.LogCaptureFixture) -> None:
    """Row 132: a database URL that can't be used is not quoted."""
    for url in (
        "postgresql://ostiary:canary-7f3@127.0.0.1:1/ostiary",
        "postgresql://ostiary:canary-7f3@127.0.0.1:port/ostiary",
        "canary-7f3://ostiary@127.0.0.1/ostiary",
    ):
        ring = ring_of(url)
        await ring.start()
        with caplog.at_level(logging.DEBUG), pytest.raises(GatewayError) as raised:
            await answer(ring.find(make_key().id))
        assert "canary" not in raised.value.reason
        assert "canary" not in repr(ring.status())
        await ring.close()
    reasons = [
        record.__dict__["fields"]["reason"] for record in caplog.records if record.message == "key_look_ups_fail"
    ]
    assert len(reasons) == 3
    assert "canary" not in caplog.text + repr(reasons)


async def test_nothing_that_is_shown_holds_a_secret(database: KeyDatabase, ring_of: RingMaker) -> None:
    """Else a debug line would publish it."""
    made = await database.add()
    ring = ring_of(database.url, database.envelope)
    await follow(ring)
    known = at_once(await answer(ring.find(made.id)))
    for shown in (repr(known), repr(known.key), repr(known.signer), repr(ring.status())):
        assert made.secret.decode() not in shown
        assert secret_sha256(made.secret).hex() not in shown


async def test_closing_refuses_who_still_waits(database: KeyDatabase, ring_of: RingMaker) -> None:
    """Else a request would hang while its worker ends."""
    ring = ring_of(database.url)
    await follow(ring)
    found = ring.find(make_key().id)
    await ring.close()
    with pytest.raises(GatewayError) as raised:
        await answer(found)
    assert raised.value.code is ErrorCode.KEYS_UNAVAILABLE
    with pytest.raises(GatewayError):
        await answer(ring.find(make_key().id))
    left = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    async with asyncpg.create_pool(database.url, min_size=1, max_size=1) as pool:
        assert await pool.fetchval(f"{left} AND application_name LIKE 'ostiary gateway%'") == 0
