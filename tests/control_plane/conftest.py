"""The control plane as it runs, on a real Postgres: an app behind aiohttp's test server, and a client with the token."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest
from aiohttp.test_utils import TestClient, TestServer

from ostiary.control_plane import build_app
from ostiary.control_plane.db import Connection, migrate
from ostiary.core.model import Configuration
from tests.control_plane.support import Api, configuration_for


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


@pytest.fixture
def configuration(database: str) -> Configuration:
    return configuration_for(database)


@pytest.fixture
async def api(configuration: Configuration) -> AsyncIterator[Api]:
    async with TestClient(TestServer(await build_app(configuration))) as client:
        yield Api(client)
