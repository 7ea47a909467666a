"""The control plane as it runs, on a real Postgres: an app behind aiohttp's test server, and a client with the token."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator

import asyncpg
import pytest

from ostiary.control_plane.db import Connection, grant
from ostiary.core.model import Configuration
from ostiary.demo.stores import EmbeddedPostgres
from tests.control_plane.support import SERVICE_ROLE, Api, configuration_for, serving, url_for
from tests.support.databases import database_on

_numbers = itertools.count()


@pytest.fixture(scope="session")
def service_role(postgres_server: EmbeddedPostgres) -> str:
    """The role that the control plane runs as. It is the server's, its rights are those of each database."""

    async def make() -> None:
        admin = await asyncpg.connect(postgres_server.url())
        await admin.execute(f"CREATE ROLE {SERVICE_ROLE} LOGIN")
        await admin.close()

    asyncio.run(make())
    return SERVICE_ROLE


@pytest.fixture(scope="session")
def granted_schema(postgres_server: EmbeddedPostgres, current_schema: str, service_role: str) -> str:
    """As `current_schema`, and the service's role has its rights in it."""

    async def prepare() -> None:
        admin = await asyncpg.connect(postgres_server.url())
        await admin.execute(f"CREATE DATABASE granted_schema TEMPLATE {current_schema}")
        await admin.close()
        await grant(postgres_server.url("granted_schema"), service_role)

    asyncio.run(prepare())
    return "granted_schema"


@pytest.fixture
async def database(postgres_server: EmbeddedPostgres, granted_schema: str) -> AsyncIterator[str]:
    """The owner's URL of a database with the current schema, in which the service's role has its rights."""
    name = f"control_plane_{next(_numbers)}"
    async with database_on(postgres_server, name, template=granted_schema):
        yield postgres_server.url(name)


@pytest.fixture
async def connection(database: str) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


@pytest.fixture(scope="session")
def shared_database(postgres_server: EmbeddedPostgres, granted_schema: str) -> str:
    """A database with the current schema, for all tests whose calls change nothing."""

    async def prepare() -> None:
        admin = await asyncpg.connect(postgres_server.url())
        await admin.execute(f"CREATE DATABASE control_plane_shared TEMPLATE {granted_schema}")
        await admin.close()

    asyncio.run(prepare())
    return postgres_server.url("control_plane_shared")


@pytest.fixture
async def refusing_api(shared_database: str) -> AsyncIterator[Api]:
    """For calls that are all refused; a change that got through is an error at the end of its test."""
    async with serving(configuration_for(url_for(SERVICE_ROLE, shared_database))) as api:
        yield api
    connection = await asyncpg.connect(shared_database)
    try:
        assert await connection.fetchval("SELECT count(*) FROM organizations") == 0
        assert await connection.fetchval("SELECT count(*) FROM idempotency_keys") == 0
    finally:
        await connection.close()


@pytest.fixture
def configuration(database: str) -> Configuration:
    return configuration_for(url_for(SERVICE_ROLE, database))


@pytest.fixture
async def api(configuration: Configuration) -> AsyncIterator[Api]:
    async with serving(configuration) as api:
        yield api
