"""The embedded servers that the demo and all other tests stand on."""

import asyncpg
import redis

from ostiary.demo.stores import EmbeddedValkey


async def test_postgres_answers(empty_database: str) -> None:
    connection = await asyncpg.connect(empty_database)
    assert await connection.fetchval("SELECT 6 * 7") == 42
    await connection.close()


def test_valkey_keeps_its_port_over_a_crash(own_valkey: EmbeddedValkey) -> None:
    port = own_valkey.port
    own_valkey.kill()
    own_valkey.start()
    assert own_valkey.port == port
    with redis.Redis.from_url(own_valkey.url()) as client:
        assert client.ping()
