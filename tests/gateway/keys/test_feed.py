"""Changes in Postgres reach every process in time, whatever happens to notifications and connections."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import asyncpg
import pytest

from ostiary.core.errors import ErrorCode, GatewayError
from ostiary.core.model import LimitOverride
from ostiary.demo.stores import EmbeddedPostgres
from ostiary.gateway.keys import KeyRing, KnownKey
from ostiary.gateway.keys.feed import OVERLAP_SECONDS, POLL_ROWS_MAX, SeenRevisions
from ostiary.gateway.signal import Signal
from tests.gateway.keys.conftest import KeyDatabase, MadeKey, RingMaker, answer, follow, make_key, until
from tests.support.waiting import MACHINE_SECONDS

Found = KnownKey | None | Signal[KnownKey | None]

FEED = "application_name = 'ostiary gateway key changes' AND datname = current_database()"


@pytest.fixture
async def own_database(own_postgres: EmbeddedPostgres) -> AsyncIterator[KeyDatabase]:
    """Keys in a Postgres of this test's own."""
    connection = await asyncpg.connect(own_postgres.url())
    database = KeyDatabase(own_postgres.url(), connection)
    await database.migrate()
    yield database
    connection.terminate()


async def asking(
    find: Callable[[], Found], enough: Callable[[KnownKey | None], bool], *, within_seconds: float
) -> None:
    """Asks as often as the loop turns, until the answer is `enough`."""
    async with asyncio.timeout(within_seconds):
        while not enough(await answer(find())):  # noqa: ASYNC110  what is waited for happens in another process
            await asyncio.sleep(0)


async def refused(ring: KeyRing, key: MadeKey, *, within_seconds: float) -> float:
    """Seconds until the ring refuses the key, by id and by secret."""
    started = time.monotonic()
    await asking(lambda: ring.find(key.id), lambda known: known is None, within_seconds=within_seconds)
    await asking(lambda: ring.find_by_secret(key.secret), lambda known: known is None, within_seconds=within_seconds)
    return time.monotonic() - started


@pytest.mark.alone
async def test_revocation_holds_in_every_process_within_a_second(database: KeyDatabase, ring_of: RingMaker) -> None:
    """Row 70: a revoked key is refused at most 1 s after the revocation was committed, in each of several processes that all
    had it in use."""
    rings = [ring_of(database.url, database.envelope) for _ in range(4)]
    for ring in rings:
        await follow(ring)
    for _ in range(10):
        made = await database.add()
        for ring in rings:
            assert await answer(ring.find(made.id)) is not None
            assert await answer(ring.find_by_secret(made.secret)) is not None
        await database.revoke(made)
        assert max(await asyncio.gather(*(refused(ring, made, within_seconds=5) for ring in rings))) < 1.0


async def test_key_works_at_once_when_it_was_asked_for_before_it_was_made(
    database: KeyDatabase, ring_of: RingMaker
) -> None:
    """Else whoever tried too early would be refused with a good key."""
    by_id, by_secret = make_key(), make_key()
    ring = ring_of(database.url)
    await follow(ring)
    finds: tuple[tuple[MadeKey, Callable[[], Found]], ...] = (
        (by_id, lambda: ring.find(by_id.id)),
        (by_secret, lambda: ring.find_by_secret(by_secret.secret)),
    )
    for made, find in finds:
        assert await answer(find()) is None
        assert find() is None, "known to be absent"
        await database.add(made)
        await asking(find, lambda known: known is not None, within_seconds=1)


async def test_changed_key_has_its_new_scopes_within_a_second(database: KeyDatabase, ring_of: RingMaker) -> None:
    """Else a scope that was taken away would go on being granted."""
    made = await database.add(scopes=["clients:read"])
    ring = ring_of(database.url)
    await follow(ring)
    await answer(ring.find(made.id))
    await database.connection.execute("UPDATE api_keys SET scopes = '{}' WHERE id = $1", made.id)
    await asking(lambda: ring.find(made.id), lambda known: known is not None and not known.key.scopes, within_seconds=1)


async def test_changes_are_found_within_five_seconds_without_notifications(
    database: KeyDatabase, ring_of: RingMaker
) -> None:
    """Else a proxy that carries no notifications would let revoked keys work for ever, and refuse new ones. By polling: the
    key that was made has no other way to be found so soon."""
    revoked, absent = await database.add(), make_key()
    ring = ring_of(database.url)
    await follow(ring)
    assert await answer(ring.find(revoked.id)) is not None
    assert await answer(ring.find(absent.id)) is None
    await database.silence()
    await database.connection.execute(
        "UPDATE api_keys SET revoked_at = now(), revision = nextval('key_revisions') WHERE id = $1", revoked.id
    )
    await database.add(absent)
    await refused(ring, revoked, within_seconds=5)
    await asking(lambda: ring.find(absent.id), lambda known: known is not None, within_seconds=5)


async def test_deleted_key_is_found_out_without_notifications(database: KeyDatabase, ring_of: RingMaker) -> None:
    """Else a deleted row, which has no revision any more, would work on behind such a proxy. By the sweep."""
    deleted = await database.add()
    ring = ring_of(database.url)
    await follow(ring)
    assert await answer(ring.find(deleted.id)) is not None
    await database.silence()
    await database.connection.execute("DELETE FROM api_keys WHERE id = $1", deleted.id)
    await refused(ring, deleted, within_seconds=5)


async def test_more_changes_than_a_poll_lists_are_found_too(database: KeyDatabase, ring_of: RingMaker) -> None:
    """Else an import would hide a revocation that came with it."""
    revoked, absent = await database.add(), make_key()
    ring = ring_of(database.url)
    await follow(ring)
    assert await answer(ring.find(revoked.id)) is not None
    assert await answer(ring.find(absent.id)) is None
    await database.silence()
    await database.connection.execute(
        """
        INSERT INTO api_keys (id, app_id, name, environment, secret_sha256, secret_sealed, data_key_wrapped, secret_hint)
        SELECT 'imported_' || n, app_id, name, environment, sha256(n::text::bytea), '', '', '0000'
        FROM api_keys, generate_series(1, $1::int) n
        """,
        POLL_ROWS_MAX + 1,
    )
    await database.add(absent)
    await database.connection.execute(
        "UPDATE api_keys SET revoked_at = now(), revision = nextval('key_revisions') WHERE id = $1", revoked.id
    )
    await refused(ring, revoked, within_seconds=5)
    await asking(lambda: ring.find(absent.id), lambda known: known is not None, within_seconds=5)


@asynccontextmanager
async def cut_off(database: KeyDatabase, server: EmbeddedPostgres, ring: KeyRing) -> AsyncIterator[None]:
    """Within, the ring's feed can't reach the database."""
    name = await database.connection.fetchval("SELECT current_database()")
    admin = await asyncpg.connect(server.url())
    await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
    await database.connection.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {FEED}")  # noqa: S608
    await until(lambda: ring.status()["following_changes"] is False)
    yield
    await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
    await admin.close()


async def test_what_changed_while_nothing_was_heard_holds_after_reconnecting(
    postgres_server: EmbeddedPostgres, database: KeyDatabase, ring_of: RingMaker
) -> None:
    """Row 117: with the change feed down mid-run, keys go on working, and what was revoked or deleted meanwhile is refused
    within 5 s of its return. Notifications are not kept for who is not there."""
    revoked, deleted, kept = await database.add(), await database.add(), await database.add()
    ring = ring_of(database.url)
    await follow(ring)
    known = await answer(ring.find(kept.id))
    assert await answer(ring.find(revoked.id)) is not None
    assert await answer(ring.find(deleted.id)) is not None
    async with cut_off(database, postgres_server, ring):
        await database.revoke(revoked)
        await database.connection.execute("DELETE FROM api_keys WHERE id = $1", deleted.id)
        assert isinstance(ring.find(revoked.id), KnownKey), "nobody can know of it yet"
    await until(lambda: ring.status()["following_changes"] is True, within_seconds=5)
    assert await answer(ring.find(revoked.id)) is None, "compared before it counts as followed"
    assert await answer(ring.find(deleted.id)) is None
    assert ring.find(kept.id) is known, "what did not change is still known"


async def test_revocation_does_not_wait_until_all_known_keys_are_compared(
    postgres_server: EmbeddedPostgres, database: KeyDatabase, ring_of: RingMaker
) -> None:
    """Row 117: comparing takes 10 s for a million known keys; a revocation must hold within 5 s of Postgres's return."""
    ring = ring_of(database.url)
    await follow(ring)
    keys = [await database.add() for _ in range(2)]
    for made in keys:
        assert await answer(ring.find(made.id)) is not None
    template = ring._cache.known[keys[0].id].key
    for number in range(100_000):
        other = dataclasses.replace(template, id=f"known_{number}", secret_sha256=number.to_bytes(32))
        ring._cache.remember(KnownKey(other, signer=None, revision=1, epoch=0))
    async with cut_off(database, postgres_server, ring):
        for made in keys:
            ring._cache.known.move_to_end(made.id)  # the last to be compared
        await database.revoke(keys[0])
        await database.revoke(keys[1])
    for made in keys:
        await refused(ring, made, within_seconds=5)
    assert ring.status()["following_changes"] is False, "the others are still being compared"


async def test_feed_that_hangs_is_replaced(own_database: KeyDatabase, ring_of: RingMaker) -> None:
    """Else a connection that is open but dead (a firewall that forgot it) would keep every revocation away."""
    made = await own_database.add()
    ring = ring_of(own_database.url)
    await follow(ring)
    assert isinstance(await answer(ring.find(made.id)), KnownKey)
    pid = await own_database.connection.fetchval(f"SELECT pid FROM pg_stat_activity WHERE {FEED}")  # noqa: S608
    os.kill(pid, signal.SIGSTOP)
    try:
        await own_database.revoke(made)
        await refused(ring, made, within_seconds=6)
    finally:
        os.kill(pid, signal.SIGCONT)


async def test_known_keys_outlive_postgres_for_the_stale_time_and_no_longer(
    own_postgres: EmbeddedPostgres, own_database: KeyDatabase, ring_of: RingMaker
) -> None:
    """Invariant 2 and its bound: with Postgres away, known keys work and unknown ones get 503; after `stale_seconds` known
    ones get 503 too, since nobody could have told of a revocation; all work again when Postgres is back."""
    made, cold = await own_database.add(), await own_database.add()
    ring = ring_of(own_database.url, own_database.envelope, stale_seconds=3.0)
    await follow(ring)
    assert isinstance(await answer(ring.find(made.id)), KnownKey)
    await asyncio.to_thread(own_postgres.pg_ctl, "stop", "-m", "immediate")
    await until(lambda: ring.status()["following_changes"] is False)
    assert isinstance(ring.find(made.id), KnownKey)
    assert isinstance(ring.find_by_secret(made.secret), KnownKey)
    with pytest.raises(GatewayError) as raised:
        await answer(ring.find(cold.id))
    assert raised.value.code is ErrorCode.KEYS_UNAVAILABLE

    await until(lambda: ring.status()["stale"] is True)
    silent = ring.status()["silent_seconds"]
    assert isinstance(silent, float)
    assert 3.0 <= silent < 3.5 + MACHINE_SECONDS
    for found in (ring.find(made.id), ring.find_by_secret(made.secret)):
        with pytest.raises(GatewayError) as raised:
            await answer(found)
        assert raised.value.code is ErrorCode.KEYS_UNAVAILABLE

    await asyncio.to_thread(own_postgres.start_again)
    await until(lambda: ring.status()["following_changes"] is True)
    assert ring.status()["stale"] is False
    await until(lambda: ring._lookup is not None and time.monotonic() > ring._lookup._retry_at)
    assert isinstance(await answer(ring.find(made.id)), KnownKey)
    assert isinstance(await answer(ring.find(cold.id)), KnownKey)
    assert isinstance(ring.find(made.id), KnownKey), "and it is remembered again"


async def test_start_does_not_need_postgres(own_postgres: EmbeddedPostgres, ring_of: RingMaker) -> None:
    """Row 117: with Postgres away at the start, the gateway starts all the same, and finds keys once Postgres is back."""
    await asyncio.to_thread(own_postgres.pg_ctl, "stop", "-m", "immediate")
    ring = ring_of(own_postgres.url())
    await ring.start()
    with pytest.raises(GatewayError):
        await answer(ring.find(make_key().id))
    await asyncio.to_thread(own_postgres.start_again)
    connection = await asyncpg.connect(own_postgres.url())
    database = KeyDatabase(own_postgres.url(), connection)
    await database.migrate()
    made = await database.add()
    await until(lambda: ring.status()["following_changes"] is True)
    assert isinstance(await answer(ring.find(made.id)), KnownKey)
    connection.terminate()


def test_poll_looks_back_over_transactions_that_commit_late() -> None:
    """A revision is drawn before its transaction commits: 7 may appear after 9 was seen, and would be skipped for ever."""
    revisions = SeenRevisions(5)
    now = 100.0
    assert revisions.floor(now) == 5
    assert revisions.fresh([("b", 9)], now) == [("b", 9)]
    late = now + OVERLAP_SECONDS - 0.1
    assert revisions.floor(late) < 7, "the late one is asked for"
    assert revisions.fresh([("a", 7), ("b", 9)], late) == [("a", 7)], "and what was seen before is not fresh"
    assert revisions.floor(now + OVERLAP_SECONDS) == 9
    assert revisions.floor(late + 2 * OVERLAP_SECONDS) == 9


def test_quiet_polls_read_nothing_again() -> None:
    """Else each poll of a quiet system would read the same rows for ever."""
    revisions = SeenRevisions(5)
    revisions.fresh([("a", 6)], 0.0)
    for second in range(1, 60):
        rows = [("a", 6)] if revisions.floor(float(second)) < 6 else []
        assert revisions.fresh(rows, float(second)) == []
    assert revisions.floor(60.0) == 6
    assert len(revisions._history) <= OVERLAP_SECONDS + 1


async def test_key_has_its_own_limits_within_a_second_and_those_that_can_t_be_read_leave_the_plan(
    database: KeyDatabase, ring_of: RingMaker, caplog: pytest.LogCaptureFixture
) -> None:
    """Row 81: a lowered limit would wait until the key is forgotten; one that another hand has spoilt would let no call
    in."""
    key = await database.add()
    ring = ring_of(database.url)
    await follow(ring)
    known = await answer(ring.find(key.id))
    assert known is not None
    assert known.key.limits is None

    async def limits_of_key() -> LimitOverride | None:
        found = await answer(ring.find(key.id))
        assert found is not None
        return found.key.limits

    async def set_to(text: str) -> None:
        await database.connection.execute("UPDATE api_keys SET limits = $2::jsonb WHERE id = $1", key.id, text)

    await set_to('{"concurrency": 5}')
    async with asyncio.timeout(1.0):
        while await limits_of_key() != LimitOverride(concurrency=5):  # noqa: ASYNC110  the point of it
            await asyncio.sleep(0.01)
    await set_to('{"rate": {"requests": 5}}')
    async with asyncio.timeout(1.0):
        while await limits_of_key() is not None:  # noqa: ASYNC110  the point of it
            await asyncio.sleep(0.01)
    assert "key_limits_unreadable" in caplog.text


async def test_keys_of_an_app_work_as_far_as_the_platform_approves_of_it(
    database: KeyDatabase, ring_of: RingMaker
) -> None:
    """An app that is suspended would go on calling; one that waits would call what is live."""
    ring = ring_of(database.url, database.envelope)
    await follow(ring)
    live, test = await database.add(environment="live"), await database.add(environment="test")
    for approval, live_works, test_works in (
        ("suspended", False, False),
        ("pending", False, True),
        ("approved", True, True),
        ("rejected", False, True),
        ("suspended", False, False),
        ("approved", True, True),
    ):
        await database.connection.execute("UPDATE apps SET approval = $1", approval)
        for made, works in ((live, live_works), (test, test_works)):
            for find in (partial(ring.find, made.id), partial(ring.find_by_secret, made.secret)):
                await asking(find, partial(_stands, works), within_seconds=MACHINE_SECONDS)


def _stands(works: bool, known: KnownKey | None) -> bool:
    return (known is not None) is works
