"""A revocation holds within seconds, whatever is done to the connection that tells of it."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from urllib.parse import parse_qs, urlsplit

import asyncpg

from ostiary.demo.stores import EmbeddedPostgres
from tests.gateway.keys.conftest import KeyDatabase, RingMaker, answer, follow, make_key, until
from tests.gateway.keys.test_feed import FEED, asking, refused
from tests.support.fault_proxy import Ending, FaultProxy, Faults, fault_proxy
from tests.support.waiting import MACHINE_SECONDS

# What the contract of the change feed allows where notifications are cut; where they are not, it is one second.
WITHIN_SECONDS = 5.0


@asynccontextmanager
async def over_tcp(postgres_url: str) -> AsyncIterator[FaultProxy]:
    """A proxy before the socket of a Postgres that listens on no port."""
    path = f"{parse_qs(urlsplit(postgres_url).query)['host'][0]}/.s.PGSQL.5432"

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65_536):
                sink.write(data)
        except ConnectionError:
            pass
        sink.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_unix_connection(path)
        await asyncio.gather(pump(reader, to_server), pump(from_server, writer))

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    async with server, fault_proxy("127.0.0.1", server.sockets[0].getsockname()[1]) as proxy:
        yield proxy


async def test_a_revocation_holds_although_the_listening_connection_is_killed_each_time(
    database: KeyDatabase, ring_of: RingMaker
) -> None:
    """Row 70: an administrator, or a pooler's idle time, that ends sessions would keep a revoked key alive."""
    ring = ring_of(database.url)
    await follow(ring)
    slowest = 0.0
    for _ in range(5):
        made = await database.add()
        assert await answer(ring.find(made.id)) is not None
        await database.connection.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {FEED}")  # noqa: S608
        await database.revoke(made)
        slowest = max(slowest, await refused(ring, made, within_seconds=WITHIN_SECONDS))
    print(f"refused after at most {slowest:.3f} s")
    connects = ring.status()["feed_connects"]
    assert isinstance(connects, int)
    assert connects > 1, "the connection was killed"


async def test_a_revocation_made_while_a_proxy_swallows_everything_holds_after_it(
    database: KeyDatabase, ring_of: RingMaker
) -> None:
    """Rows 70, 117: a firewall that forgets connections, and drops what is said on them, would keep every revocation away
    for as long as TCP tries. Known keys work on meanwhile."""
    async with over_tcp(database.url) as proxy:
        name = urlsplit(database.url).path
        ring = ring_of(f"postgresql://postgres@127.0.0.1:{proxy.port}{name}?sslmode=disable")
        await follow(ring)
        revoked, kept = await database.add(), await database.add()
        for made in (revoked, kept):
            assert await answer(ring.find(made.id)) is not None
        proxy.to_client = proxy.to_server = Faults(ending=Ending.BLACKHOLE)
        await database.revoke(revoked)
        await until(lambda: ring.status()["following_changes"] is False)
        assert await answer(ring.find(kept.id)) is not None
        proxy.reset()
        proxy.to_client = proxy.to_server = Faults()
        await refused(ring, revoked, within_seconds=WITHIN_SECONDS)
        assert await answer(ring.find(kept.id)) is not None
        await ring.close()


async def test_a_revocation_made_right_after_a_restart_of_postgres_holds(
    own_postgres: EmbeddedPostgres, ring_of: RingMaker
) -> None:
    """Rows 70, 86: gateways come back later than the operator; what was announced in between, nobody heard."""
    connection = await asyncpg.connect(own_postgres.url())
    database = KeyDatabase(own_postgres.url(), connection)
    await database.migrate()
    ring = ring_of(own_postgres.url())
    await follow(ring)
    keys = [await database.add() for _ in range(2)]
    for made in keys:
        assert await answer(ring.find(made.id)) is not None
    connection.terminate()
    await asyncio.to_thread(own_postgres.pg_ctl, "stop", "-m", "fast")
    await asyncio.to_thread(own_postgres.start_again)
    connection = database.connection = await asyncpg.connect(own_postgres.url())
    await database.revoke(keys[0])
    await refused(ring, keys[0], within_seconds=WITHIN_SECONDS)
    assert await answer(ring.find(keys[1].id)) is not None
    connection.terminate()


async def test_a_worker_that_has_just_started_misses_no_revocation(database: KeyDatabase, ring_of: RingMaker) -> None:
    """Row 70: between a worker's first look-up and its first notification a revocation could fall unheard, and the key
    work there until it is evicted."""
    chance = random.Random(70)
    for _ in range(20):
        made = await database.add()
        ring = ring_of(database.url)
        await ring.start()
        looked_up = asyncio.create_task(answer(ring.find(made.id)))
        await asyncio.sleep(chance.uniform(0, 0.02))
        await database.revoke(made)
        await refused(ring, made, within_seconds=WITHIN_SECONDS)
        await looked_up
        await ring.close()


async def test_a_key_that_is_asked_for_all_along_works_as_soon_as_it_is_made(
    database: KeyDatabase, ring_of: RingMaker
) -> None:
    """A client that starts before its key is made would be refused for as long as it goes on trying: each attempt could
    renew what is known of its absence."""
    ring = ring_of(database.url)
    await follow(ring)
    for _ in range(5):
        find = partial(ring.find_by_secret, (made := make_key()).secret)
        trying = asyncio.create_task(asking(find, lambda known: known is not None, within_seconds=5))
        await until(lambda: ring.status()["absent_keys"] != 0)
        started = time.monotonic()
        await database.add(made)
        await trying
        assert time.monotonic() - started < 1.0 + MACHINE_SECONDS
