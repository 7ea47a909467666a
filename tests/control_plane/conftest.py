"""The control plane as it runs, on a real Postgres: an app behind aiohttp's test server, and a client with the token."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from ostiary.control_plane.db import Connection, migrate
from ostiary.core.model import Configuration
from ostiary.demo.stores import EmbeddedPostgres
from tests.control_plane.support import Api, configuration_for, serving


@pytest.fixture
async def database(empty_database: str) -> str:
    """The URL of a database with the current schema."""
    await migrate(empty_database)
    return empty_database


@pytest.fixture
async def connection(database: str) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


@pytest.fixture(scope="session")
def shared_database(postgres_server: EmbeddedPostgres) -> str:
    """A database with the current schema, for all tests whose calls change nothing."""

    async def prepare() -> None:
        admin = await asyncpg.connect(postgres_server.url())
        await admin.execute("CREATE DATABASE control_plane_shared")
        await admin.close()
        await migrate(postgres_server.url("control_plane_shared"))

    asyncio.run(prepare())
    return postgres_server.url("control_plane_shared")


@pytest.fixture
async def refusing_api(shared_database: str) -> AsyncIterator[Api]:
    """For calls that are all refused; a change that got through is an error at the end of its test."""
    async with serving(configuration_for(shared_database)) as api:
        yield api
    connection = await asyncpg.connect(shared_database)
    try:
        assert await connection.fetchval("SELECT count(*) FROM organizations") == 0
        assert await connection.fetchval("SELECT count(*) FROM idempotency_keys") == 0
    finally:
        await connection.close()


@pytest.fixture
def configuration(database: str) -> Configuration:
    return configuration_for(database)


@pytest.fixture
async def api(configuration: Configuration) -> AsyncIterator[Api]:
    async with serving(configuration) as api:
        yield api
