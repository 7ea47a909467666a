"""What a cold key, many cold keys and a flood of made-up keys cost, and what happens while Postgres hangs."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor

import asyncpg
import pytest

from ostiary.core.errors import ErrorCode, GatewayError
from ostiary.gateway.keys import KnownKey, lookup
from ostiary.gateway.keys.cache import ABSENT_CAPACITY
from ostiary.gateway.keys.lookup import BATCH_MAX, DEADLINE_SECONDS, WAITING_MAX
from ostiary.gateway.signal import Drive, Signal
from tests.gateway.keys.conftest import KeyDatabase, RingMaker, answer, follow, make_key


@pytest.fixture
async def hanging_postgres() -> AsyncIterator[str]:
    """A server that takes connections and never says a word, as a stopped Postgres does."""
    writers: list[asyncio.StreamWriter] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    yield f"postgresql://ostiary@127.0.0.1:{port}/ostiary?sslmode=disable"
    server.close()
    for writer in writers:
        writer.close()


async def test_callers_with_one_unknown_key_share_one_query(database: KeyDatabase, ring_of: RingMaker) -> None:
    """Else a popular key that is cold (a new worker, a changed key) would be a burst on Postgres. Each caller needs a
    signal of its own: one coroutine waits for one signal."""
    made = await database.add()
    ring = ring_of(database.url)
    await follow(ring)
    found = [ring.find(made.id) for _ in range(500)]
    await asyncio.sleep(0)  # the query is under way
    found += [ring.find(made.id) for _ in range(500)]
    assert len({id(signal) for signal in found}) == 1_000
    answers = await asyncio.gather(*map(answer, found))
    assert all(isinstance(known, KnownKey) and known.key.id == made.id for known in answers)
    assert ring.status()["look_up_queries"] == 1
    assert ring.status()["look_ups_waiting"] == 0


async def test_many_cold_keys_share_few_queries(
    database: KeyDatabase, ring_of: RingMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a gateway that starts under load would ask Postgres once for each caller."""
    monkeypatch.setattr(lookup, "DEADLINE_SECONDS", 30.0)  # a busy machine takes its time to answer
    made = [await database.add() for _ in range(300)]
    ring = ring_of(database.url, database.envelope)
    await follow(ring)
    answers = await asyncio.gather(
        *(answer(ring.find(key.id)) for key in made[:150]),
        *(answer(ring.find_by_secret(key.secret)) for key in made[150:]),
    )
    assert [known.key.id for known in answers if known is not None] == [key.id for key in made]
    assert ring.status()["look_up_queries"] == -(-300 // BATCH_MAX)


async def test_flood_of_made_up_keys_takes_bounded_memory_and_few_queries(
    database: KeyDatabase, ring_of: RingMaker
) -> None:
    """Row 69: random keys in great number leave a bounded cache of absent ones behind, and good keys stay known."""
    made = await database.add()
    ring = ring_of(database.url)
    await follow(ring)
    known = await answer(ring.find(made.id))
    flood = ABSENT_CAPACITY + 2_000
    for start in range(0, flood, 2_000):
        keys = [make_key() for _ in range(2_000)]
        assert set(await asyncio.gather(*(answer(ring.find(key.id)) for key in keys))) == {None}
        assert start > flood - 4_000 or ring.status()["absent_keys"] == start + 2_000
    assert ring.status()["absent_keys"] == ABSENT_CAPACITY
    queries = ring.status()["look_up_queries"]
    assert isinstance(queries, int)
    assert queries < flood / BATCH_MAX * 1.5
    assert ring.find(made.id) is known


async def test_callers_beyond_the_bound_are_refused_at_once(hanging_postgres: str, ring_of: RingMaker) -> None:
    """Row 69: while Postgres hangs, at most WAITING_MAX callers wait and each for a bounded time; the rest is refused at once
    with 503. Else they would pile up, each with its connection and its body."""
    ring = ring_of(hanging_postgres)
    await ring.start()
    started = time.monotonic()
    waiting = [ring.find(make_key().id) for _ in range(WAITING_MAX)]
    beyond = ring.find(make_key().id)
    assert isinstance(beyond, Signal)
    assert beyond.done
    with pytest.raises(GatewayError) as raised:
        await answer(beyond)
    assert raised.value.code is ErrorCode.KEYS_UNAVAILABLE
    first = waiting.pop()
    assert isinstance(first, Signal)
    asked_again: list[object] = []

    async def ask_again() -> None:
        with contextlib.suppress(GatewayError):
            await first
        asked_again.append(ring.find(make_key().id))

    Drive(ask_again(), asked_again.append)
    for outcome in await asyncio.gather(*map(answer, waiting), return_exceptions=True):
        assert isinstance(outcome, GatewayError)
        assert outcome.code is ErrorCode.KEYS_UNAVAILABLE
    # Not one deadline after the other, as one look-up after the other would take.
    assert time.monotonic() - started < WAITING_MAX / BATCH_MAX * DEADLINE_SECONDS / 2
    assert ring.status()["look_ups_waiting"] == 0
    (again,) = asked_again
    assert isinstance(again, Signal)
    assert again.done, "nobody waits for a Postgres that has just failed"


async def test_connection_that_died_unnoticed_costs_no_caller_an_error(
    database: KeyDatabase, ring_of: RingMaker
) -> None:
    """Else each restart of Postgres would answer 503 once in every worker that had slept through it."""
    first, second = await database.add(), await database.add()
    ring = ring_of(database.url)
    await follow(ring)
    await answer(ring.find(first.id))
    await _end_look_up_connections(database)
    known = await answer(ring.find(second.id))
    assert known is not None
    assert ring.status()["look_up_failures"] == 0


async def _end_look_up_connections(database: KeyDatabase) -> None:
    """Returns before this loop can have seen that they ended: another thread does it, and this one waits for it."""

    async def end() -> None:
        connection = await asyncpg.connect(database.url)
        ended = await connection.fetchval(
            "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity "
            "WHERE application_name = 'ostiary gateway key look-up' AND datname = current_database()"
        )
        assert ended == 1
        await connection.close()

    with ThreadPoolExecutor(1) as threads:
        threads.submit(asyncio.run, end()).result()


async def test_key_that_changes_under_its_look_up_is_asked_for_again(database: KeyDatabase, ring_of: RingMaker) -> None:
    """Else an answer older than the revocation could be kept, after the revocation was announced and found nothing to
    remove: the key would work for ever."""
    made = await database.add()
    ring = ring_of(database.url)
    await follow(ring)
    finds: tuple[Callable[[], KnownKey | Signal[KnownKey | None] | None], ...] = (
        lambda: ring.find(made.id),
        lambda: ring.find_by_secret(made.secret),
    )
    for find in finds:
        queries = ring.status()["look_up_queries"]
        ring._cache.forget(made.id)
        found = find()
        await asyncio.sleep(0)  # the query is under way
        ring._cache.forget(made.id)  # as the announcement does
        assert await answer(found) is not None
        assert ring.status()["look_up_queries"] == queries + 2  # type: ignore[operator]
        assert isinstance(ring.find(made.id), KnownKey)


async def test_answer_of_a_query_from_before_the_feed_is_not_kept(database: KeyDatabase, ring_of: RingMaker) -> None:
    """Else a key that was revoked after the query saw it, and before the feed listened, would work until the next sweep."""
    made = await database.add()
    ring = ring_of(database.url)
    await follow(ring)
    found = ring.find(made.id)
    await asyncio.sleep(0)  # the query is under way
    ring._cache.following(True)  # as the feed does when it has connected
    assert await answer(found) is not None
    assert isinstance(ring.find(made.id), Signal)


async def test_absence_found_before_a_change_is_not_kept(database: KeyDatabase, ring_of: RingMaker) -> None:
    """Else a key made while it was being looked for would be unknown here for ABSENT_SECONDS."""
    made = make_key()
    ring = ring_of(database.url)
    await follow(ring)
    found = ring.find_by_secret(made.secret)
    await asyncio.sleep(0)  # the query is under way
    ring._cache.forget(made.id)  # as the announcement of its creation does
    assert await answer(found) is None
    assert isinstance(ring.find_by_secret(made.secret), Signal)


async def test_request_that_fails_when_it_gets_its_key_costs_no_other_its_answer(
    database: KeyDatabase, ring_of: RingMaker
) -> None:
    """Else one bug in the request path would leave every request of the same query waiting for ever."""
    made, other = await database.add(), await database.add()
    ring = ring_of(database.url)
    await follow(ring)
    found = ring.find(made.id)
    assert isinstance(found, Signal)

    async def fail() -> None:
        await found
        raise RuntimeError("a bug")

    def fail_again(error: BaseException) -> None:
        raise error

    Drive(fail(), fail_again)
    assert await answer(ring.find(other.id)) is not None
    assert ring.status()["look_ups_waiting"] == 0
